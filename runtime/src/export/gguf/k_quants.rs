//! ggml's Q4_K and Q6_K: blocks of 256 elements whose parts have scales of a few bits, themselves scaled by f16.
//!
//! Which codes stand for a part is a choice of whoever writes. Here it is the scale, and in Q4_K the minimum, with the
//! least weighted square error among those that a few starting points lead to: each rounds the elements to codes, and
//! then the scale that fits these codes best is solved for.

use half::f16;

/// Elements of a block.
pub const BLOCK: usize = 256;
/// Bytes of one in Q4_K: two f16, twelve of scales, 4 bits for each element.
pub const Q4_K_BYTES: usize = 4 + 12 + BLOCK / 2;
/// Bytes of one in Q6_K: 6 bits for each element, sixteen scales, an f16.
pub const Q6_K_BYTES: usize = BLOCK / 2 + BLOCK / 4 + 16 + 2;

/// Elements of a part of Q4_K, and how many parts there are.
const Q4_PART: usize = 32;
const Q4_PARTS: usize = BLOCK / Q4_PART;
/// The same of Q6_K.
const Q6_PART: usize = 16;
const Q6_PARTS: usize = BLOCK / Q6_PART;

/// Starting points lie this many steps of a tenth of a code to both sides of the one that uses all codes.
const STEPS: i32 = 9;

/// A block of Q4_K: `x ≈ d · scale · code − d_min · min`, the code from 0 to 15, scale and min of each part from 0 to 63.
/// Whether its f16 are finite.
pub fn encode_q4_k(x: &[f32], out: &mut [u8]) -> bool {
    let (x, _) = x.as_chunks::<Q4_PART>();
    let mut parts = [Affine::default(); Q4_PARTS];
    parts.iter_mut().zip(x).for_each(|(part, x)| *part = Affine::of(x));
    let largest = |of: fn(&Affine) -> f32| f16::from_f32(parts.iter().map(of).fold(0.0, f32::max) / 63.0);
    let (d, d_min) = (largest(|part| part.scale), largest(|part| part.min));
    let six_bits = |v: f32, d: f16| if d == f16::ZERO { 0 } else { (v / d.to_f32()).round().clamp(0.0, 63.0) as u8 };
    let scales = parts.map(|part| six_bits(part.scale, d));
    let mins = parts.map(|part| six_bits(part.min, d_min));
    let mut codes = [0; BLOCK];
    for (i, (codes, x)) in codes.chunks_exact_mut(Q4_PART).zip(x).enumerate() {
        let (scale, min) = (d.to_f32() * f32::from(scales[i]), d_min.to_f32() * f32::from(mins[i]));
        let inverse = inverse(scale);
        codes.iter_mut().zip(x).for_each(|(code, x)| *code = nearest((x + min) * inverse, 0.0, 15.0) as u8);
    }
    out[..2].copy_from_slice(&d.to_le_bytes());
    out[2..4].copy_from_slice(&d_min.to_le_bytes());
    pack_scales(&scales, &mins, &mut out[4..16]);
    // Two parts share their bytes: the first has the low halves.
    for (out, codes) in out[16..].chunks_exact_mut(Q4_PART).zip(codes.chunks_exact(2 * Q4_PART)) {
        let (low, high) = codes.split_at(Q4_PART);
        out.iter_mut().zip(low.iter().zip(high)).for_each(|(out, (low, high))| *out = low | high << 4);
    }
    d.is_finite() && d_min.is_finite()
}

/// Eight scales and eight minimums of 6 bits in twelve bytes: four of each whole, with the upper bits of the other four
/// above them, whose lower bits share the last four bytes.
fn pack_scales(scales: &[u8; Q4_PARTS], mins: &[u8; Q4_PARTS], out: &mut [u8]) {
    for i in 0..4 {
        out[i] = scales[i] | scales[i + 4] >> 4 << 6;
        out[i + 4] = mins[i] | mins[i + 4] >> 4 << 6;
        out[i + 8] = scales[i + 4] & 15 | (mins[i + 4] & 15) << 4;
    }
}

/// A block of Q6_K: `x ≈ d · scale · (code − 32)`, the code from 0 to 63, the scale of each part from −128 to 127. Whether
/// its f16 is finite.
pub fn encode_q6_k(x: &[f32], out: &mut [u8]) -> bool {
    let (x, _) = x.as_chunks::<Q6_PART>();
    let mut wanted = [0.0; Q6_PARTS];
    wanted.iter_mut().zip(x).for_each(|(scale, x)| *scale = best_scale(x));
    let largest = wanted.iter().fold(0f32, |most, &s| if s.abs() > most.abs() { s } else { most });
    // The scale furthest from 0 becomes −128, which two's complement has and 128 not.
    let d = f16::from_f32(largest / -128.0);
    let eight_bits = |s: f32| if d == f16::ZERO { 0 } else { (s / d.to_f32()).round().clamp(-128.0, 127.0) as i8 };
    let scales = wanted.map(eight_bits);
    let mut codes = [0; BLOCK];
    for (i, (codes, x)) in codes.chunks_exact_mut(Q6_PART).zip(x).enumerate() {
        let inverse = inverse(d.to_f32() * f32::from(scales[i]));
        codes.iter_mut().zip(x).for_each(|(code, x)| *code = (nearest(x * inverse, -32.0, 31.0) + 32.0) as u8);
    }
    let (low, rest) = out.split_at_mut(BLOCK / 2);
    let (high, rest) = rest.split_at_mut(BLOCK / 4);
    // In each half of the block, elements 32 apart share bytes.
    for (half, codes) in codes.chunks_exact(BLOCK / 2).enumerate() {
        for i in 0..32 {
            let of = |k: usize| codes[i + 32 * k];
            low[64 * half + i] = of(0) & 15 | (of(2) & 15) << 4;
            low[64 * half + 32 + i] = of(1) & 15 | (of(3) & 15) << 4;
            high[32 * half + i] = of(0) >> 4 | of(1) >> 4 << 2 | of(2) >> 4 << 4 | of(3) >> 4 << 6;
        }
    }
    rest[..Q6_PARTS].iter_mut().zip(scales).for_each(|(out, scale)| *out = scale as u8);
    rest[Q6_PARTS..].copy_from_slice(&d.to_le_bytes());
    d.is_finite()
}

