use std::f64::consts::PI;

use super::keys::Keys;
use crate::error::Result;

/// Rotary position embedding: θ, and YaRN where the context was extended.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// The base of the frequencies.
    pub theta: f64,
    /// Scaling to longer contexts.
    pub yarn: Option<Yarn>,
}

/// YaRN context extension (Peng et al. 2023, arXiv:2309.00071), with transformers' parameters and defaults.
#[derive(Debug, Clone, PartialEq)]
pub struct Yarn {
    /// How many times longer the context becomes.
    pub factor: f64,
    /// The positions that the model was first trained with.
    pub original_max_position_embeddings: f64,
    /// Multiplies cos and sin.
    pub attention_factor: f64,
    /// Rotations over the original context above which a frequency is kept.
    pub beta_fast: f64,
    /// Rotations over the original context below which a frequency is divided by `factor`.
    pub beta_slow: f64,
    /// Whether the bounds of the ramp between the two are rounded to whole dimensions.
    pub truncate: bool,
}

/// What a RoPE object may hold.
const KNOWN: [&str; 12] = [
    "rope_type",
    "type",
    "rope_theta",
    "partial_rotary_factor",
    "factor",
    "original_max_position_embeddings",
    "attention_factor",
    "beta_fast",
    "beta_slow",
    "mscale",
    "mscale_all_dim",
    "truncate",
];

/// What turns a position into rotations: angle `i` of position `p` is `p · inv_freq[i]`, and cos and sin are multiplied
/// by `attention_factor`.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeTable {
    /// `head_dim / 2` frequencies in radians per position.
    pub inv_freq: Vec<f32>,
    /// Multiplies cos and sin.
    pub attention_factor: f32,
}

impl Rope {
    /// Reads transformers 5's `rope_parameters`, or `rope_theta` with `rope_scaling` of version 4 and before.
    pub(super) fn parse(config: Keys) -> Result<Self> {
        let keys = match config.object("rope_scaling")?.filter(|k| !k.is_empty()) {
            Some(scaling) => Some(scaling),
            None => config.object("rope_parameters")?,
        };
        let outer = config.number("rope_theta")?;
        let inner = keys.map(|k| k.number("rope_theta")).transpose()?.flatten();
        let theta = inner.or(outer).unwrap_or(10_000.0);
        config.check("rope_theta", theta > 1.0 && theta.is_finite(), || format!("θ ({theta}) must be above 1"))?;
        config.support("partial_rotary_factor", whole(config)?, "1.0")?;
        let yarn = keys.map(|k| Yarn::parse(k, config)).transpose()?.flatten();
        Ok(Self { theta, yarn })
    }

    /// The frequencies for heads of `head_dim`, in the arithmetic of transformers' `modeling_rope_utils.py` (f32 after
    /// the power).
    pub fn table(&self, head_dim: usize) -> RopeTable {
        let pos_freqs = (0..head_dim / 2).map(|i| {
            let exponent = (2 * i) as f32 / head_dim as f32;
            (self.theta as f32 as f64).powf(exponent as f64) as f32
        });
        match &self.yarn {
            None => RopeTable { inv_freq: pos_freqs.map(|f| 1.0 / f).collect(), attention_factor: 1.0 },
            Some(yarn) => {
                let (low, high) = yarn.ramp(self.theta, head_dim);
                let blend = |(i, freq): (usize, f32)| {
                    let kept = 1.0 - ((i as f32 - low) / (high - low)).clamp(0.0, 1.0);
                    (1.0 / (yarn.factor as f32 * freq)) * (1.0 - kept) + (1.0 / freq) * kept
                };
                let inv_freq = pos_freqs.enumerate().map(blend).collect();
                RopeTable { inv_freq, attention_factor: yarn.attention_factor as f32 }
            }
        }
    }
}

impl Yarn {
    fn parse(keys: Keys, config: Keys) -> Result<Option<Self>> {
        let key = if keys.raw("rope_type").is_some() { "rope_type" } else { "type" };
        let kind = keys.text(key)?.unwrap_or_else(|| "default".to_owned());
        keys.support(key, ["default", "yarn"].contains(&kind.as_str()), "\"default\" or \"yarn\"")?;
        keys.support("partial_rotary_factor", whole(keys)?, "1.0")?;
        if let Some(key) = keys.others(&KNOWN).first() {
            keys.support(key, false, "RoPE without it")?;
        }
        if kind == "default" {
            let unscaled = keys.number("factor")?.is_none_or(|factor| factor == 1.0);
            keys.check("factor", unscaled, || format!("`{key}` must be \"yarn\" for it to mean anything"))?;
            return Ok(None);
        }
        let outside = config.raw("original_max_position_embeddings").is_some();
        config.support("original_max_position_embeddings", !outside, "one within `rope_parameters`")?;
        let original = match keys.number("original_max_position_embeddings")? {
            Some(original) => original,
            None => config.size("max_position_embeddings", 1 << 32)? as f64,
        };
        let factor = keys.number("factor")?.ok_or_else(|| keys.wrong("factor", "YaRN needs it"))?;
        let at_least_1 = |key, v: f64| keys.check(key, (1.0..1e9).contains(&v), || "it must be at least 1".into());
        at_least_1("factor", factor)?;
        at_least_1("original_max_position_embeddings", original)?;
        let beta = |key, default: f64| -> Result<f64> {
            let v = keys.number(key)?.filter(|&v| v != 0.0).unwrap_or(default);
            keys.check(key, v > 0.0, || "it must be above 0".to_owned())?;
            Ok(v)
        };
        Ok(Some(Self {
            factor,
            original_max_position_embeddings: original,
            attention_factor: attention_factor(keys, factor)?,
            beta_fast: beta("beta_fast", 32.0)?,
            beta_slow: beta("beta_slow", 1.0)?,
            truncate: keys.get("truncate", "true or false")?.unwrap_or(true),
        }))
    }

    /// The dimensions between which the frequencies go over from kept to divided.
    fn ramp(&self, theta: f64, head_dim: usize) -> (f32, f32) {
        let dimension = |rotations: f64| {
            let wavelength = self.original_max_position_embeddings / (rotations * 2.0 * PI);
            head_dim as f64 * wavelength.ln() / (2.0 * theta.ln())
        };
        let (mut low, mut high) = (dimension(self.beta_fast), dimension(self.beta_slow));
        if self.truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        let (low, high) = (low.max(0.0), high.min(head_dim as f64 - 1.0));
        // A ramp of no width would divide by 0.
        (low as f32, if low == high { (high + 0.001) as f32 } else { high as f32 })
    }
}

/// Given, or `0.1 · ln(factor) + 1`, with DeepSeek's `mscale` weights where a file has both.
fn attention_factor(keys: Keys, factor: f64) -> Result<f64> {
    let scale = |mscale: f64| {
        if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 }
    };
    let nonzero = |key| -> Result<Option<f64>> { Ok(keys.number(key)?.filter(|&v| v != 0.0)) };
    let value = match (keys.number("attention_factor")?, nonzero("mscale")?, nonzero("mscale_all_dim")?) {
        (Some(given), _, _) => given,
        (None, Some(mscale), Some(all)) => scale(mscale) / scale(all),
        _ => scale(1.0),
    };
    keys.check("attention_factor", value > 0.0 && value.is_finite(), || format!("{value} must be above 0"))?;
    Ok(value)
}

/// Whether RoPE turns whole heads.
fn whole(keys: Keys) -> Result<bool> {
    Ok(keys.number("partial_rotary_factor")?.is_none_or(|f| f == 1.0))
}
