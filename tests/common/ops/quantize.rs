use crate::common::{
    cases::Quantization,
    close::Close,
    make::Make,
    setup::{Check, Setup, check},
    tensor::{Layout, Output, Tensor},
    work::{Model, Work},
    zeros::Zeros,
};
use half::bf16;
use halfbyte::{
    Backend, Float, Result,
    ops::{NestAbsmax, Op, Quantize},
    quant::{DYNAMIC_MAP, Format, GROUP, Group, n_blocks},
};

/// Lengths with whole and short last blocks, odd ones, and more than one task or CTA takes.
const LENGTHS: [usize; 9] = [1, 2, 31, 64, 1000, 4096, 4097, 33_333, 200_000];

fn code_of(codes: &[u8], i: usize) -> usize {
    usize::from(if i.is_multiple_of(2) { codes[i / 2] >> 4 } else { codes[i / 2] & 15 })
}

/// The distance from `x` (a share of absmax) to the value of `code`, and to the nearest code's.
fn distances(format: Format, x: f64, code: usize) -> [f64; 2] {
    let distance = |value: &f32| (x - f64::from(*value)).abs();
    let nearest = format.codes().iter().map(distance).fold(f64::INFINITY, f64::min);
    [distance(&format.codes()[code]), nearest]
}

pub struct Codes<B: Backend, T: Float> {
    quantization: Quantization,
    x: Tensor<B, T>,
    codes: Tensor<B, u8>,
    absmax: Tensor<B, f32>,
}

impl<B: Backend, T: Float> Setup<B> for Codes<B, T> {
    type Case = (usize, Quantization);

    fn name((len, Quantization { format, block_size, .. }): &Self::Case) -> String {
        format!("quantize {} {len} {format} {block_size}", T::DTYPE.suffix())
    }

    fn new(make: &Make<B>, (len, quantization): &Self::Case) -> Self {
        let block = quantization.block_size;
        let layout = if len.is_multiple_of(3) { Layout::Odd } else { Layout::Packed };
        Codes {
            quantization: *quantization,
            // A block of zeros, where there is more than one.
            x: make.normal_but([1, *len], layout, 0.03, |values| {
                values.iter_mut().skip(block).take(block).for_each(|v| *v = 0.0);
            }),
            codes: make.output([1, len.div_ceil(2)], layout),
            absmax: make.output([1, n_blocks(*len, block)], layout),
        }
    }

    fn run(&mut self, backend: &B) -> Result<()> {
        let Quantization { format, block_size, .. } = self.quantization;
        let (codes, absmax) = (self.codes.view_mut(), self.absmax.view_mut());
        Quantize { x: self.x.view(), format, block_size, codes, absmax }.run(backend)
    }

    fn outputs(&mut self) -> Vec<&mut dyn Output<B>> {
        vec![&mut self.codes, &mut self.absmax]
    }

    fn compare(&mut self, close: &Close<'_, B>) {
        let (name, Quantization { format, block_size, .. }) = (close.name, self.quantization);
        let (codes, absmax) = (self.codes.now(), self.absmax.now());
        for (b, block) in self.x.values().chunks(block_size).enumerate() {
            let largest = block.iter().map(|v| v.to_f32().abs()).fold(0.0, f32::max);
            assert!(absmax[b] == largest, "{name}: absmax[{b}] is {}, expected {largest}", absmax[b]);
            for (j, v) in block.iter().enumerate() {
                let (i, v) = (b * block_size + j, f64::from(v.to_f32()));
                let (code, share) = (code_of(codes, i), if largest > 0.0 { v / f64::from(largest) } else { 0.0 });
                let [distance, nearest] = distances(format, share, code);
                // FP4's thresholds are decimals of six digits, the product with the reciprocal is off by an ulp.
                assert!(distance <= nearest + 2e-6, "{name}: {v} at {i}: code {code} is not the nearest");
            }
        }
        let len = self.x.values().len();
        if len % 2 == 1 {
            let pad = code_of(codes, len);
            assert!(format.codes()[pad] == 0.0, "{name}: padded with code {pad}");
        }
    }
}

pub struct Nested<B: Backend> {
    absmax: Tensor<B, f32>,
    codes: Tensor<B, u8>,
    groups: Tensor<B, Group>,
}

impl<B: Backend> Setup<B> for Nested<B> {
    type Case = usize;

    fn name(len: &usize) -> String {
        format!("nest_absmax {len}")
    }

    fn new(make: &Make<B>, len: &usize) -> Self {
        let values = make.random.uniform(*len).iter().map(|u| 0.02 + 0.1 * u).collect();
        Nested {
            absmax: make.flat(Layout::Packed, values),
            codes: make.output([1, *len], Layout::Odd),
            groups: make.output([1, len.div_ceil(GROUP)], Layout::Packed),
        }
    }

