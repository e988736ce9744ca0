use crate::common::{
    cases::{self, Rows},
    close::Close,
    make::Make,
    num::Num,
    ops::lora::mask,
    oracle,
    setup::{Difference, Setup, differentiate},
    tensor::{Output, Tensor},
    work::Work,
    zeros::Zeros,
};
use half::bf16;
use halfbyte::{
    Backend, Float, Result,
    ops::{Dropout, Dropped, Op},
};

/// With a stream that needs both halves.
const DROPOUT: Dropout = Dropout { p: 0.3, seed: 0x1234_5678_9abc_def0, stream: (5 << 32) + 7 };

#[derive(Debug, Clone, Copy)]
pub struct Drops {
    rows: Rows,
    rest: bool,
    accumulate: bool,
}

impl Drops {
    /// What an element is multiplied by.
    fn factor(&self, i: usize, j: usize) -> f64 {
        let kept = mask(&Some(DROPOUT), i, j);
        if self.rest { 1.0 - kept } else { kept }
    }
}

pub struct Inputs<B: Backend, T: Float> {
    case: Drops,
    x: Tensor<B, T>,
    out: Tensor<B, T>,
}

impl<B: Backend, T: Float> Setup<B> for Inputs<B, T> {
    type Case = Drops;

    fn name(case: &Drops) -> String {
        format!("dropped {} {case:?}", T::DTYPE.suffix())
    }

    fn new(make: &Make<B>, case: &Drops) -> Self {
        let Rows { n, d, layout, .. } = case.rows;
        Inputs {
            case: *case,
            x: make.normal([n, d], layout, 1.0),
            out: if case.accumulate { make.normal([n, d], layout, 1.0) } else { make.output([n, d], layout) },
        }
    }

    fn run(&mut self, backend: &B) -> Result<()> {
        let Inputs { case: Drops { rest, accumulate, .. }, x, out } = self;
        let (x, out) = (x.mat(), out.mat_mut());
        Dropped { x, dropout: DROPOUT, rest: *rest, out, accumulate: *accumulate }.run(backend)
    }

    fn outputs(&mut self) -> Vec<&mut dyn Output<B>> {
        vec![&mut self.out]
    }

    fn compare(&mut self, close: &Close<'_, B>) {
        let Inputs { case, x, out } = self;
        close.all("out", out.now(), case.rows.d, |i, j| {
            let dropped = Num::from(case.factor(i, j)) * Num::from(x.at(i, j));
            if case.accumulate { Num::from(out.at(i, j)) + dropped } else { dropped }
        });
    }

    /// It is its own gradient: `x` is that of what comes of another.
    fn differences(&self) -> Vec<Difference<'_>> {
        let (d_out, d) = (self.x.to_f64(), self.case.rows.d);
        let at = vec![0.5; d_out.len()];
        let loss = move |x: &[f64]| {
            let out = |(at, x): (usize, &f64)| self.case.factor(at / d, at % d) * x;
            oracle::weighted(&d_out, x.iter().enumerate().map(out))
        };
        vec![Difference { part: "x", got: self.out.floats(), at, loss: Box::new(loss) }]
    }
}

pub fn check<B: Backend>(backend: &B) {
    for (i, rows) in cases::rows().into_iter().enumerate() {
        check_each!(Inputs, backend, &Drops { rows, rest: i % 2 == 1, accumulate: i / 2 % 2 == 1 });
    }
}

pub fn differences<B: Backend>(backend: &B) {
    for rest in [false, true] {
        let case = Drops { rows: Rows::new(3, 7), rest, accumulate: false };
        differentiate::<B, Inputs<B, f32>>(backend, &case);
    }
}

/// As for noise.
pub fn work<B: Backend>(rows: Rows) -> Work<B> {
    let len = rows.n * rows.d;
    let case = Drops { rows, rest: false, accumulate: false };
    Work::new::<Inputs<B, bf16>>("dropped", rows.shape(), [4 * len, 25 * len], case)
}

pub fn refuses<B: Backend>(backend: &B) {
    let z = Zeros(backend);
    let good =
        || Dropped::<B, f32> { x: z.mat(3, 4), dropout: DROPOUT, rest: false, out: z.mat_mut(3, 4), accumulate: false };
    z.fits(good());
    z.refuses(Dropped { out: z.mat_mut(3, 5), ..good() }, "dropped: `out` is [3, 5], expected [3, 4]");
    let always = Dropout { p: 1.0, ..DROPOUT };
    z.refuses(Dropped { dropout: always, ..good() }, "dropped: dropout is 1, but it must be at least 0 and below 1");
}
