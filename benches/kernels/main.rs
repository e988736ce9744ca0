//! Every kernel at the shapes of Qwen3-8B on the GPU, or of Qwen3-0.6B on the CPU: the list is `tests/common/ops/`.
//!
//! `cargo bench --bench kernels [-- FILTER]`: criterion's statistics. On the GPU times are those between CUDA events,
//! and caches are emptied before each run. Environment:
//! * `HALFBYTE_BENCH_QUICK=1`: the median of a few runs each, without criterion (under a minute on the GPU);
//! * `HALFBYTE_BENCH_CSV=FILE`: rows as `benches/results/README.md` says;
//! * `HALFBYTE_BENCH_DEVICE=cpu`: the CPU where there is a GPU, too.
#[path = "../../tests/common/mod.rs"]
#[macro_use]
mod common;
mod clock;
mod report;

use clock::Clock;
use common::{
    ops,
    work::{Model, QWEN3_06B, QWEN3_8B},
};
use halfbyte::Cpu;
use report::Report;

fn bench<B: Clock>(backend: &B, model: &Model) {
    let filter = std::env::args().skip(1).find(|arg| !arg.starts_with('-')).unwrap_or_default();
    let works = ops::works::<B>(model).into_iter().filter(|work| work.id().contains(&filter));
    let mut report = Report::new(backend, model);
    if std::env::var_os("HALFBYTE_BENCH_QUICK").is_some_and(|v| v == "1") {
        works.for_each(|work| report.measure(backend, work));
    } else {
        let mut criterion = criterion::Criterion::default().configure_from_args().sample_size(10);
        works.for_each(|work| report.measure_with(&mut criterion, backend, work));
        criterion.final_summary();
    }
    report.write();
}

fn main() {
    let on_cpu = std::env::var_os("HALFBYTE_BENCH_DEVICE").is_some_and(|v| v == "cpu");
    match if on_cpu { None } else { common::cuda() } {
        Some(cuda) => bench(cuda, &QWEN3_8B),
        None => bench(&Cpu::new(), &QWEN3_06B),
    }
}
