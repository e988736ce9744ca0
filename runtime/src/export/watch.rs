//! Who watches an export.

use std::ops::ControlFlow;

/// What a program shows of an export, and whether it goes on. `()` shows nothing.
pub trait Watch {
    /// A line of what is done.
    fn say(&mut self, _line: &str) {}

    /// A line that the user should know.
    fn note(&mut self, _line: &str) {}

    /// How many tensors are written, and of how many. Where it breaks off, nothing is left behind.
    fn wrote(&mut self, _done: usize, _total: usize) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

impl Watch for () {}
