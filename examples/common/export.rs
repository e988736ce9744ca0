//! How exports are shown.

use super::{note, progress_bar, say};
use halfbyte_runtime::export::Watch;
use indicatif::ProgressBar;
use std::ops::ControlFlow;

/// Lines, and a bar while tensors are written.
pub struct Shown(ProgressBar);

impl Shown {
    pub fn new() -> Self {
        Shown(progress_bar("tensors"))
    }
}

impl Watch for Shown {
    fn say(&mut self, line: &str) {
        self.0.suspend(|| say!("{line}"));
    }

    fn note(&mut self, line: &str) {
        self.0.suspend(|| note!("{line}"));
    }

    fn wrote(&mut self, done: usize, total: usize) -> ControlFlow<()> {
        self.0.set_length(total as u64);
        self.0.set_position(done as u64);
        ControlFlow::Continue(())
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