/// The whole number nearest to one between these, without a call, so that loops over it become vector code.
fn nearest(v: f32, low: f32, high: f32) -> f32 {
    // From here on f32 has no fractions.
    const WHOLE: f32 = 1.5 * (1 << 23) as f32;
    (v.clamp(low, high) + WHOLE) - WHOLE
}

fn inverse(scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { 1.0 / scale }
}

/// The sum over `N` elements, in eight lanes.
fn sum<const N: usize>(of: impl Fn(usize) -> f32) -> f32 {
    let mut lanes = [0.0; 8];
    for i in (0..N).step_by(8) {
        lanes.iter_mut().enumerate().for_each(|(lane, sum)| *sum += of(i + lane));
    }
    lanes.iter().sum()
}

/// What each element's error counts: more for large ones, which carry more of the outcome.
fn weights<const N: usize>(x: &[f32; N]) -> [f32; N] {
    let typical = (sum::<N>(|i| x[i] * x[i]) / N as f32).sqrt();
    x.map(|v| typical + v.abs())
}

/// A part as `scale · code − min`, neither of them negative.
#[derive(Clone, Copy, Default)]
struct Affine {
    scale: f32,
    min: f32,
}

impl Affine {
    fn of(x: &[f32; Q4_PART]) -> Self {
        // Codes begin at 0, so that nothing above it can be the offset.
        let low = x.iter().fold(0f32, |low, &v| low.min(v));
        let high = x.iter().fold(f32::MIN, |high, &v| high.max(v));
        if high <= low {
            return Affine { scale: 0.0, min: -low };
        }
        let weights = weights(x);
        let full = Affine { scale: (high - low) / 15.0, min: -low };
        let starts = (-STEPS..=STEPS).map(|step| (high - low) / (15.0 + 0.1 * step as f32));
        let fits = starts.map(|scale| Affine::solved(x, &weights, Affine { scale, min: -low }));
        let better = |best: (f32, Affine), fit: Affine| {
            let error = fit.error(x, &weights);
            if error < best.0 { (error, fit) } else { best }
        };
        fits.fold((full.error(x, &weights), full), better).1
    }

    /// The code of each element.
    fn codes(self, x: &[f32; Q4_PART]) -> [f32; Q4_PART] {
        let inverse = inverse(self.scale);
        x.map(|v| nearest((v + self.min) * inverse, 0.0, 15.0))
    }

    fn error(self, x: &[f32; Q4_PART], weights: &[f32; Q4_PART]) -> f32 {
        let codes = self.codes(x);
        sum::<Q4_PART>(|i| {
            let off = self.scale * codes[i] - self.min - x[i];
            weights[i] * off * off
        })
    }

    /// The scale and min that fit best the codes to which `start` rounds: two linear equations.
    fn solved(x: &[f32; Q4_PART], weights: &[f32; Q4_PART], start: Affine) -> Affine {
        let q = start.codes(x);
        let (w, wq) = (sum::<Q4_PART>(|i| weights[i]), sum::<Q4_PART>(|i| weights[i] * q[i]));
        let wqq = sum::<Q4_PART>(|i| weights[i] * q[i] * q[i]);
        let (wx, wqx) = (sum::<Q4_PART>(|i| weights[i] * x[i]), sum::<Q4_PART>(|i| weights[i] * q[i] * x[i]));
        let determinant = w * wqq - wq * wq;
        if determinant <= 0.0 {
            return start;
        }
        let fit = Affine { scale: (w * wqx - wq * wx) / determinant, min: (wq * wqx - wqq * wx) / determinant };
        match fit {
            Affine { scale, .. } if scale <= 0.0 => start,
            Affine { min, .. } if min < 0.0 => Affine { scale: wqx / wqq, min: 0.0 },
            fit => fit,
        }
    }
}

/// The scale with which a part's codes from −32 to 31 fit it best.
fn best_scale(x: &[f32; Q6_PART]) -> f32 {
    let extreme = x.iter().fold(0f32, |most, &v| if v.abs() > most.abs() { v } else { most });
    if extreme == 0.0 {
        return 0.0;
    }
    let weights = weights(x);
    // What a scale that was solved for takes off the error is (Σwqx)² / Σwqq.
    let fit = |start: f32| {
        let inverse = inverse(start);
        let q = x.map(|v| nearest(v * inverse, -32.0, 31.0));
        let wqq = sum::<Q6_PART>(|i| weights[i] * q[i] * q[i]);
        let wqx = sum::<Q6_PART>(|i| weights[i] * q[i] * x[i]);
        if wqq > 0.0 { (wqx * wqx / wqq, wqx / wqq) } else { (0.0, start) }
    };
    let fits = (-STEPS..=STEPS).map(|step| fit(extreme / -(32.0 + 0.1 * step as f32)));
    fits.fold((0.0, extreme / -32.0), |best, fit| if fit.0 > best.0 { fit } else { best }).1
}
