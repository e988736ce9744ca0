//! Samples into micro-batches that they fill.

/// Puts each item into the first bin that has room for it, opening bins as needed.
///
/// A tree over the bins' free room finds that bin in O(log n). Each length must be at most `capacity`.
pub(super) fn first_fit(lengths: &[usize], capacity: usize) -> Vec<Vec<usize>> {
    let leaves = lengths.len().next_power_of_two();
    // room[1] is the root, room[leaves + b] bin b; each inner node holds the larger of its two children.
    let mut room = vec![capacity; 2 * leaves];
    let mut bins = Vec::new();
    for (item, &length) in lengths.iter().enumerate() {
        let mut node = 1;
        while node < leaves {
            node = if room[2 * node] >= length { 2 * node } else { 2 * node + 1 };
        }
        let bin = node - leaves;
        if bin == bins.len() {
            bins.push(Vec::new());
        }
        bins[bin].push(item);
        room[node] -= length;
        while node > 1 {
            node /= 2;
            room[node] = room[2 * node].max(room[2 * node + 1]);
        }
    }
    bins
}
