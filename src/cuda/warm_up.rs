//! Opening cuBLASLt while something else is done: the library and its first plan take 0.1 to 0.3 s.

use super::{blas::Blas, stream::Queue};
use parking_lot::Mutex;
use std::{
    sync::Arc,
    thread::{Builder, JoinHandle},
};

/// The thread at work, which whoever drops this waits for: a process should not end while a library is being opened.
#[derive(Default)]
pub(super) struct Background(Mutex<Option<JoinHandle<()>>>);

impl Drop for Background {
    fn drop(&mut self) {
        // A thread that panicked has opened nothing.
        let _ = self.0.get_mut().take().map(JoinHandle::join);
    }
}

impl Background {
    /// Where it fails, the first large product tries again, and says what is wrong.
    pub(super) fn open(&self, blas: &Arc<Blas>, queue: &Arc<Queue>) {
        let mut thread = self.0.lock();
        if thread.is_none() {
            let (blas, queue) = (blas.clone(), queue.clone());
            *thread = Builder::new().name("cublaslt".into()).spawn(move || open(&blas, &queue)).ok();
        }
    }
}

fn open(blas: &Blas, queue: &Queue) {
    if queue.context.bind_to_thread().is_ok() {
        let _ = blas.plan_something();
    }
}
