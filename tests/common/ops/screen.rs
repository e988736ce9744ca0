use crate::common::{
    cases::Product,
    close::{Close, relative_norm},
    make::Make,
    setup::{Check, Setup, check},
    tensor::{LAYOUTS, Layout, Output, Tensor},
    work::{Model, Work},
    zeros::Zeros,
};
use half::bf16;
use halfbyte::{
    Backend, Buf, Cpu, Float, MatMut, Result,
    cpu::screen_codes,
    ops::{Linear, LinearMax, Op, Screen},
};
use std::any::Any;

/// What may be hard about a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hard {
    Nothing,
    /// Every tenth row of the weight is the first.
    Ties,
    /// One element of x.
    Nan,
    /// One element of the weight.
    Infinite,
    /// x.
    Zero,
    /// Squares of x and of the weight vanish in f32.
    Tiny,
    /// Squares of both overflow.
    Huge,
}

const HARD: [Hard; 7] = [Hard::Nothing, Hard::Ties, Hard::Nan, Hard::Infinite, Hard::Zero, Hard::Tiny, Hard::Huge];

#[derive(Debug, Clone, Copy)]
pub struct Case {
    product: Product,
    hard: Hard,
    /// How many of the largest outputs are looked for.
    k: usize,
}

impl Case {
    /// Of normal numbers.
    pub fn new(product: Product) -> Self {
        Case { product, hard: Hard::Nothing, k: 1 }
    }

    /// The same, of which the `k` largest outputs are looked for.
    pub fn largest(product: Product, k: usize) -> Self {
        Case { k, ..Case::new(product) }
    }

    fn scale(&self) -> f32 {
        match self.hard {
            // What f16 has of either is zero or infinite, which is hard too.
            Hard::Tiny => 1e-22,
            Hard::Huge => 1e20,
            _ => 1.0,
        }
    }

    fn weight<B: Backend, T: Float>(&self, make: &Make<B>) -> Tensor<B, T> {
        let Product { outputs, inputs, layout, .. } = self.product;
        make.normal_but([outputs, inputs], layout, 0.05 * self.scale(), |w| match self.hard {
            Hard::Ties => {
                let (first, rest) = w.split_at_mut(inputs);
                rest.chunks_exact_mut(inputs).step_by(10).for_each(|row| row.copy_from_slice(first));
            }
            Hard::Infinite => w[outputs / 2 * inputs] = f32::INFINITY,
            _ => {}
        })
    }

    fn x<B: Backend, T: Float>(&self, make: &Make<B>) -> Tensor<B, T> {
        let Product { n, inputs, layout, .. } = self.product;
        make.normal_but([n, inputs], layout, self.scale(), |x| match self.hard {
            Hard::Zero => x.fill(0.0),
            Hard::Nan => x.iter_mut().take(1).for_each(|x| *x = f32::NAN),
            _ => {}
        })
    }
}

/// The weight in 8 bits.
pub struct Screened<B: Backend, T: Float> {
    case: Case,
    weight: Tensor<B, T>,
    codes: Tensor<B, i8>,
    bounds: Tensor<B, f32>,
}

impl<B: Backend, T: Float> Setup<B> for Screened<B, T> {
    type Case = Case;

    fn name(case: &Case) -> String {
        format!("screen {} {case:?}", T::DTYPE.suffix())
    }

    fn new(make: &Make<B>, case: &Case) -> Self {
        let Product { outputs, inputs, layout, .. } = case.product;
        let bounds = make.output([3, outputs], layout);
        Screened { case: *case, weight: case.weight(make), codes: make.output([1, outputs * inputs], layout), bounds }
    }

    fn run(&mut self, backend: &B) -> Result<()> {
        Screen { weight: self.weight.mat(), codes: self.codes.view_mut(), bounds: self.bounds.mat_mut() }.run(backend)
    }

    fn outputs(&mut self) -> Vec<&mut dyn Output<B>> {
        vec![&mut self.codes, &mut self.bounds]
    }

