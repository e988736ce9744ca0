//! Memory in pages of two megabytes, where Linux has them.
//!
//! A product of one row reads a weight from end to end: in pages of four kilobytes a core reads two thirds as fast, since
//! it looks every page up, and twice over in a virtual machine. Weights of a small model are no larger than a large page,
//! so buffers lie in maps that they share, one after the other.
#![allow(unsafe_code)]

use memmap2::{Advice, MmapMut, MmapRaw, UncheckedAdvice};
use parking_lot::Mutex;
use std::{ops::Range, sync::Arc};

/// Bytes of a large page.
const LARGE: usize = 2 << 20;
/// What is given back begins and ends at multiples of this: whole pages of any system.
const SMALL: usize = 64 << 10;
/// The least that a buffer must have.
const LEAST: usize = 32 << 10;
/// Bytes of a map that is shared.
const SHARED: usize = 4 << 20;
/// Where buffers begin: at a cache line.
const ALIGN: usize = 64;

/// The map in which the next buffer begins, and where.
static LAST: Mutex<Option<(Arc<MmapRaw>, usize)>> = Mutex::new(None);

/// A part of a map, zeros at first.
#[derive(Debug)]
pub(super) struct Part {
    map: Arc<MmapRaw>,
    bytes: Range<usize>,
}

impl Part {
    /// Whether a buffer of so many bytes is worth it.
    pub(super) fn suits(bytes: usize) -> bool {
        bytes >= LEAST
    }

    /// Nothing where the system has no room.
    pub(super) fn new(bytes: usize) -> Option<Self> {
        if bytes > SHARED / 4 {
            let (map, start) = map(bytes)?;
            return Some(Part { map, bytes: start..start + bytes });
        }
        let mut last = LAST.lock();
        let fits = |(map, start): &(Arc<MmapRaw>, usize)| map.len() - start >= bytes;
        let (map, start) = match last.take().filter(fits) {
            Some(last) => last,
            None => map(SHARED)?,
        };
        let end = start + bytes;
        *last = Some((map.clone(), end.next_multiple_of(ALIGN).min(map.len())));
        Some(Part { map, bytes: start..end })
    }

    pub(super) fn as_ptr(&self) -> *mut u8 {
        // SAFETY: `new` made the range within the map.
        unsafe { self.map.as_mut_ptr().add(self.bytes.start) }
    }
}

/// A map with room for so many bytes from a large page's beginning on, and where that is.
fn map(bytes: usize) -> Option<(Arc<MmapRaw>, usize)> {
    let map: MmapRaw = MmapMut::map_anon(bytes.checked_add(LARGE)?).ok()?.into();
    // Without large pages it is memory as any other.
    _ = map.advise(Advice::HugePage);
    let start = map.as_ptr().align_offset(LARGE);
    Some((Arc::new(map), start))
}

impl Drop for Part {
    /// Gives whole pages back; the map goes with its last part.
    fn drop(&mut self) {
        let (start, end) = (self.bytes.start.next_multiple_of(SMALL), self.bytes.end / SMALL * SMALL);
        if start < end {
            // SAFETY: a map begins with a page, so that by `SMALL` these are whole pages, and they are of this part alone, which
            // nobody has any more; no later part begins before its end.
            _ = unsafe { self.map.unchecked_advise_range(UncheckedAdvice::DontNeed, start, end - start) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_zeros_and_do_not_overlap() {
        let sizes = [1, 63, 64, 100_000, LARGE, 3 * LARGE + 5, SHARED / 4, SHARED / 4 + 1, SHARED - 1, 9];
        let parts: Vec<_> = sizes.into_iter().cycle().take(40).map(|bytes| Part::new(bytes).unwrap()).collect();
        for (i, part) in parts.iter().enumerate() {
            assert_eq!(part.as_ptr().align_offset(ALIGN), 0);
            assert!(part.bytes.end <= part.map.len());
            // SAFETY: the part is this test's, and nobody else has its bytes.
            let bytes = unsafe { std::slice::from_raw_parts_mut(part.as_ptr(), part.bytes.len()) };
            assert!(bytes.iter().all(|byte| *byte == 0), "part {i}");
            bytes.fill(i as u8 + 1);
        }
        // What one gives back takes nothing of its neighbours.
        let (gone, left): (Vec<_>, Vec<_>) = parts.into_iter().enumerate().partition(|(i, _)| i.is_multiple_of(3));
        drop(gone);
        for (i, part) in left {
            // SAFETY: the part is this test's, and nobody else has its bytes.
            let bytes = unsafe { std::slice::from_raw_parts(part.as_ptr(), part.bytes.len()) };
            assert!(bytes.iter().all(|byte| *byte == i as u8 + 1), "part {i}");
        }
    }

    #[test]
    fn more_than_can_be_mapped_is_refused() {
        assert!(Part::new(usize::MAX).is_none() && Part::new(1 << 60).is_none());
    }
}
