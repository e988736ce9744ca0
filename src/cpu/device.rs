//! The machine, as a backend.

use crate::profile::Profiler;
use std::time::Instant;

/// Of all `Cpu`s of the process.
pub(super) static PROFILER: Profiler<Instant> = Profiler::new();

/// The machine's own cores and memory.
#[derive(Debug, Default, Clone, Copy)]
pub struct Cpu;

impl Cpu {
    /// Needs nothing and cannot fail.
    pub fn new() -> Self {
        Cpu
    }
}