    /// Scales and codes to the bit, norms but for what f32 sums miss.
    fn compare(&mut self, close: &Close<'_, B>) {
        let Product { outputs, inputs, .. } = self.case.product;
        let (name, norm) = (close.name, |v: &mut dyn Iterator<Item = f64>| v.map(|v| v * v).sum::<f64>().sqrt());
        let (mut codes, bounds) = (self.codes.now().to_vec(), self.bounds.now());
        if (close.backend as &dyn Any).is::<Cpu>() {
            codes = screen_codes(&codes, inputs);
        }
        for row in 0..outputs {
            let w: Vec<f32> = self.weight.values()[row * inputs..][..inputs].iter().map(|w| w.to_f32()).collect();
            if self.case.hard == Hard::Infinite || w.iter().any(|w| w.is_infinite()) {
                continue; // what it means is seen where it is used
            }
            let scale = w.iter().fold(0.0f32, |most, w| most.max(w.abs())) / 127.0;
            let codes = &codes[row * inputs..][..inputs];
            let near = |w: f32| if scale > 0.0 { (w / scale).round_ties_even() } else { 0.0 };
            assert!(codes.iter().zip(&w).all(|(code, w)| f32::from(*code) == near(*w)), "{name}: codes of row {row}");
            let kept = |i: usize| f64::from(scale) * f64::from(codes[i]);
            let missed = norm(&mut (0..inputs).map(|i| f64::from(w[i]) - kept(i)));
            let sums =
                inputs as f64 * f64::from(1.0 / (1u32 << 23) as f32) * norm(&mut w.iter().map(|w| f64::from(*w)));
            let want = [scale, (missed + sums) as f32, norm(&mut (0..inputs).map(kept)) as f32];
            let got = [0, 1, 2].map(|i| bounds[i * outputs + row]);
            assert!(got[0] == want[0], "{name}: scale of row {row} is {}, expected {}", got[0], want[0]);
            // Of `inputs` squares, and of quotients that are rounded beside what is missed.
            let error = relative_norm(&got[1..], &want[1..]);
            assert!(error <= 1e-4, "{name}: row {row} is {got:?}, expected {want:?}");
        }
    }
}

pub struct Largest<B: Backend, T: Float> {
    case: Case,
    x: Tensor<B, T>,
    weight: Tensor<B, T>,
    codes: Buf<B, i8>,
    bounds: Buf<B, f32>,
    out: Tensor<B, f32>,
}

impl<B: Backend, T: Float> Setup<B> for Largest<B, T> {
    type Case = Case;

    fn name(case: &Case) -> String {
        format!("linear_max {} {case:?}", T::DTYPE.suffix())
    }

    fn new(make: &Make<B>, case: &Case) -> Self {
        let Product { n, outputs, inputs, layout, .. } = case.product;
        let weight = case.weight(make);
        let mut codes = make.backend.zeros(outputs * inputs).unwrap();
        let mut bounds = make.backend.zeros(3 * outputs).unwrap();
        let screen = Screen { weight: weight.mat(), codes: codes.view_mut(), bounds: bounds.mat_mut(3, outputs) };
        screen.run(make.backend).unwrap();
        Largest { case: *case, x: case.x(make), weight, codes, bounds, out: make.output([n, case.looked_at()], layout) }
    }

    fn run(&mut self, backend: &B) -> Result<()> {
        let (Product { outputs, inputs, .. }, rows) = (self.case.product, 0..self.case.looked_at());
        let (x, weight, codes) =
            (self.x.mat(), self.weight.mat().rows(rows.clone()), self.codes.at(0..rows.end * inputs));
        let bounds = self.bounds.mat(3, outputs).columns(rows);
        LinearMax { x, weight, codes, bounds, k: self.case.k, out: self.out.mat_mut() }.run(backend)
    }

    fn outputs(&mut self) -> Vec<&mut dyn Output<B>> {
        vec![&mut self.out]
    }

    /// What `linear` gives, to the bit, or minus infinity where it is less than the k-th largest and what counts as that.
    fn compare(&mut self, close: &Close<'_, B>) {
        let (n, outputs) = (self.case.product.n, self.case.looked_at());
        let mut all = close.backend.zeros::<f32>(n * outputs).unwrap();
        let out = MatMut::new(all.view_mut(), n, outputs);
        let weight = self.weight.mat().rows(0..outputs);
        Linear { x: self.x.mat(), weight, out, accumulate: false, settled: false }.run(close.backend).unwrap();
        let all = all.to_vec(close.backend).unwrap();
        for (i, (got, want)) in self.out.now().chunks(outputs).zip(all.chunks(outputs)).enumerate() {
            let mut sorted: Vec<f32> = want.iter().copied().filter(|want| !want.is_nan()).collect();
            sorted.sort_unstable_by(|a, b| b.total_cmp(a));
            let last = sorted.get(self.case.k - 1).copied().unwrap_or(f32::NEG_INFINITY);
            // A millionth less, but for how f32 rounds it.
            let top = last * if last > 0.0 { 1.0 - 0.9e-6 } else { 1.0 + 0.9e-6 };
            for (j, (got, want)) in got.iter().zip(want).enumerate() {
                let passed = *got == f32::NEG_INFINITY && *want < top;
                let same = got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan();
                assert!(same || passed, "{}: [{i}, {j}] is {got}, linear gives {want}, the last is {last}", close.name);
            }
            let passed = got.iter().filter(|got| **got == f32::NEG_INFINITY).count();
            assert!(
                !self.case.sifts(close.backend) || passed > outputs / 2,
                "{}: {passed} of {outputs} passed over",
                close.name
            );
        }
    }
}

impl Case {
    /// The rows of the weight that are looked at: of many not the last ones.
    fn looked_at(&self) -> usize {
        let outputs = self.product.outputs;
        if outputs > 1000 { outputs - 100 } else { outputs }
    }

