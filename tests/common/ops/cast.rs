use crate::common::{
    cases::LENGTHS,
    close::Close,
    make::Make,
    setup::{Check, Setup},
    tensor::{Layout, Output, Tensor},
    work::{Model, Work},
    zeros::Zeros,
};
use half::{bf16, f16};
use halfbyte::{
    Backend, Float, Result,
    ops::{Cast, Op},
};

pub struct Between<B: Backend, S: Float, T: Float> {
    x: Tensor<B, S>,
    out: Tensor<B, T>,
}

impl<B: Backend, S: Float, T: Float> Setup<B> for Between<B, S, T> {
    type Case = (usize, Layout);

    fn name((len, layout): &Self::Case) -> String {
        format!("cast {} {} {len} {layout:?}", S::DTYPE.suffix(), T::DTYPE.suffix())
    }

    fn new(make: &Make<B>, (len, layout): &Self::Case) -> Self {
        // Ties, the largest and smallest numbers, overflow of 16 bits.
        let special =
            [1.003_906_3, 1.011_718_8, 65504.0, 65520.0, 1e38, -1e38, 1e-7, -0.0, f32::INFINITY, 3e-39, 5.9e-8];
        Between {
            x: make.normal_but([1, *len], *layout, 100.0, |values| {
                values.iter_mut().zip(special).for_each(|(v, s)| *v = s);
            }),
            out: make.output([1, *len], *layout),
        }
    }

    fn run(&mut self, backend: &B) -> Result<()> {
        Cast { x: self.x.view(), out: self.out.view_mut() }.run(backend)
    }

    fn outputs(&mut self) -> Vec<&mut dyn Output<B>> {
        vec![&mut self.out]
    }

    fn compare(&mut self, close: &Close<'_, B>) {
        for (i, (got, x)) in self.out.now().iter().zip(self.x.values()).enumerate() {
            let want = T::from_f32(x.to_f32());
            let same = bytemuck::bytes_of(got) == bytemuck::bytes_of(&want);
            assert!(same, "{}: element {i}, {x:?}, became {got:?}, expected {want:?}", close.name);
        }
    }
}

type FromBf16<B, T> = Between<B, bf16, T>;
type FromF16<B, T> = Between<B, f16, T>;
type FromF32<B, T> = Between<B, f32, T>;

fn cast<B: Backend>(backend: &B) {
    for case in LENGTHS.into_iter().flat_map(|len| [(len, Layout::Packed), (len, Layout::Odd)]) {
        check_each!(FromBf16, backend, &case);
        check_each!(FromF16, backend, &case);
        check_each!(FromF32, backend, &case);
    }
}

pub fn checks<B: Backend>() -> Vec<Check<B>> {
    vec![("cast", cast)]
}

pub fn gradients<B: Backend>() -> Vec<Check<B>> {
    Vec::new()
}

pub fn works<B: Backend>(model: &Model) -> Vec<Work<B>> {
    let n = model.adapter;
    vec![Work::new::<FromF32<B, bf16>>("cast", n.to_string(), [6 * n, 0], (n, Layout::Packed))]
}

fn cast_refuses<B: Backend>(backend: &B) {
    let z = Zeros(backend);
    let op = Cast::<B, f32, half::bf16> { x: z.view(3), out: z.out(4) };
    z.refuses(op, "cast: `out` has 4 elements, expected 3");
}

pub fn refusals<B: Backend>() -> Vec<Check<B>> {
    vec![("cast", cast_refuses)]
}
