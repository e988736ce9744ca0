//! How long each op takes.

use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
};

/// What the calls of an op took together.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct OpTime {
    /// Its name: `linear4`.
    pub op: &'static str,
    /// How often it ran.
    pub calls: usize,
    /// Seconds, on a GPU those of the GPU.
    pub seconds: f64,
    /// Multiplications and additions of its matrix products; 0 for other ops.
    pub flops: f64,
}

/// Notes when ops begin and end, while it is told to; a moment is an `M`.
pub(crate) struct Profiler<M> {
    on: AtomicBool,
    calls: Mutex<Vec<Call<M>>>,
}

struct Call<M> {
    op: &'static str,
    flops: f64,
    began: M,
    ended: M,
}

impl<M> Profiler<M> {
    pub(crate) const fn new() -> Self {
        Profiler { on: AtomicBool::new(false), calls: Mutex::new(Vec::new()) }
    }

    pub(crate) fn is_on(&self) -> bool {
        self.on.load(Ordering::Relaxed)
    }

    pub(crate) fn begin(&self) {
        self.calls.lock().clear();
        self.on.store(true, Ordering::Relaxed);
    }

    /// Runs `run`, and notes when it began and ended if it is told to.
    pub(crate) fn time<E>(
        &self,
        op: &'static str,
        flops: f64,
        now: impl Fn() -> Result<M, E>,
        run: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), E> {
        if !self.is_on() {
            return run();
        }
        let began = now()?;
        run()?;
        self.calls.lock().push(Call { op, flops, began, ended: now()? });
        Ok(())
    }

    /// What was noted, the longest first. `seconds` is the time between two moments.
    pub(crate) fn end<E>(&self, seconds: impl Fn(&M, &M) -> Result<f64, E>) -> Result<Vec<OpTime>, E> {
        self.on.store(false, Ordering::Relaxed);
        let mut ops = BTreeMap::new();
        for Call { op, flops, began, ended } in std::mem::take(&mut *self.calls.lock()) {
            let time = ops.entry(op).or_insert(OpTime { op, calls: 0, seconds: 0.0, flops: 0.0 });
            time.calls += 1;
            time.seconds += seconds(&began, &ended)?;
            time.flops += flops;
        }
        let mut ops: Vec<_> = ops.into_values().collect();
        ops.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        Ok(ops)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn calls_of_an_op_are_added_up_and_the_longest_comes_first() {
        let profiler = Profiler::<f64>::new();
        let clock = Cell::new(0.0);
        let call = |op, flops, seconds| {
            profiler.time(
                op,
                flops,
                || Ok::<_, ()>(clock.get()),
                || {
                    clock.set(clock.get() + seconds);
                    Ok(())
                },
            )
        };
        call("before", 1.0, 9.0).unwrap();
        profiler.begin();
        [("a", 2.0, 1.0), ("b", 0.0, 5.0), ("a", 3.0, 2.0)]
            .into_iter()
            .for_each(|(op, flops, s)| call(op, flops, s).unwrap());
        let seconds = |began: &f64, ended: &f64| Ok::<_, ()>(ended - began);
        let want = [
            OpTime { op: "b", calls: 1, seconds: 5.0, flops: 0.0 },
            OpTime { op: "a", calls: 2, seconds: 3.0, flops: 5.0 },
        ];
        assert_eq!(profiler.end(seconds).unwrap(), want);
        call("after", 1.0, 9.0).unwrap();
        profiler.begin();
        assert_eq!(profiler.end(seconds).unwrap(), []);
    }
}
