//! Measuring, and what is printed.

use crate::work::{Clock, Model, Run, Work, zeros};
use criterion::Criterion;
use halfbyte::Buf;
use std::time::Duration;

/// Rows of results, and the bandwidth that they are compared with.
pub struct Report<B: Clock> {
    flush: Buf<B, u8>,
    /// Bytes read and written in a second.
    copy: f64,
    csv: String,
}

fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}

impl<B: Clock> Report<B> {
    /// Measures a copy first.
    pub fn new(backend: &B, model: &Model) -> Self {
        let flush = zeros(backend, B::FLUSH);
        let mut report = Report { flush, copy: f64::NAN, csv: String::new() };
        report.csv.push_str("kernel,shape,dtype,us,GB/s,TFLOP/s,share of copy bandwidth\n");
        println!("{}", backend.name());
        println!(
            "{:<20} {:<28} {:<5} {:>10} {:>9} {:>9} {:>7}",
            "kernel", "shape", "dtype", "us", "GB/s", "TFLOP/s", "share"
        );
        let bytes = model.copy;
        let x: Buf<B, u8> = zeros(backend, bytes);
        let mut out: Buf<B, u8> = zeros(backend, bytes);
        let mut run: Run<B> = Box::new(move |b: &B| b.copy(x.view(), out.view_mut()));
        let seconds = report.median(backend, &mut run);
        report.copy = 2.0 * bytes as f64 / seconds;
        report.row("copy", &format!("{} MiB", bytes >> 20), "u8", seconds, [2 * bytes, 0]);
        report
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

    fn row(&mut self, kernel: &str, shape: &str, dtype: &str, seconds: f64, [bytes, flops]: [usize; 2]) {
        let (us, bandwidth, rate) = (seconds * 1e6, bytes as f64 / seconds, flops as f64 / seconds * 1e-12);
        let (gb, share) = (bandwidth * 1e-9, bandwidth / self.copy);
        println!("{kernel:<20} {shape:<28} {dtype:<5} {us:>10.1} {gb:>9.1} {rate:>9.2} {:>6.1}%", share * 100.0);
        self.csv.push_str(&format!("{kernel},{shape},{dtype},{us:.2},{gb:.1},{rate:.3},{share:.3}\n"));
    }

    /// The median of a few runs.
    pub fn measure(&mut self, backend: &B, work: Work<B>) {
        let mut run = (work.prepare)(backend);
        let seconds = self.median(backend, &mut run);
        self.row(work.kernel, &work.shape, work.dtype, seconds, [work.bytes, work.flops]);
    }

    /// Criterion's statistics, and a row with the mean of its samples.
    pub fn measure_with(&mut self, criterion: &mut Criterion, backend: &B, work: Work<B>) {
        let id = work.id();
        let mut run = (work.prepare)(backend);
        let (mut total, mut runs) = (0.0, 0);
        let mut group = criterion.benchmark_group(work.kernel);
        group.warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_secs(1));
        group.throughput(criterion::Throughput::Bytes(work.bytes as u64));
        group.bench_function(id, |bencher| {
            bencher.iter_custom(|n| {
                let seconds: f64 = (0..n).map(|_| self.once(backend, &mut run)).sum();
                total += seconds;
                runs += n;
                Duration::from_secs_f64(seconds)
            });
        });
        group.finish();
        if runs > 0 {
            self.row(work.kernel, &work.shape, work.dtype, total / runs as f64, [work.bytes, work.flops]);
        }
    }

    /// To `HALFBYTE_BENCH_CSV`, if that is set.
    pub fn write(&self) {
        if let Some(path) = std::env::var_os("HALFBYTE_BENCH_CSV") {
            std::fs::write(&path, &self.csv).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        }
    }
}
