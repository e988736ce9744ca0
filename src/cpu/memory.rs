//! Views of the CPU's memory as slices.
#![allow(unsafe_code)]

use crate::{Cpu, Element, Error, Parts, Result, Storage, View, ViewMut, element};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Bytes of all buffers of this process now, and at most.
static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

/// The elements of a buffer, counted as long as they live.
pub struct Memory<T: Element>(Vec<T>);

impl<T: Element> Memory<T> {
    /// `len` zeros.
    pub(super) fn zeros(len: usize) -> Result<Self> {
        let bytes = expect_room::<T>(len)?;
        let zeros = bytemuck::allocation::try_zeroed_vec(len).map_err(|()| out_of_memory(bytes))?;
        Ok(Self::counted(zeros))
    }

    pub(super) fn copy_of(host: &[T]) -> Result<Self> {
        let bytes = expect_room::<T>(host.len())?;
        let mut copy = Vec::new();
        copy.try_reserve_exact(host.len()).map_err(|_| out_of_memory(bytes))?;
        copy.extend_from_slice(host);
        Ok(Self::counted(copy))
    }

    fn counted(values: Vec<T>) -> Self {
        let bytes = size_of_val(values.as_slice());
        let now = NOW.fetch_add(bytes, Relaxed) + bytes;
        PEAK.fetch_max(now, Relaxed);
        Memory(values)
    }
}

impl<T: Element> Drop for Memory<T> {
    fn drop(&mut self) {
        NOW.fetch_sub(size_of_val(self.0.as_slice()), Relaxed);
    }
}

/// Bytes of all buffers of this process now, and at most.
pub(super) fn in_use() -> (usize, usize) {
    (NOW.load(Relaxed), PEAK.load(Relaxed))
}

fn out_of_memory(bytes: usize) -> Error {
    Error::OutOfMemory { bytes, free: free_memory() }
}

/// The bytes of `len` elements, if there is room for them. An operating system may grant what it does not have and end
/// the program when it is written; so what is large is compared with what is free.
fn expect_room<T>(len: usize) -> Result<usize> {
    const LARGE: usize = 64 << 20;
    let bytes = element::bytes::<T>(len)?;
    if bytes >= LARGE && free_memory().is_some_and(|free| free < bytes) {
        return Err(out_of_memory(bytes));
    }
    Ok(bytes)
}

/// Bytes that this process can still write to, where the system tells: of the machine and of its control group, less what
/// the buffers have been granted but not written yet.
pub fn free_memory() -> Option<usize> {
    let machine = kibibytes("/proc/meminfo", "MemAvailable:")?;
    let group = [
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.stat", "inactive_file "),
        (
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/memory.usage_in_bytes",
            "/sys/fs/cgroup/memory/memory.stat",
            "total_inactive_file ",
        ),
    ];
    let left = |(limit, used, stat, pages): (&str, &str, &str, &str)| {
        let read = |path| std::fs::read_to_string(path).ok()?.trim().parse::<usize>().ok();
        let pages = line(stat, pages).and_then(|bytes| bytes.parse().ok()).unwrap_or(0);
        Some((read(limit)?.saturating_add(pages)).saturating_sub(read(used)?))
    };
    let free = group.into_iter().filter_map(left).fold(machine, usize::min);
    let written = kibibytes("/proc/self/status", "RssAnon:").unwrap_or(0);
    Some(free.saturating_sub(in_use().0.saturating_sub(written)))
}

/// The most memory that this process ever had, pages of mapped files among it, where the system tells.
pub fn process_peak() -> Option<usize> {
    kibibytes("/proc/self/status", "VmHWM:")
}

/// What follows `name` in its line of a file.
fn line(path: &str, name: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| line.strip_prefix(name)).map(|rest| rest.trim().to_owned())
}

/// Bytes, of a line such as `VmHWM:     1234 kB`.
fn kibibytes(path: &str, name: &str) -> Option<usize> {
    line(path, name)?.strip_suffix("kB")?.trim().parse::<usize>().ok()?.checked_mul(1024)
}

// SAFETY: a vector's buffer stays where it is while the vector is not changed, and no one changes these.
// All CPU memory is one address space, and nothing is recorded.
unsafe impl Storage for Cpu {
    type Memory<T: Element> = Memory<T>;
    type Owner = ();

    fn parts<T: Element>(memory: &Memory<T>) -> Parts<'_, *const T, ()> {
        Parts { ptr: memory.0.as_ptr(), len: memory.0.len(), owner: &() }
    }

    fn parts_mut<T: Element>(memory: &mut Memory<T>) -> Parts<'_, *mut T, ()> {
        Parts { ptr: memory.0.as_mut_ptr(), len: memory.0.len(), owner: &() }
    }

    fn admit(&self, _owner: &()) -> bool {
        true
    }
}

impl<'a, T: Element> View<'a, Cpu, T> {
    /// The elements.
    pub(super) fn slice(self) -> &'a [T] {
        // SAFETY: a view of the CPU's memory borrows that many elements of a vector for `'a` (`Storage for Cpu`).
        unsafe { std::slice::from_raw_parts(self.as_ptr(), self.len()) }
    }
}

impl<'a, T: Element> ViewMut<'a, Cpu, T> {
    /// The elements.
    pub(super) fn into_slice(mut self) -> &'a mut [T] {
        // SAFETY: a mutable view of the CPU's memory borrows that many elements of a vector exclusively for `'a`.
        unsafe { std::slice::from_raw_parts_mut(self.as_mut_ptr(), self.len()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Backend, Buf};

    #[test]
    fn buffers_are_counted_while_they_live() {
        // Other tests have theirs, far smaller ones.
        const LARGE: usize = 256 << 20;
        let before = in_use().0;
        let buf = Cpu.zeros::<u8>(LARGE).unwrap();
        assert!(in_use().0 > before + LARGE / 2 && in_use().1 > before + LARGE / 2);
        drop(buf);
        assert!(in_use().0 < before + LARGE / 2);
    }

    /// The operating system grants each of these, and would end the process once they are written.
    #[test]
    fn more_than_is_free_is_refused_also_bit_by_bit() {
        let Some(free) = free_memory() else { return };
        let Err(error) = Cpu.zeros::<u8>(2 * free) else { panic!("twice the memory was granted") };
        assert!(matches!(error, Error::OutOfMemory { free: Some(_), .. }), "{error}");
        let piece = (free / 8).max(64 << 20);
        let granted: Vec<Buf<Cpu, u8>> = (0..16).map_while(|_| Cpu.zeros(piece).ok()).collect();
        assert!(granted.len() * piece <= free + piece, "{} pieces of an eighth were granted", granted.len());
    }
}
