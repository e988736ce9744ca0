//! The threads of the CPU backend.
//!
//! A token is more than a hundred loops of some microseconds each, so that a loop must begin and end within one. Workers
//! wait for the next loop by looking for it, and sleep only when none came for a while.
#![allow(unsafe_code)]

use parking_lot::{Mutex, MutexGuard};
use std::{
    any::Any,
    cell::UnsafeCell,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        LazyLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread::{self, Thread},
    time::{Duration, Instant},
};

/// How long a worker looks for the next loop before it sleeps.
const PATIENCE: Duration = Duration::from_micros(200);
/// Looks between two of the clock, and before a processor is left to others.
const LOOKS: u32 = 64;

/// The threads that a loop may have, the caller's included; 0 before anybody asked.
static THREADS: AtomicUsize = AtomicUsize::new(0);
static POOL: LazyLock<Pool> = LazyLock::new(Pool::default);

/// How many threads loops of the CPU backend have, the caller's included: one for each core that the process may use,
/// until [`set_threads`] says another number. Results do not depend on it.
pub fn threads() -> usize {
    match THREADS.load(Ordering::Relaxed) {
        0 => {
            let usable = thread::available_parallelism().map_or(1, usize::from);
            // Two threads of one core would share the units that these loops keep busy.
            let n = usable.min(num_cpus::get_physical()).clamp(1, MAX_THREADS);
            _ = THREADS.compare_exchange(0, n, Ordering::Relaxed, Ordering::Relaxed);
            THREADS.load(Ordering::Relaxed)
        }
        n => n,
    }
}

/// The most threads that there can be.
pub const MAX_THREADS: usize = 1024;

/// Sets how many threads loops have from now on, from 1 to [`MAX_THREADS`].
pub fn set_threads(n: usize) {
    THREADS.store(n.clamp(1, MAX_THREADS), Ordering::Relaxed);
}

/// Calls `task` with each number below `n`, on several threads where these have nothing else to do, and returns when all
/// are done. A panic of a task becomes one of the caller.
pub(super) fn run(n: usize, task: &(dyn Fn(usize) + Sync)) {
    let helpers = threads().min(n).saturating_sub(1);
    // A loop within a loop, or beside that of another thread, has its caller's thread.
    match (helpers > 0).then(|| POOL.workers.try_lock()).flatten() {
        Some(workers) => POOL.run(workers, helpers, n, task),
        None => (0..n).for_each(task),
    }
}

/// A loop.
#[derive(Clone, Copy)]
struct Job {
    task: *const (dyn Fn(usize) + Sync),
    n: usize,
    /// Workers below this number take part.
    helpers: usize,
}

/// How many workers are in a loop, times two, in the lower half of [`Pool::state`]; the lowest bit says whether more may
/// join it. The upper half is the number of the loop.
const OPEN: u64 = 1;
const INSIDE: u64 = 2;
const LOOP: u64 = 1 << 32;

#[derive(Default)]
struct Pool {
    /// Whoever holds it runs a loop.
    workers: Mutex<Vec<Worker>>,
    state: AtomicU64,
    job: UnsafeCell<Option<Job>>,
    /// The next number that nobody took.
    next: AtomicUsize,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: `job` alone is not `Sync`. `Pool::run` writes it while it holds `workers`, the loop before is closed and no
// worker is inside; workers read it only after they joined an open loop (`Pool::join`).
unsafe impl Sync for Pool {}
// SAFETY: the pointer in `job` is to something `Sync`.
unsafe impl Send for Pool {}

struct Worker {
    thread: Thread,
    asleep: &'static AtomicBool,
}

impl Pool {
    fn run(
        &'static self,
        mut workers: MutexGuard<'_, Vec<Worker>>,
        helpers: usize,
        n: usize,
        task: &(dyn Fn(usize) + Sync),
    ) {
        while workers.len() < helpers && self.hire(&mut workers) {}
        // SAFETY: the lifetime ends before `task` does: this function waits until no worker is inside the loop.
        let task = unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync), &'static (dyn Fn(usize) + Sync)>(task) };
        let job = Job { task, n, helpers };
        // SAFETY: `workers` is held, and whoever held it before waited until no worker was inside.
        unsafe { *self.job.get() = Some(job) };
        self.next.store(0, Ordering::Relaxed);
        let number = self.state.load(Ordering::Relaxed) & !(LOOP - 1);
        // In one order with the workers' falling asleep, so that one of both sees the other.
        self.state.store(number.wrapping_add(LOOP) | OPEN, Ordering::SeqCst);
        for worker in workers.iter().take(helpers).filter(|worker| worker.asleep.load(Ordering::SeqCst)) {
            worker.thread.unpark();
        }
        let own = catch_unwind(AssertUnwindSafe(|| self.work(job)));
        self.state.fetch_and(!OPEN, Ordering::AcqRel);
        wait_until(|| self.state.load(Ordering::Acquire) & (LOOP - 1) == 0);
        let theirs = self.panic.lock().take();
        drop(workers);
        if let Some(panic) = own.err().or(theirs) {
            resume_unwind(panic);
        }
    }