    fn run(&mut self, backend: &B) -> Result<()> {
        let (codes, groups) = (self.codes.view_mut(), self.groups.view_mut());
        NestAbsmax { absmax: self.absmax.view(), codes, groups }.run(backend)
    }

    fn outputs(&mut self) -> Vec<&mut dyn Output<B>> {
        vec![&mut self.codes, &mut self.groups]
    }

    fn compare(&mut self, close: &Close<'_, B>) {
        let (name, values, groups) = (close.name, self.absmax.values(), self.groups.now());
        let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / values.len() as f64;
        // A sum by cascade: a few roundings for each element.
        let tolerance = mean * f64::from(f32::EPSILON) * 16.0;
        let codes = self.codes.now().chunks(GROUP);
        for (g, ((group, chunk), codes)) in groups.iter().zip(values.chunks(GROUP)).zip(codes).enumerate() {
            let Group { absmax, offset } = *group;
            assert!((f64::from(offset) - mean).abs() <= tolerance, "{name}: offset {offset}, expected {mean}");
            assert!(offset == groups[0].offset, "{name}: one offset for all groups");
            let largest = chunk.iter().map(|v| (v - offset).abs()).fold(0.0, f32::max);
            assert!(absmax == largest, "{name}: group {g} has {absmax}, expected {largest}");
            compare_codes(name, codes, chunk, *group);
        }
    }
}

/// The codes of the scales of one group.
fn compare_codes(name: &str, codes: &[u8], scales: &[f32], Group { absmax, offset }: Group) {
    for (&code, v) in codes.iter().zip(scales) {
        if absmax == 0.0 {
            // 0 / 0 in bitsandbytes; any code stands for the offset.
            assert_eq!(code, 0, "{name}");
            continue;
        }
        let share = f64::from(v - offset) / f64::from(absmax);
        let distance = |code: usize| (share - f64::from(DYNAMIC_MAP[code])).abs();
        let nearest = (0..256).map(distance).fold(f64::INFINITY, f64::min);
        // Rounded to a grid of 65536 points before: half a step of it to either side.
        let ok = distance(usize::from(code)) <= nearest + 2.5 / 65_535.0;
        assert!(ok, "{name}: {v} has code {code}, which is not the nearest");
    }
}

fn quantize<B: Backend>(backend: &B) {
    for len in LENGTHS {
        for quantization in Quantization::all().into_iter().filter(|q| !q.nested) {
            check_each!(Codes, backend, &(len, quantization));
        }
    }
}

fn nest_absmax<B: Backend>(backend: &B) {
    for len in [1, 2, 7, 8, 100, 255, 256, 257, 1000, 16_385, 100_003] {
        check::<B, Nested<B>>(backend, &len);
    }
}

pub fn checks<B: Backend>() -> Vec<Check<B>> {
    vec![("quantize", quantize), ("nest_absmax", nest_absmax)]
}

pub fn gradients<B: Backend>() -> Vec<Check<B>> {
    Vec::new()
}

pub fn works<B: Backend>(model: &Model) -> Vec<Work<B>> {
    let ([.., [rows, cols]], q) = (model.projections(), Quantization::DEFAULT);
    let (len, n) = (rows * cols, rows * cols / q.block_size);
    let cost = [2 * len + len / 2 + len / 16, len];
    vec![
        Work::new::<Codes<B, bf16>>("quantize", format!("{rows} x {cols}"), cost, (len, q)),
        Work::new::<Nested<B>>("nest_absmax", n.to_string(), [5 * n, n], n).f32(),
    ]
}

fn quantize_refuses<B: Backend>(backend: &B) {
    let z = Zeros(backend);
    let good = || Quantize::<B, f32> {
        x: z.view(65),
        format: Format::Fp4,
        block_size: 64,
        codes: z.out(33),
        absmax: z.out(2),
    };
    z.fits(good());
    let message = "quantize: the block size is 16, but it must be a power of two from 32 to 4096";
    z.refuses(Quantize { block_size: 16, ..good() }, message);
    z.refuses(Quantize { codes: z.out(32), ..good() }, "quantize: `codes` has 32 elements, expected 33");
    z.refuses(Quantize { absmax: z.out(1), ..good() }, "quantize: `absmax` has 1 elements, expected 2");

    let good = || NestAbsmax::<B> { absmax: z.view(257), codes: z.out(257), groups: z.out(2) };
    z.fits(good());
    z.refuses(NestAbsmax { codes: z.out(256), ..good() }, "nest_absmax: `codes` has 256 elements, expected 257");
    z.refuses(NestAbsmax { groups: z.out(1), ..good() }, "nest_absmax: `groups` has 1 elements, expected 2");

    let error = "int4".parse::<Format>().unwrap_err();
    assert_eq!(error.to_string(), "quantize: the format is int4, but it must be nf4 or fp4");
}

pub fn refusals<B: Backend>() -> Vec<Check<B>> {
    vec![("quantize", quantize_refuses)]
}
