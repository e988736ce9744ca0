use crate::common::{
    self,
    cases::Quantization,
    random::Random,
    tensor::{Layout, Tensor, twice},
};
use halfbyte::{
    Backend, Float,
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

fn check<B: Backend, T: Float>(backend: &B, len: usize, quantization: Quantization) {
    let Quantization { format, block_size, .. } = quantization;
    let name = format!("quantize {} {len} {format} {block_size}", T::DTYPE.suffix());
    let mut values = Random::new(&name).normal(len, 0.03);
    // A block of zeros, where there is more than one.
    values.iter_mut().skip(block_size).take(block_size).for_each(|v| *v = 0.0);
    let layout = if len.is_multiple_of(3) { Layout::Odd } else { Layout::Packed };
    let x = Tensor::<B, T>::of(backend, [1, len], layout, &values);
    let blocks = n_blocks(len, block_size);
    let (codes, absmax) = twice(&name, || {
        let mut codes = Tensor::<B, u8>::poisoned_flat(backend, len.div_ceil(2), layout);
        let mut absmax = Tensor::<B, f32>::poisoned_flat(backend, blocks, layout);
        let op = Quantize { x: x.view(), format, block_size, codes: codes.view_mut(), absmax: absmax.view_mut() };
        op.run(backend).unwrap();
        (codes.read(backend, &name), absmax.read(backend, &name))
    });
    for (b, block) in x.values().chunks(block_size).enumerate() {
        let largest = block.iter().map(|v| v.to_f32().abs()).fold(0.0, f32::max);
        assert!(absmax[b] == largest, "{name}: absmax[{b}] is {}, expected {largest}", absmax[b]);
        for (j, v) in block.iter().enumerate() {
            let (i, v) = (b * block_size + j, f64::from(v.to_f32()));
            let share = if largest > 0.0 { v / f64::from(largest) } else { 0.0 };
            let [distance, nearest] = distances(format, share, code_of(&codes, i));
            // FP4's thresholds are decimals of six digits, the product with the reciprocal is off by an ulp.
            assert!(distance <= nearest + 2e-6, "{name}: {v} at {i}: code {} is not the nearest", code_of(&codes, i));
        }
    }
    if len % 2 == 1 {
        let pad = usize::from(codes[len / 2] & 15);
        assert!(format.codes()[pad] == 0.0, "{name}: padded with code {pad}");
    }
}

fn quantize<B: Backend>(backend: &B) {
    for len in LENGTHS {
        for quantization in Quantization::all().into_iter().filter(|q| !q.nested) {
            each_float!(check::<B>(backend, len, quantization));
        }
    }
}

fn nest_absmax<B: Backend>(backend: &B) {
    for len in [1, 2, 7, 8, 100, 255, 256, 257, 1000, 16_385, 100_003] {
        let name = format!("nest_absmax {len}");
        let values: Vec<f32> = Random::new(&name).uniform(len).iter().map(|u| 0.02 + 0.1 * u).collect();
        let absmax = Tensor::<B, f32>::of(backend, [1, len], Layout::Packed, &values);
        let (codes, groups) = twice(&name, || {
            let mut codes = Tensor::<B, u8>::poisoned_flat(backend, len, Layout::Odd);
            let mut groups = Tensor::<B, Group>::poisoned_flat(backend, len.div_ceil(GROUP), Layout::Packed);
            NestAbsmax { absmax: absmax.view(), codes: codes.view_mut(), groups: groups.view_mut() }
                .run(backend)
                .unwrap();
            (codes.read(backend, &name), groups.read(backend, &name))
        });
        let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / len as f64;
        // A sum by cascade: a few roundings for each element.
        let tolerance = mean * f64::from(f32::EPSILON) * 16.0;
        for (g, (group, chunk)) in groups.iter().zip(values.chunks(GROUP)).enumerate() {
            let Group { absmax, offset } = *group;
            assert!((f64::from(offset) - mean).abs() <= tolerance, "{name}: offset {offset}, expected {mean}");
            assert!(offset == groups[0].offset, "{name}: one offset for all groups");
            let largest = chunk.iter().map(|v| (v - offset).abs()).fold(0.0, f32::max);
            assert!(absmax == largest, "{name}: group {g} has {absmax}, expected {largest}");
            for (j, v) in chunk.iter().enumerate() {
                if largest == 0.0 {
                    // 0 / 0 in bitsandbytes; any code stands for the offset.
                    assert_eq!(codes[g * GROUP + j], 0, "{name}");
                    continue;
                }
                let share = f64::from(v - offset) / f64::from(largest);
                let distance = |code: usize| (share - f64::from(DYNAMIC_MAP[code])).abs();
                let nearest = (0..256).map(distance).fold(f64::INFINITY, f64::min);
                let code = codes[g * GROUP + j];
                // Rounded to a grid of 65536 points before: half a step of it to either side.
                let ok = distance(usize::from(code)) <= nearest + 2.5 / 65_535.0;
                assert!(ok, "{name}: {v} has code {code}, which is not the nearest");
            }
        }
    }
}

backends!(quantize, nest_absmax);
