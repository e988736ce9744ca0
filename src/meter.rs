use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes that a backend's buffers take, scratch memory included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemoryUse {
    /// Of those that live.
    pub allocated: usize,
    /// The most that they ever took, or since [`crate::backend::Backend::restart_peak`].
    pub peak: usize,
}

/// Counts them.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    now: AtomicUsize,
    peak: AtomicUsize,
}

impl Meter {
    pub(crate) const fn new() -> Self {
        Meter { now: AtomicUsize::new(0), peak: AtomicUsize::new(0) }
    }

    pub(crate) fn add(&self, bytes: usize) {
        let now = self.now.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.peak.fetch_max(now, Ordering::Relaxed);
    }

    pub(crate) fn sub(&self, bytes: usize) {
        self.now.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub(crate) fn restart_peak(&self) {
        self.peak.store(self.now.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> MemoryUse {
        MemoryUse { allocated: self.now.load(Ordering::Relaxed), peak: self.peak.load(Ordering::Relaxed) }
    }
}
