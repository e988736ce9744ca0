use crate::common::{
    cases::LENGTHS,
    close::Close,
    make::Make,
    num::Num,
    setup::{Check, Setup, check},
    tensor::{Layout, Output, Tensor},
    work::{Model, Work},
    zeros::Zeros,
};
use halfbyte::{
    Backend, Result,
    ops::{Norm, Op, Sum},
};

/// A vector of this length.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    len: usize,
    layout: Layout,
    accumulate: bool,
}

impl Case {
    /// More than one block sums.
    pub const LONG: Case = Case { len: 300_001, layout: Layout::Packed, accumulate: false };
}

const ACCUMULATED: f32 = 0.75;

pub struct Total<B: Backend> {
    case: Case,
    x: Tensor<B, f32>,
    out: Tensor<B, f32>,
}

impl<B: Backend> Setup<B> for Total<B> {
    type Case = Case;

    fn name(case: &Case) -> String {
        format!("sum {} {:?}", case.len, case.layout)
    }

    fn new(make: &Make<B>, case: &Case) -> Self {
        let before = if case.accumulate { ACCUMULATED } else { f32::NAN };
        Total {
            case: *case,
            x: make.normal([1, case.len], case.layout, 1.0),
            out: make.flat(case.layout, vec![before]),
        }
    }

    fn run(&mut self, backend: &B) -> Result<()> {
        Sum { x: self.x.view(), out: self.out.view_mut(), accumulate: self.case.accumulate }.run(backend)
    }

    fn outputs(&mut self) -> Vec<&mut dyn Output<B>> {
        vec![&mut self.out]
    }

    fn compare(&mut self, close: &Close<'_, B>) {
        let before = Num::from(if self.case.accumulate { ACCUMULATED } else { 0.0 });
        let want = before + Num::dot(self.x.to_f64().into_iter().map(|v| (v, 1.0)));
        close.all("out", self.out.now(), 1, |_, _| want);
    }
}

pub struct Length<B: Backend> {
    x: Tensor<B, f32>,
    out: Tensor<B, f32>,
}

impl<B: Backend> Setup<B> for Length<B> {
    type Case = Case;

    fn name(case: &Case) -> String {
        format!("norm {} {:?}", case.len, case.layout)
    }

    fn new(make: &Make<B>, case: &Case) -> Self {
        Length { x: make.normal([1, case.len], case.layout, 0.01), out: make.output([1, 1], case.layout) }
    }

    fn run(&mut self, backend: &B) -> Result<()> {
        Norm { x: self.x.view(), out: self.out.view_mut() }.run(backend)
    }

    fn outputs(&mut self) -> Vec<&mut dyn Output<B>> {
        vec![&mut self.out]
    }

    fn compare(&mut self, close: &Close<'_, B>) {
        let want = Num::dot(self.x.to_f64().into_iter().map(|v| (v, v))).sqrt();
        close.all("out", self.out.now(), 1, |_, _| want);
    }
}

fn all() -> impl Iterator<Item = Case> {
    let each = |len| [Layout::Packed, Layout::Odd].map(|layout| Case { len, layout, accumulate: false });
    LENGTHS.into_iter().flat_map(each)
}

fn sum<B: Backend>(backend: &B) {
    for case in all() {
        [false, true].into_iter().for_each(|accumulate| check::<B, Total<B>>(backend, &Case { accumulate, ..case }));
    }
}

fn norm<B: Backend>(backend: &B) {
    all().for_each(|case| check::<B, Length<B>>(backend, &case));
}

pub fn checks<B: Backend>() -> Vec<Check<B>> {
    vec![("sum", sum), ("norm", norm)]
}

pub fn gradients<B: Backend>() -> Vec<Check<B>> {
    Vec::new()
}

pub fn works<B: Backend>(model: &Model) -> Vec<Work<B>> {
    let n = model.adapter;
    let case = Case { len: n, layout: Layout::Packed, accumulate: false };
    vec![
        Work::new::<Total<B>>("sum", n.to_string(), [4 * n, n], case).f32(),
        Work::new::<Length<B>>("norm", n.to_string(), [4 * n, 2 * n], case).f32(),
    ]
}

fn reduce_refuses<B: Backend>(backend: &B) {
    let z = Zeros(backend);
    z.refuses(Sum::<B> { x: z.view(3), out: z.out(0), accumulate: false }, "sum: `out` has 0 elements, expected 1");
    z.refuses(Norm::<B> { x: z.view(3), out: z.out(2) }, "norm: `out` has 2 elements, expected 1");
}

pub fn refusals<B: Backend>() -> Vec<Check<B>> {
    vec![("reduce", reduce_refuses)]
}
