//! The host's memory: how much is free, and vectors that are refused where there is too little.
//!
//! Linux grants nearly every request, and ends a process later, when it touches more than there is. So whatever may be
//! large is compared with what is free before it is asked for.
mod system;

use crate::{
    element::{self, Element},
    error::{Error, Result},
    meter::Meter,
};
use std::{
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
};

/// Bytes that are granted without asking the system, which takes about as long as filling a MiB.
const UNASKED: usize = 64 << 20;

/// Bytes granted since the system was asked.
static GRANTED: AtomicUsize = AtomicUsize::new(0);

/// The CPU backend's buffers. There is one machine, and so one count for all `Cpu`s.
pub(crate) static BUFFERS: Meter = Meter::new();

/// Bytes that this process can still take, by the machine's memory and swap and the limits of its cgroups; none where
/// the system does not say.
///
/// Pages of the CPU backend's buffers that were never touched are not used yet, but promised. How many they are is known
/// only as the bytes by which all buffers exceed what the process holds, so what it holds besides hides as much of them.
pub fn free() -> Option<usize> {
    let root = Path::new("/");
    let promised = BUFFERS.read().allocated.saturating_sub(system::held(root)?);
    Some(system::available(root)?.saturating_sub(promised))
}

/// The most bytes that this process ever had in the host's memory: buffers, everything else, and the pages of mapped
/// files, which the system takes back when it needs them. None where the system does not say.
pub fn process_peak() -> Option<usize> {
    system::peak(Path::new("/"))
}

/// Whether `bytes` more fit into what is free.
///
/// # Errors
/// They do not.
pub fn check(bytes: usize) -> Result<()> {
    // A large one is not added: the sum could wrap.
    if bytes < UNASKED && GRANTED.fetch_add(bytes, Ordering::Relaxed) + bytes < UNASKED {
        return Ok(());
    }
    GRANTED.store(0, Ordering::Relaxed);
    match free() {
        Some(free) if bytes > free => Err(Error::OutOfMemory { bytes, free: Some(free) }),
        _ => Ok(()),
    }
}

/// An empty vector with room for `len` elements.
///
/// # Errors
/// There is too little memory.
pub fn room<T>(len: usize) -> Result<Vec<T>> {
    let bytes = element::bytes::<T>(len)?;
    check(bytes)?;
    let mut vec = Vec::new();
    vec.try_reserve_exact(len).map_err(|_| out_of_memory(bytes))?;
    Ok(vec)
}

/// `len` zeros.
///
/// # Errors
/// There is too little memory.
pub fn zeros<T: Element>(len: usize) -> Result<Vec<T>> {
    let bytes = element::bytes::<T>(len)?;
    check(bytes)?;
    bytemuck::allocation::try_zeroed_vec(len).map_err(|()| out_of_memory(bytes))
}

/// What `elements` yields, which are about `len`.
///
/// # Errors
/// There is too little memory for `len`.
pub fn collect<T>(len: usize, elements: impl IntoIterator<Item = T>) -> Result<Vec<T>> {
    let mut vec = room(len)?;
    vec.extend(elements);
    Ok(vec)
}

/// What is to be said when the allocator has refused.
fn out_of_memory(bytes: usize) -> Error {
    Error::OutOfMemory { bytes, free: free() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_that_no_machine_has_room_for_are_refused() {
        let error = room::<u8>(isize::MAX as usize).unwrap_err().to_string();
        assert!(error.contains("8589934592.0 GiB"), "{error}");
        assert!(room::<u32>(usize::MAX / 4 + 1).is_err(), "bytes that cannot be counted");
        assert_eq!(collect(3, [1, 2, 3]).unwrap(), [1, 2, 3]);
    }

    #[test]
    fn what_the_system_says_is_understood() {
        if !cfg!(target_os = "linux") {
            return;
        }
        let (free, peak) = (free().unwrap(), process_peak().unwrap());
        assert!(free > 1 << 20 && free < 1 << 50, "{free} bytes free");
        assert!(peak > 1 << 18 && peak < 1 << 50, "{peak} bytes at most");
    }
}
