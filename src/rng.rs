//! Counter-based random numbers: the same on the host, on the CPU backend and on the GPU.

/// Philox-4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
///
/// Four random words for each `(counter, key)`; `kernels/philox.cuh` computes the same.
pub fn philox(counter: [u32; 4], key: u64) -> [u32; 4] {
    philox_of::<10>(counter, key)
}

/// The same of so many rounds. Of 7 on its words pass every test of BigCrush, as the paper found; 10 leave a margin.
pub fn philox_of<const ROUNDS: usize>(counter: [u32; 4], key: u64) -> [u32; 4] {
    let mut c = counter;
    let mut k = [key as u32, (key >> 32) as u32];
    for _ in 0..ROUNDS {
        let lo = u64::from(c[0]) * 0xD251_1F53;
        let hi = u64::from(c[2]) * 0xCD9E_8D57;
        c = [(hi >> 32) as u32 ^ c[1] ^ k[0], hi as u32, (lo >> 32) as u32 ^ c[3] ^ k[1], lo as u32];
        k = [k[0].wrapping_add(0x9E37_79B9), k[1].wrapping_add(0xBB67_AE85)];
    }
    c
}

/// A uniform number in `[0, 1)` with 24 random bits.
pub fn uniform(word: u32) -> f32 {
    (word >> 8) as f32 * (1.0 / 16_777_216.0)
}

/// Two independent normal numbers (Box and Muller, 1958).
pub fn normal(a: u32, b: u32) -> [f32; 2] {
    let radius = (-2.0 * (1.0 - uniform(a)).ln()).sqrt();
    let (sin, cos) = (std::f32::consts::TAU * uniform(b)).sin_cos();
    [radius * cos, radius * sin]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_known_answers() {
        // From the Random123 distribution's kat_vectors.
        assert_eq!(philox([0; 4], 0), [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
        assert_eq!(philox([u32::MAX; 4], u64::MAX), [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]);
        assert_eq!(philox_of::<7>([0; 4], 0), [0x5f6fb709, 0x0d893f64, 0x4f121f81, 0x4f730a48]);
        assert_eq!(philox_of::<7>([u32::MAX; 4], u64::MAX), [0x5207ddc2, 0x45165e59, 0x4d8ee751, 0x8c52f662]);
    }

    #[test]
    fn uniform_stays_below_one() {
        assert_eq!(uniform(0), 0.0);
        assert!(uniform(u32::MAX) < 1.0);
    }
}
