//! Candle's tensors in halfbyte's kernels, on the CPU and without a copy: a weight is rounded to 4 bits where it lies, and a
//! product is written into what becomes a tensor of candle.

use candle_core::{CpuStorage, Device, Storage, Tensor};
use halfbyte::{
    Backend, Buf, Cpu, Mat, MatMut, View, ViewMut,
    ops::{Dequantize, Linear4, Op, Quantize},
    quant::{Format, Scales, Weight4},
};
use std::error::Error;

const TOKENS: usize = 8;
const INPUTS: usize = 512;
const OUTPUTS: usize = 384;
const BLOCK: usize = 64;

/// Runs `f` on the elements of a tensor of f32 on the CPU that has no gaps.
fn with_view<R>(tensor: &Tensor, f: impl FnOnce(View<'_, Cpu, f32>) -> R) -> Result<R, Box<dyn Error>> {
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cpu(CpuStorage::F32(values)) = &*storage else { return Err("a tensor of f32 on the CPU".into()) };
    let (start, end) = layout.contiguous_offsets().ok_or("a tensor without gaps: call .contiguous() first")?;
    Ok(f(View::from(&values[start..end])))
}

/// A weight of candle in 4 bits.
struct Quantized {
    codes: Buf<Cpu, u8>,
    absmax: Buf<Cpu, f32>,
}

impl Quantized {
    fn new(cpu: &Cpu, weight: &Tensor) -> Result<Self, Box<dyn Error>> {
        let len = weight.elem_count();
        let (mut codes, mut absmax) = (cpu.zeros(len / 2)?, cpu.zeros(len / BLOCK)?);
        with_view(weight, |x| {
            let (codes, absmax) = (codes.view_mut(), absmax.view_mut());
            Quantize { x, format: Format::Nf4, block_size: BLOCK, codes, absmax }.run(cpu)
        })??;
        Ok(Quantized { codes, absmax })
    }

    fn weight(&self) -> Weight4<'_, Cpu> {
        let scales = Scales::Plain(self.absmax.view());
        Weight4 {
            format: Format::Nf4,
            block_size: BLOCK,
            rows: OUTPUTS,
            cols: INPUTS,
            codes: self.codes.view(),
            scales,
        }
    }

    /// `x Wᵀ`.
    fn forward(&self, cpu: &Cpu, x: &Tensor) -> Result<Tensor, Box<dyn Error>> {
        let mut out = vec![0_f32; TOKENS * OUTPUTS];
        with_view(x, |x| {
            let out = MatMut::new(ViewMut::from(&mut out[..]), TOKENS, OUTPUTS);
            Linear4 { x: Mat::new(x, TOKENS, INPUTS), weight: self.weight(), out, accumulate: false }.run(cpu)
        })??;
        Ok(Tensor::from_vec(out, (TOKENS, OUTPUTS), &Device::Cpu)?)
    }

    /// The weight that its codes stand for.
    fn dequantize(&self, cpu: &Cpu) -> Result<Tensor, Box<dyn Error>> {
        let mut out = vec![0_f32; OUTPUTS * INPUTS];
        Dequantize { weight: self.weight(), out: ViewMut::from(&mut out[..]) }.run(cpu)?;
        Ok(Tensor::from_vec(out, (OUTPUTS, INPUTS), &Device::Cpu)?)
    }
}

fn largest(tensor: &Tensor) -> Result<f32, Box<dyn Error>> {
    Ok(tensor.abs()?.flatten_all()?.max(0)?.to_scalar()?)
}

fn main() -> Result<(), Box<dyn Error>> {
    let cpu = Cpu::new();
    let x = Tensor::randn(0_f32, 1.0, (TOKENS, INPUTS), &Device::Cpu)?;
    let weight = Tensor::randn(0_f32, 0.05, (OUTPUTS, INPUTS), &Device::Cpu)?;
    let quantized = Quantized::new(&cpu, &weight)?;
    let out = quantized.forward(&cpu, &x)?;

    let decoded = quantized.dequantize(&cpu)?;
    let same = x.matmul(&decoded.t()?)?;
    // Both sum as many products in f32, in orders of their own: each by less than so much of the sum of magnitudes.
    let bound = 2.0 * INPUTS as f32 * f32::EPSILON / 2.0 * largest(&x.abs()?.matmul(&decoded.abs()?.t()?)?)?;
    let error = largest(&(&out - &same)?)?;
    println!("{} is {error:.1e} from candle with the same 4-bit weight; {bound:.1e} is allowed", cpu.name());
    let exact = x.matmul(&weight.t()?)?;
    println!("rounding the weight changed {:.3} of {:.3}", largest(&(&out - &exact)?)?, largest(&exact)?);
    if error <= bound { Ok(()) } else { Err("halfbyte and candle do not agree".into()) }
}
