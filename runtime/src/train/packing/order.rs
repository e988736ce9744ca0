//! The order of an epoch: a function of seed and epoch alone.

use halfbyte::rng::philox;

/// Sets the shuffle's random numbers apart from other uses of the same seed ("shuf").
const SHUFFLE_STREAM: u32 = 0x7368_7566;

/// How often an epoch has each of so many samples.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Share {
    /// Samples that are next to each other.
    pub n_samples: usize,
    /// Whole times for each of them; of the fraction, another part of them in each epoch.
    pub weight: f64,
}

impl Share {
    /// Whole times, and how many samples come once more.
    fn parts(&self) -> (u32, usize) {
        (self.weight.trunc() as u32, (self.weight.fract() * self.n_samples as f64).round() as usize)
    }

    /// Samples of an epoch.
    pub(super) fn per_epoch(&self) -> usize {
        let (whole, more) = self.parts();
        self.n_samples.saturating_mul(whole as usize).saturating_add(more)
    }

    /// Whether all epochs have the same samples.
    pub(super) fn is_whole(&self) -> bool {
        self.parts().1 == 0
    }
}

/// The samples of an epoch, sorted by a random key if they are to be shuffled: Philox of sample, epoch and the how-manieth
/// time it is, keyed by the seed.
pub(super) fn order(shares: &[Share], epoch: u64, seed: u64, shuffle: bool) -> Vec<usize> {
    let key = |sample: usize, time: u32| {
        let counter = [sample as u32, epoch as u32, (epoch >> 32) as u32, SHUFFLE_STREAM.wrapping_add(time)];
        (philox(counter, seed), sample)
    };
    let mut all = Vec::with_capacity(shares.iter().map(Share::per_epoch).sum());
    let mut end = 0;
    for share in shares {
        let samples = end..end + share.n_samples;
        end = samples.end;
        let (whole, more) = share.parts();
        all.extend((0..whole).flat_map(|time| samples.clone().map(move |sample| key(sample, time))));
        if more > 0 {
            let mut rest: Vec<_> = samples.map(|sample| key(sample, whole)).collect();
            rest.sort_unstable();
            all.extend_from_slice(&rest[..more]);
        }
    }
    if shuffle {
        all.sort_unstable();
    } else {
        all.sort_by_key(|&(_, sample)| sample);
    }
    all.into_iter().map(|(_, sample)| sample).collect()
}