    /// Whether most outputs of normal numbers must be passed over.
    fn sifts<B: Backend>(&self, backend: &B) -> bool {
        let Product { n, outputs, inputs, layout, .. } = self.product;
        let whole = layout == Layout::Packed && inputs.is_multiple_of(16);
        self.hard == Hard::Nothing && whole && n <= backend.most_screened() && outputs > 3000
    }
}

/// Tokens that go this way and others, rows and columns that are whole steps and not.
fn products() -> Vec<Case> {
    const WEIGHTS: [[usize; 2]; 9] =
        [[16, 512], [5000, 64], [4001, 1040], [300, 33], [1, 1], [257, 2560], [7, 16], [33, 5120], [3333, 1024]];
    let mut cases = Vec::new();
    for (i, [outputs, inputs]) in WEIGHTS.into_iter().enumerate() {
        for (j, n) in [0, 1, 2, 3, 5, 8, 9].into_iter().enumerate() {
            let product = Product { layout: LAYOUTS[(i + j) % 3], ..Product::new(n, outputs, inputs) };
            cases.push(Case::new(product));
            let hard = HARD[(i * 5 + j) % HARD.len()];
            let k = [1, 4, 20][(i + j) % 3];
            cases.push(Case { product: Product { layout: Layout::Packed, ..product }, hard, k });
        }
    }
    for n in [1, 7] {
        for k in [1, 20] {
            cases.extend(HARD.map(|hard| Case { product: Product::new(n, 4000, 256), hard, k }));
        }
    }
    cases
}

fn screen<B: Backend>(backend: &B) {
    products().iter().filter(|case| case.product.n < 2).for_each(|case| check_each!(Screened, backend, case));
}

fn linear_max<B: Backend>(backend: &B) {
    products().iter().for_each(|case| check_each!(Largest, backend, case));
    for (n, outputs, k) in [(1, 20_000, 1), (1, 20_000, 20), (6, 4000, 1), (6, 4000, 3)] {
        let large = Case::largest(Product::new(n, outputs, 4096), k);
        check::<B, Largest<B, bf16>>(backend, &large);
    }
}

pub fn checks<B: Backend>() -> Vec<Check<B>> {
    vec![("screen", screen), ("linear_max", linear_max)]
}

pub fn gradients<B: Backend>() -> Vec<Check<B>> {
    Vec::new()
}

/// Few of the outputs: what a floor knows of.
pub fn works<B: Backend>(model: &Model) -> Vec<Work<B>> {
    let case = |n| Case::new(Product::new(n, model.vocab, model.hidden));
    let len = model.vocab * model.hidden;
    let screen = case(1);
    let mut works = vec![Work::new::<Screened<B, bf16>>("screen", screen.product.shape(), [3 * len, 0], screen)];
    works.extend([1, 2, 4, 8].map(|n| {
        let case = case(n);
        let bytes = len + 12 * model.vocab + 8 * n * model.vocab;
        Work::new::<Largest<B, bf16>>("linear_max", case.product.shape(), [bytes, 0], case)
    }));
    works
}

fn screen_refuses<B: Backend>(backend: &B) {
    let z = Zeros(backend);
    let good = || Screen::<B, f32> { weight: z.mat(6, 8), codes: z.out(48), bounds: z.mat_mut(3, 6) };
    z.fits(good());
    z.refuses(Screen { codes: z.out(47), ..good() }, "screen: `codes` has 47 elements, expected 48");
    z.refuses(Screen { bounds: z.mat_mut(2, 6), ..good() }, "screen: `bounds` is [2, 6], expected [3, 6]");
}

fn linear_max_refuses<B: Backend>(backend: &B) {
    let z = Zeros(backend);
    let good = || LinearMax::<B, f32> {
        x: z.mat(4, 8),
        weight: z.mat(6, 8),
        codes: z.view(48),
        bounds: z.mat(3, 6),
        k: 1,
        out: z.mat_mut(4, 6),
    };
    z.fits(good());
    z.refuses(LinearMax { k: 0, ..good() }, "linear_max: k is 0, but it must be 1 or more");
    z.refuses(LinearMax { x: z.mat(3, 8), ..good() }, "linear_max: `x` is [3, 8], expected [4, 8]");
    z.refuses(LinearMax { weight: z.mat(6, 7), ..good() }, "linear_max: `weight` is [6, 7], expected [6, 8]");
    z.refuses(LinearMax { codes: z.view(49), ..good() }, "linear_max: `codes` has 49 elements, expected 48");
    z.refuses(LinearMax { bounds: z.mat(3, 7), ..good() }, "linear_max: `bounds` is [3, 7], expected [3, 6]");
}

pub fn refusals<B: Backend>() -> Vec<Check<B>> {
    vec![("screen", screen_refuses), ("linear_max", linear_max_refuses)]
}
