use crate::common::{
    cases::{self, Rows},
    close::Close,
    make::Make,
    setup::{Check, Setup},
    tensor::{Layout, Output, Tensor},
    work::{Model, Work},
    zeros::Zeros,
};
use half::bf16;
use halfbyte::{
    Backend, Float, Result,
    ops::{GatherRows, Op, ScatterRows},
};

/// Rows of the suite's table.
const TABLE: usize = 40;

/// Rows to gather from a table of so many rows.
#[derive(Debug, Clone, Copy)]
pub struct Gathered {
    rows: Rows,
    table: usize,
}

pub struct Gather<B: Backend, T: Float> {
    case: Gathered,
    table: Tensor<B, T>,
    rows: Tensor<B, u32>,
    out: Tensor<B, T>,
}

impl<B: Backend, T: Float> Setup<B> for Gather<B, T> {
    type Case = Gathered;

    fn name(case: &Gathered) -> String {
        format!("gather_rows {} {:?}", T::DTYPE.suffix(), case.rows)
    }

    fn new(make: &Make<B>, case: &Gathered) -> Self {
        let (Rows { n, d, layout, .. }, size) = (case.rows, case.table);
        let table = make.normal([size, d], layout, 1.0);
        let mut numbers = make.random.below(n, size as u32);
        if !make.is_bench() {
            // Outside: the last row.
            numbers.iter_mut().skip(1).step_by(5).for_each(|r| *r = size as u32);
            numbers.iter_mut().skip(2).step_by(7).for_each(|r| *r = u32::MAX);
        }
        let rows = make.flat(Layout::Packed, numbers);
        Gather { case: *case, table, rows, out: make.output([n, d], layout) }
    }

    fn run(&mut self, backend: &B) -> Result<()> {
        GatherRows { table: self.table.mat(), rows: self.rows.view(), out: self.out.mat_mut() }.run(backend)
    }

    fn outputs(&mut self) -> Vec<&mut dyn Output<B>> {
        vec![&mut self.out]
    }

    fn compare(&mut self, close: &Close<'_, B>) {
        let (name, d, size) = (close.name, self.case.rows.d, self.case.table);
        for (i, (got, &row)) in self.out.now().chunks(d).zip(self.rows.values()).enumerate() {
            let row = (row as usize).min(size - 1);
            let want = &self.table.values()[row * d..(row + 1) * d];
            assert!(got == want, "{name}: row {i} is not row {row} of the table");
        }
    }
}

pub struct Scatter<B: Backend, T: Float> {
    case: Rows,
    x: Tensor<B, T>,
    rows: Tensor<B, u32>,
    out: Tensor<B, T>,
}

impl<B: Backend, T: Float> Setup<B> for Scatter<B, T> {
    type Case = Rows;

    fn name(case: &Rows) -> String {
        format!("scatter_rows {} {case:?}", T::DTYPE.suffix())
    }

    fn new(make: &Make<B>, case: &Rows) -> Self {
        let Rows { n, d, layout, .. } = *case;
        let x = make.normal([n, d], layout, 1.0);
        if make.is_bench() {
            let rows = make.flat(Layout::Packed, (0..n as u32).map(|i| 2 * i).collect());
            return Scatter { case: *case, x, rows, out: make.output([2 * n, d], layout) };
        }
        // Distinct: multiples of 3, which has no factor in common with the number of rows, or outside.
        let n_out = if (n + 7).is_multiple_of(3) { n + 8 } else { n + 7 };
        let number = |i: usize| if i % 6 == 5 { u32::MAX - i as u32 } else { (i * 3 % n_out) as u32 };
        let rows = make.flat(Layout::Packed, (0..n).map(number).collect());
        Scatter { case: *case, x, rows, out: make.normal([n_out, d], layout, 1.0) }
    }

    fn run(&mut self, backend: &B) -> Result<()> {
        ScatterRows { x: self.x.mat(), rows: self.rows.view(), out: self.out.mat_mut() }.run(backend)
    }

    fn outputs(&mut self) -> Vec<&mut dyn Output<B>> {
        vec![&mut self.out]
    }

    fn compare(&mut self, close: &Close<'_, B>) {
        let (d, [n_out, _]) = (self.case.d, self.out.shape());
        let mut want = self.out.values().to_vec();
        for (i, &row) in self.rows.values().iter().enumerate().filter(|(_, row)| (**row as usize) < n_out) {
            let row = row as usize;
            want[row * d..(row + 1) * d].copy_from_slice(&self.x.values()[i * d..(i + 1) * d]);
        }
        assert!(self.out.now() == want, "{}: rows differ", close.name);
    }
}

fn gather_rows<B: Backend>(backend: &B) {
    let all = cases::rows().into_iter().map(|rows| Gathered { rows, table: TABLE });
    all.for_each(|case| check_each!(Gather, backend, &case));
}

fn scatter_rows<B: Backend>(backend: &B) {
    cases::rows().iter().for_each(|case| check_each!(Scatter, backend, case));
}

pub fn checks<B: Backend>() -> Vec<Check<B>> {
    vec![("gather_rows", gather_rows), ("scatter_rows", scatter_rows)]
}

pub fn gradients<B: Backend>() -> Vec<Check<B>> {
    Vec::new()
}

pub fn works<B: Backend>(model: &Model) -> Vec<Work<B>> {
    let (n, d) = (model.step_tokens(), model.hidden);
    let (rows, cost) = (Rows::new(n, d), [4 * n * d, 0]);
    vec![
        Work::new::<Gather<B, bf16>>("gather_rows", rows.shape(), cost, Gathered { rows, table: model.vocab }),
        Work::new::<Scatter<B, bf16>>("scatter_rows", rows.shape(), cost, rows),
    ]
}

fn rows_refuses<B: Backend>(backend: &B) {
    let z = Zeros(backend);
    let good = || GatherRows::<B, f32> { table: z.mat(9, 4), rows: z.view(3), out: z.mat_mut(3, 4) };
    z.fits(good());
    z.refuses(GatherRows { out: z.mat_mut(2, 4), ..good() }, "gather_rows: `out` is [2, 4], expected [3, 4]");
    z.refuses(GatherRows { table: z.mat(0, 4), ..good() }, "gather_rows: the table is 0, but it must have rows");
    let good = || ScatterRows::<B, f32> { x: z.mat(3, 4), rows: z.view(3), out: z.mat_mut(9, 4) };
    z.fits(good());
    z.refuses(ScatterRows { rows: z.view(4), ..good() }, "scatter_rows: `x` is [3, 4], expected [4, 4]");
    z.refuses(ScatterRows { out: z.mat_mut(9, 5), ..good() }, "scatter_rows: `x` is [3, 4], expected [3, 5]");
}

pub fn refusals<B: Backend>() -> Vec<Check<B>> {
    vec![("rows", rows_refuses)]
}
