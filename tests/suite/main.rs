//! Every op on every backend against the oracle, on the cases of `tests/common/ops/`.
//!
//! Outputs are full of NaN before, and everything around inputs and outputs is NaN; outputs are compared element by
//! element with tolerances from `tests/common/num.rs`; each op runs twice and must give the same bits.
//!
//! All checks of the GPU share one `Cuda`, in the random order of `HALFBYTE_SEED` (printed at the start), so that what
//! one op leaves behind shows in another: exactly in that order with `--test-threads=1`, else interleaved.
#[macro_use]
#[path = "../common/mod.rs"]
mod common;

mod again;
mod devices;
mod long;
mod memory;
mod threads;

use common::{
    harness::{on_cpu, on_cuda, run},
    ops,
    setup::Check,
};
use halfbyte::Backend;

/// All checks that any backend must pass, by what they check.
fn checks<B: Backend>() -> Vec<(&'static str, Vec<Check<B>>)> {
    let mut checks = ops::checks();
    checks.extend([("memory", memory::checks()), ("threads", threads::checks())]);
    checks
}

fn main() {
    let mut trials = Vec::new();
    for (group, checks) in checks() {
        trials.extend(on_cpu(&format!("{group}::"), checks));
    }
    trials.extend(on_cpu("threads::", threads::cpu_checks()));
    for (group, checks) in checks() {
        trials.extend(on_cuda(&format!("{group}::"), checks));
    }
    trials.extend(on_cuda("memory::", memory::cuda_checks()));
    trials.extend(on_cuda("again::", again::checks()));
    trials.extend(on_cuda("long::", long::checks()));
    trials.extend(on_cuda("devices::", devices::checks()));
    run(trials);
}
