//! Several adapters as one, as PEFT's `add_weighted_adapter` makes it.

use halfbyte::{elements, host};
use rayon::prelude::*;

use crate::config::Module;
use crate::error::{Error, Result};
use crate::lora::{Adapter, LoraConfig, LoraWeights, Target, Targets};
use crate::options::{ADAPTER_WEIGHT, DENSITY};

/// How several adapters become one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Combination {
    /// Their matrices one behind another: what they add is the weighted sum of what each adds, exactly. Ranks add up.
    #[default]
    Cat,
    /// Sums of the A and of the B, each weighted by a root: what they add has products of one's A with another's B in it.
    Linear,
    /// Sums of what is left of each A and B where only the largest values stay and signs agree (Yadav et al. 2023,
    /// arXiv:2306.01708).
    Ties,
}

/// Which sign of several values is the one to agree with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MajoritySign {
    /// That of their sum.
    #[default]
    Total,
    /// The one that most of them have.
    Frequency,
}

/// An adapter and how much of it to take; negative takes its effect away.
#[derive(Clone, Copy, Debug)]
pub struct Weighted<'a> {
    /// The adapter.
    pub adapter: &'a Adapter,
    /// A factor of what it adds.
    pub weight: f64,
}

/// What [`Combination::Ties`] needs to know.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ties {
    /// The share of values that stay, from 0 to 1.
    pub density: f64,
    /// Which sign counts.
    pub sign: MajoritySign,
}

/// Makes one adapter of several. Its scaling is 1: weights and scalings are in its matrices. A module is adapted where one
/// of them adapts it.
///
/// As in PEFT, but for rsLoRA, of which PEFT 0.21 gives the outcome a scaling of `√r`.
///
/// # Errors
/// [`Error::Setting`] for a weight or a density out of range; [`Error::Adapter`] if one of them has magnitudes, a whole head
/// or rows of tokens, which are no sums, or ranks differ where they must not.
pub fn combine(all: &[Weighted], how: Combination, ties: Ties) -> Result<Adapter> {
    all.iter().try_for_each(|one| ADAPTER_WEIGHT.check(one.weight))?;
    DENSITY.check(ties.density)?;
    // All that an adapter has, so that a part which is new cannot be forgotten here.
    let has_no_sum = |Adapter { config, layers: _, lm_head, tokens }: &Adapter| {
        config.use_dora || lm_head.is_some() || !tokens.is_empty()
    };
    if all.iter().any(|one| has_no_sum(one.adapter)) {
        return Err(refused(
            "one of them has DoRA's magnitudes, an output head or rows of tokens, of which there is no sum; leave it out",
        ));
    }
    let mut modules: Vec<Module> =
        all.iter().flat_map(|one| one.adapter.layers.iter().map(|l| l.target.module)).collect();
    modules.sort_unstable();
    modules.dedup();
    let combined = |module: &Module| {
        let parts: Vec<_> = all.iter().filter_map(|one| Part::of(one, *module)).collect();
        match how {
            Combination::Cat => cat(&parts),
            Combination::Linear => by_elements(&parts, |a, roots| Ok(sum(a, roots))),
            Combination::Ties => by_elements(&parts, |a, roots| trimmed_sum(a, roots, ties)),
        }
    };
    let layers = modules.iter().map(combined).collect::<Result<Vec<_>>>()?;
    Ok(Adapter { config: config_of(&layers), layers, lm_head: None, tokens: Vec::new() })
}

/// A module's matrices in one adapter.
struct Part<'a> {
    layer: &'a LoraWeights,
    weight: f64,
}

impl<'a> Part<'a> {
    fn of(one: &Weighted<'a>, module: Module) -> Option<Self> {
        let layer = one.adapter.layers.iter().find(|layer| layer.target.module == module)?;
        Some(Part { layer, weight: one.weight })
    }

    /// The factor of `B A`.
    fn factor(&self) -> f64 {
        self.weight * f64::from(self.layer.target.scaling)
    }
}

fn refused(reason: &str) -> Error {
    Error::Adapter { path: "several".into(), reason: reason.to_owned() }
}

/// A configuration that has these modules, each with its rank and a scaling of 1.
fn config_of(layers: &[LoraWeights]) -> LoraConfig {
    let r = layers.iter().map(|layer| layer.target.r).max().unwrap_or(1);
    let names = layers.iter().map(|layer| layer.target.module.to_string()).collect();
    let others =
        || layers.iter().filter(|layer| layer.target.r != r).map(|l| (l.target.module.to_string(), l.target.r));
    let mut config = LoraConfig::new(r, r as f64, Targets::Names(names));
    config.rank_pattern = others().collect();
    config.alpha_pattern = others().map(|(name, r)| (name, r as f64)).collect();
    config
}

