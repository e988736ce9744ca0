//! Measuring, and what is printed.

use crate::{
    clock::Clock,
    common::{
        cases::Product,
        ops::linear,
        work::{Model, Prepare, Run, Work, prepare},
    },
};
use criterion::Criterion;
use half::bf16;
use halfbyte::Buf;
use std::time::Duration;

/// Rows of results, and the roofline that they are compared with: what a copy and a large product reach.
pub struct Report<B: Clock> {
    flush: Buf<B, u8>,
    /// Bytes read and written in a second.
    bandwidth: f64,
    /// Operations in a second.
    rate: f64,
    csv: String,
}

/// A time, and what it is compared with.
struct Row<'a> {
    kernel: &'a str,
    shape: &'a str,
    dtype: &'a str,
    bytes: usize,
    flops: usize,
    seconds: f64,
    /// Seconds of the dense product.
    dense: Option<f64>,
}

fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}

const COLUMNS: &str = "kernel,shape,dtype,us,GB/s,TFLOP/s,share of copy bandwidth,share of roofline,share of cuBLAS\n";

impl<B: Clock> Report<B> {
    /// Measures the roofline first.
    pub fn new(backend: &B, model: &Model) -> Self {
        let flush = backend.zeros(B::FLUSH).unwrap();
        let mut report = Report { flush, bandwidth: f64::NAN, rate: f64::NAN, csv: COLUMNS.into() };
        println!("{}", backend.name());
        println!(
            "{:<20} {:<28} {:<5} {:>10} {:>9} {:>9} {:>7} {:>8} {:>7}",
            "kernel", "shape", "dtype", "us", "GB/s", "TFLOP/s", "of copy", "of roof", "of blas"
        );
        report.measure_copy(backend, model.copy);
        report.measure_product(backend, model.product);
        report
    }

    fn measure_copy(&mut self, backend: &B, len: usize) {
        let (x, mut out) = (backend.zeros::<u8>(len).unwrap(), backend.zeros::<u8>(len).unwrap());
        let seconds = self.median(backend, &mut (Box::new(move |b: &B| b.copy(x.view(), out.view_mut())) as Run<B>));
        self.bandwidth = 2.0 * len as f64 / seconds;
        let (shape, bytes) = (format!("{} MiB", len >> 20), 2 * len);
        self.row(Row { kernel: "copy", shape: &shape, dtype: "u8", bytes, flops: 0, seconds, dense: None });
    }

    /// A dense product so large that arithmetic alone limits it.
    fn measure_product(&mut self, backend: &B, [n, outputs, inputs]: [usize; 3]) {
        let case = Product::new(n, outputs, inputs);
        let seconds = self.median_of(backend, prepare::<B, linear::Forward<B, bf16, bf16>>(case));
        self.rate = case.flops() as f64 / seconds;
        let (shape, bytes) = (case.shape(), 2 * (n * inputs + n * outputs + outputs * inputs));
        let flops = case.flops();
        self.row(Row { kernel: "product", shape: &shape, dtype: "bf16", bytes, flops, seconds, dense: None });
    }

    /// One run with cold caches.
    fn once(&mut self, backend: &B, run: &mut Run<B>) -> f64 {
        backend.clear(self.flush.view_mut()).unwrap();
        backend.seconds(&mut || run(backend)).unwrap()
    }

    /// The median of 3 to 15 runs, fewer where one takes long, after two to warm up.
    fn median(&mut self, backend: &B, run: &mut Run<B>) -> f64 {
        self.once(backend, run);
        let first = self.once(backend, run);
        let runs = (0.1 / first).clamp(3.0, 15.0) as usize;
        median((0..runs).map(|_| self.once(backend, run)).collect())
    }

    fn median_of(&mut self, backend: &B, prepare: Prepare<B>) -> f64 {
        self.median(backend, &mut prepare(backend))
    }

    fn row(&mut self, row: Row) {
        let Row { kernel, shape, dtype, bytes, flops, seconds, dense } = row;
        let (bytes, flops) = (bytes as f64, flops as f64);
        let (us, gb, tflop) = (seconds * 1e6, bytes / seconds * 1e-9, flops / seconds * 1e-12);
        let copy = bytes / seconds / self.bandwidth;
        // `max` passes over a NaN: the copy is measured before the product.
        let roofline = (bytes / self.bandwidth).max(flops / self.rate) / seconds;
        let blas = dense.map_or(String::new(), |dense| format!("{:.3}", dense / seconds));
        println!(
            "{kernel:<20} {shape:<28} {dtype:<5} {us:>10.1} {gb:>9.1} {tflop:>9.2} {:>6.1}% {:>7.1}% {blas:>7}",
            copy * 100.0,
            roofline * 100.0
        );
        let shares = format!("{copy:.3},{roofline:.3},{blas}");
        self.csv.push_str(&format!("{kernel},{shape},{dtype},{us:.2},{gb:.1},{tflop:.3},{shares}\n"));
    }

    /// The median of a few runs.
    pub fn measure(&mut self, backend: &B, work: Work<B>) {
        let Work { kernel, shape, dtype, bytes, flops, op, dense } = work;
        let seconds = self.median_of(backend, op);
        let dense = dense.map(|dense| self.median_of(backend, dense));
        self.row(Row { kernel, shape: &shape, dtype, bytes, flops, seconds, dense });
    }

    /// Criterion's statistics, and a row with the mean of its samples.
    pub fn measure_with(&mut self, criterion: &mut Criterion, backend: &B, work: Work<B>) {
        let id = work.id();
        let Work { kernel, shape, dtype, bytes, flops, op, dense } = work;
        let (mut run, mut total, mut runs) = (op(backend), 0.0, 0);
        let mut group = criterion.benchmark_group(kernel);
        group.warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_secs(1));
        group.throughput(criterion::Throughput::Bytes(bytes as u64));
        group.bench_function(id, |bencher| {
            bencher.iter_custom(|n| {
                let seconds: f64 = (0..n).map(|_| self.once(backend, &mut run)).sum();
                total += seconds;
                runs += n;
                Duration::from_secs_f64(seconds)
            });
        });
        group.finish();
        drop(run);
        if runs > 0 {
            let (seconds, dense) = (total / runs as f64, dense.map(|dense| self.median_of(backend, dense)));
            self.row(Row { kernel, shape: &shape, dtype, bytes, flops, seconds, dense });
        }
    }

    /// To `HALFBYTE_BENCH_CSV`, if that is set.
    pub fn write(&self) {
        if let Some(path) = std::env::var_os("HALFBYTE_BENCH_CSV") {
            std::fs::write(&path, &self.csv).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        }
    }
}
