//! Samples into micro-batches that they fill.

use std::cmp::Reverse;
use std::collections::BTreeSet;

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

/// Puts each item, the longest first, into the fullest bin that has room for it, opening bins as needed (best-fit
/// decreasing: Johnson, "Near-optimal bin packing algorithms", MIT 1973). Equal items keep their order, and bins come in
/// that of their longest items, so that where these are in random order, bins are.
///
/// Each length must be at most `capacity`.
pub(super) fn best_fit(lengths: &[usize], capacity: usize) -> Vec<Vec<usize>> {
    let mut items: Vec<_> = (0..lengths.len()).collect();
    items.sort_by_key(|&item| Reverse(lengths[item]));
    let mut bins: Vec<Vec<usize>> = Vec::new();
    // Each with the room that is left, the fullest first.
    let mut rooms = BTreeSet::new();
    for item in items {
        let found = rooms.range((lengths[item], 0)..).next().copied();
        let (room, bin) = found.unwrap_or((capacity, bins.len()));
        rooms.remove(&(room, bin));
        if bin == bins.len() {
            bins.push(Vec::new());
        }
        bins[bin].push(item);
        rooms.insert((room - lengths[item], bin));
    }
    bins.sort_unstable_by_key(|bin| bin[0]);
    bins
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fills(bins: &[Vec<usize>], lengths: &[usize]) -> Vec<usize> {
        bins.iter().map(|bin| bin.iter().map(|&item| lengths[item]).sum()).collect()
    }

    #[test]
    fn the_fullest_bin_with_room_takes_the_longest_item() {
        // 6 and 4, 5 and 5, 3 with 3 and 2: first fit needs a fourth bin.
        let lengths = [2, 3, 5, 3, 4, 6, 5];
        assert_eq!(best_fit(&lengths, 10), [vec![1, 3, 0], vec![2, 6], vec![5, 4]]);
        assert_eq!(fills(&first_fit(&lengths, 10), &lengths), [10, 7, 6, 5]);
        assert!(best_fit(&[], 10).is_empty());
        assert_eq!(best_fit(&[10, 10], 10), [[0], [1]]);
    }

    /// Against the search of all bins, and never worse than 11/9 of what must be needed, and a bin.
    #[test]
    fn bins_are_those_of_a_plain_search() {
        for seed in 0..50 {
            let lengths: Vec<usize> = (0..200)
                .map(|i| 1 + halfbyte::rng::philox([i, 0, 0, 0], seed)[0] as usize % (5 + 2 * seed as usize))
                .collect();
            let (capacity, mut bins) = (110, Vec::<Vec<usize>>::new());
            let mut items: Vec<_> = (0..lengths.len()).collect();
            items.sort_by_key(|&item| Reverse(lengths[item]));
            for item in items {
                let fill = |bin: &Vec<usize>| bin.iter().map(|&item| lengths[item]).sum::<usize>();
                let fits = (0..bins.len()).filter(|&bin| fill(&bins[bin]) + lengths[item] <= capacity);
                match fits.min_by_key(|&bin| (capacity - fill(&bins[bin]), bin)) {
                    Some(bin) => bins[bin].push(item),
                    None => bins.push(vec![item]),
                }
            }
            bins.sort_by_key(|bin| bin[0]);
            assert_eq!(best_fit(&lengths, capacity), bins, "seed {seed}");
            let least = lengths.iter().sum::<usize>().div_ceil(capacity);
            assert!(bins.len() * 9 <= least * 11 + 9, "seed {seed}: {} bins, {least} needed", bins.len());
        }
    }
}