    /// Does whatever nobody took yet.
    fn work(&self, job: Job) {
        // SAFETY: `Pool::run`, which made the job, does not return before all who work on it left.
        let task = unsafe { &*job.task };
        loop {
            let i = self.next.fetch_add(1, Ordering::Relaxed);
            if i >= job.n {
                return;
            }
            task(i);
        }
    }

    /// One more worker; false where the system has no more threads.
    fn hire(&'static self, workers: &mut Vec<Worker>) -> bool {
        let asleep: &'static AtomicBool = Box::leak(Box::default());
        let number = workers.len();
        let thread = thread::Builder::new().name(format!("halfbyte-{}", number + 1));
        match thread.spawn(move || self.serve(number, asleep)) {
            Ok(handle) => workers.push(Worker { thread: handle.thread().clone(), asleep }),
            Err(_) => return false,
        }
        true
    }

    /// A worker's life.
    fn serve(&self, number: usize, asleep: &AtomicBool) {
        let mut done = 0;
        loop {
            let new = |state: u64| state & OPEN != 0 && state & !(LOOP - 1) != done;
            let mut state = self.state.load(Ordering::Acquire);
            if !new(state) {
                let began = Instant::now();
                let patient = |looks: u32| !looks.is_multiple_of(LOOKS) || began.elapsed() < PATIENCE;
                let mut looks = 1;
                while !new(state) && patient(looks) {
                    std::hint::spin_loop();
                    looks += 1;
                    state = self.state.load(Ordering::Acquire);
                }
            }
            if !new(state) {
                asleep.store(true, Ordering::SeqCst);
                while !new(self.state.load(Ordering::SeqCst)) {
                    thread::park();
                }
                asleep.store(false, Ordering::SeqCst);
                continue;
            }
            if self.join(state) {
                done = state & !(LOOP - 1);
                // SAFETY: this worker joined the loop, so that its caller waits.
                let job = unsafe { *self.job.get() };
                if let Some(job) = job.filter(|job| number < job.helpers)
                    && let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.work(job)))
                {
                    *self.panic.lock() = Some(panic);
                }
                self.state.fetch_sub(INSIDE, Ordering::Release);
            }
        }
    }

    /// Joins the loop that `state` tells of, unless it was closed.
    fn join(&self, mut state: u64) -> bool {
        let same = state & !(LOOP - 1);
        while state & OPEN != 0 && state & !(LOOP - 1) == same {
            match self.state.compare_exchange_weak(state, state + INSIDE, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return true,
                Err(now) => state = now,
            }
        }
        false
    }
}

/// Looks until it is so; leaves the processor to others from time to time, for they may be what is waited for.
fn wait_until(done: impl Fn() -> bool) {
    let mut looks = 0u32;
    while !done() {
        looks = looks.wrapping_add(1);
        if looks.is_multiple_of(LOOKS) { thread::yield_now() } else { std::hint::spin_loop() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once_however_many_threads_and_loops() {
        for n in [0, 1, 2, 3, 100] {
            for _ in 0..200 {
                let runs: Vec<AtomicUsize> = (0..n).map(|_| AtomicUsize::new(0)).collect();
                run(n, &|i| {
                    runs[i].fetch_add(1, Ordering::Relaxed);
                    // A loop within a loop.
                    run(3, &|_| {});
                });
                assert!(runs.iter().all(|runs| runs.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn loops_of_several_threads_do_not_disturb_each_other() {
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for n in 0..500 {
                        let sum = AtomicUsize::new(0);
                        run(n, &|i| _ = sum.fetch_add(i, Ordering::Relaxed));
                        assert_eq!(sum.into_inner(), n * n.saturating_sub(1) / 2);
                    }
                });
            }
        });
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_next_loop_runs() {
        for bad in [0, 7, 63] {
            let panic = catch_unwind(|| run(64, &|i| assert_ne!(i, bad, "task {i}"))).unwrap_err();
            assert!(panic.downcast_ref::<String>().is_some_and(|text| text.contains(&format!("task {bad}"))));
            run(64, &|_| {});
        }
    }

    #[test]
    fn workers_wake_up_again() {
        for _ in 0..3 {
            thread::sleep(10 * PATIENCE);
            let done = AtomicUsize::new(0);
            run(64, &|_| _ = done.fetch_add(1, Ordering::Relaxed));
            assert_eq!(done.into_inner(), 64);
        }
    }
}
