//! The machine, as a backend.

/// The machine's own cores and memory.
#[derive(Debug, Default, Clone, Copy)]
pub struct Cpu;

impl Cpu {
    /// Needs nothing and cannot fail.
    pub fn new() -> Self {
        Cpu
    }
}
