//! By which clock work is measured.

use halfbyte::{Backend, Cpu, Cuda, Result};
use std::time::Instant;

/// Seconds of some work.
pub trait Clock: Backend {
    fn seconds(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<f64>;

    /// Bytes to overwrite before each run, so that nothing is in a cache. (Small inputs of one layer would be, in a
    /// loop over one op; in a model, hundreds of megabytes of other weights come between.)
    const FLUSH: usize;
}

impl Clock for Cpu {
    const FLUSH: usize = 1 << 26;

    fn seconds(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<f64> {
        let start = Instant::now();
        work()?;
        Ok(start.elapsed().as_secs_f64())
    }
}

impl Clock for Cuda {
    const FLUSH: usize = 1 << 28;

    fn seconds(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<f64> {
        self.time(work)
    }
}