/// `[A₁ … Aₙ]` by rows with factors, `[B₁ … Bₙ]` by columns.
fn cat(parts: &[Part]) -> Result<LoraWeights> {
    let first = parts[0].layer.target;
    let [rows, cols] = first.shape;
    let r = parts.iter().map(|part| part.layer.target.r).sum();
    let mut a = host::room(elements::<f32>(&[r, cols])?)?;
    for part in parts {
        let factor = part.factor() as f32;
        a.extend(part.layer.a.iter().map(|v| v * factor));
    }
    let mut b = host::room(elements::<f32>(&[rows, r])?)?;
    for row in 0..rows {
        for LoraWeights { target, b: part, .. } in parts.iter().map(|part| part.layer) {
            b.extend_from_slice(&part[row * target.r..][..target.r]);
        }
    }
    Ok(LoraWeights { target: Target { r, scaling: 1.0, ..first }, a, b, magnitude: Vec::new() })
}

/// A by `how`, and B too: each factor's root is in both, its sign in A.
fn by_elements(parts: &[Part], how: impl Fn(&[&[f32]], &[f32]) -> Result<Vec<f32>>) -> Result<LoraWeights> {
    let first = parts[0].layer.target;
    if let Some(other) = parts.iter().map(|part| part.layer.target.r).find(|&r| r != first.r) {
        let reason = format!(
            "{} has rank {} in one and {other} in another, and only what has one rank can be summed; combine them by cat",
            first.module, first.r
        );
        return Err(refused(&reason));
    }
    let roots: Vec<f32> = parts.iter().map(|part| part.factor().abs().sqrt() as f32).collect();
    let signed: Vec<f32> = parts.iter().zip(&roots).map(|(p, &root)| root.copysign(p.factor() as f32)).collect();
    let a: Vec<&[f32]> = parts.iter().map(|part| &part.layer.a[..]).collect();
    let b: Vec<&[f32]> = parts.iter().map(|part| &part.layer.b[..]).collect();
    let target = Target { scaling: 1.0, ..first };
    Ok(LoraWeights { target, a: how(&a, &signed)?, b: how(&b, &roots)?, magnitude: Vec::new() })
}

fn sum(all: &[&[f32]], factors: &[f32]) -> Vec<f32> {
    let element = |i: usize| all.iter().zip(factors).map(|(values, factor)| values[i] * factor).sum();
    (0..all[0].len()).into_par_iter().map(element).collect()
}

/// TIES: of each the largest values, of these the ones with the sign of the majority, and of those the mean.
fn trimmed_sum(all: &[&[f32]], factors: &[f32], Ties { density, sign }: Ties) -> Result<Vec<f32>> {
    let kept: Vec<Vec<f32>> = all.iter().map(|values| largest(values, density)).collect::<Result<_>>()?;
    let element = |i: usize| {
        let values = kept.iter().map(|values| values[i]);
        let tendency: f32 = match sign {
            MajoritySign::Total => values.clone().sum(),
            MajoritySign::Frequency => values.clone().filter(|&v| v != 0.0).map(f32::signum).sum(),
        };
        let agrees = |v: f32| if tendency >= 0.0 { v > 0.0 } else { v < 0.0 };
        let agreeing = values.zip(factors).filter(|(v, _)| agrees(*v)).map(|(v, factor)| v * factor);
        agreeing.clone().sum::<f32>() / agreeing.count().max(1) as f32
    };
    Ok((0..all[0].len()).into_par_iter().map(element).collect())
}

/// The values with all but this share, the largest of them, set to 0. Of equal ones the first stay.
fn largest(values: &[f32], density: f64) -> Result<Vec<f32>> {
    let keep = (density * values.len() as f64) as usize;
    let mut kept = host::zeros(values.len())?;
    if keep == 0 {
        return Ok(kept);
    }
    let mut order: Vec<usize> = host::collect(values.len(), 0..values.len())?;
    let size = |&i: &usize| (std::cmp::Reverse(values[i].abs().to_bits()), i);
    order.select_nth_unstable_by_key(keep - 1, size);
    order[..keep].iter().for_each(|&i| kept[i] = values[i]);
    Ok(kept)
}
