use super::{
    config::{Init, LoraConfig},
    device::SMALLER,
    files::{Adapter, HeadWeights, LoraWeights},
    resolve::Target,
    tokens::{Table, TokenRows, TrainableTokens},
};
use crate::{
    checkpoint::Checkpoint,
    config::{Module, Qwen3Config},
    error::{Error, Result},
};
use halfbyte::{
    elements, host,
    rng::{normal, philox, uniform},
};

/// Sets these random numbers apart from other uses of the same seed ("lora").
const STREAM: u32 = 0x6c6f_7261;

impl Adapter {
    /// A new adapter for `model`, which changes nothing yet: `A` random (PEFT's distributions), `B` zero, of the embedding
    /// `A` zero and `B` normal, and the output head and rows of tokens, if they are trained, as `files` has them. What PiSSA
    /// and LoftQ begin with is the model's to find ([`crate::model::Qwen3::begin`]), and DoRA's magnitudes are its to measure
    /// ([`crate::model::Qwen3::measure`]). Same seed, same adapter.
    ///
    /// # Errors
    /// A target matches nothing, the initialisation is one that only PEFT can make, or there is too little memory.
    pub fn init(config: LoraConfig, model: &Qwen3Config, files: &Checkpoint, seed: u64) -> Result<Self> {
        let layers = layers(&config, model, seed)?;
        let lm_head = config.save_lm_head.then(|| head(model, files)).transpose()?;
        let own = |(table, ids)| token_rows(model, files, table, ids);
        let tokens = config.tokens(model)?.into_iter().map(own).collect::<Result<_>>()?;
        Ok(Adapter { config, layers, lm_head, tokens })
    }

    /// [`Adapter::init`] without a checkpoint, of linear layers alone.
    ///
    /// # Errors
    /// As there; or the adapter is to have an output head or rows of tokens, which begin as the checkpoint's.
    pub fn of_layers(config: LoraConfig, model: &Qwen3Config, seed: u64) -> Result<Self> {
        if config.save_lm_head || config.trainable_tokens != TrainableTokens::None {
            let reason = "its output head or its rows of tokens begin as a checkpoint's; leave them out".into();
            return Err(Error::Adapter { path: Default::default(), reason });
        }
        Ok(Adapter { layers: layers(&config, model, seed)?, config, lm_head: None, tokens: Vec::new() })
    }
}

/// The adapted layers, which change nothing yet.
fn layers(config: &LoraConfig, model: &Qwen3Config, seed: u64) -> Result<Vec<LoraWeights>> {
    let targets = config.resolve(model)?;
    expect_known(&config.init)?;
    // Before the first of its numbers is made.
    let room = || Ok(host::check(config.weight_bytes(model)?)?);
    room().map_err(Error::memory_for(|| format!("an adapter with r = {}", config.r), SMALLER))?;
    let fresh = |(index, target): (usize, &Target)| -> Result<LoraWeights> {
        let [rows, cols] = target.shape;
        if matches!(config.init, Init::Pissa(_) | Init::LoftQ) {
            return Ok(LoraWeights { target: *target, a: Vec::new(), b: Vec::new(), magnitude: Vec::new() });
        }
        let ([r_in, out_r], index) = ([[target.r, cols], [rows, target.r]], index as u32);
        let (a, b) = (elements::<f32>(&r_in)?, elements::<f32>(&out_r)?);
        let (a, b) = match target.module {
            Module::Embedding => (host::zeros(a)?, normals(b, 1.0, index, seed)?),
            _ => (random_a(&config.init, r_in, index, seed)?, host::zeros(b)?),
        };
        Ok(LoraWeights { target: *target, a, b, magnitude: Vec::new() })
    };
    targets.iter().enumerate().map(fresh).collect()
}

fn head(model: &Qwen3Config, files: &Checkpoint) -> Result<HeadWeights> {
    let shape = model.shape(Module::LmHead);
    let weight = files.tensor("lm_head.weight")?.expect_shape(&shape)?.to_f32()?;
    Ok(HeadWeights { shape, weight })
}

fn token_rows(model: &Qwen3Config, files: &Checkpoint, table: Table, ids: Vec<u32>) -> Result<TokenRows> {
    let shape = model.shape(Module::LmHead);
    let tensor = files.tensor(&table.tensor())?.expect_shape(&shape)?.expect_finite()?;
    let mut weight = host::room(elements::<f32>(&[ids.len(), shape[1]])?)?;
    for &id in &ids {
        weight.extend(tensor.row(id as usize)?);
    }
    Ok(TokenRows { table, ids, weight })
}

/// Refuses what only PEFT can make.
fn expect_known(init: &Init) -> Result<()> {
    let Init::Other(other) = init else { return Ok(()) };
    let reason = format!("init_lora_weights {other} can be loaded but not begun here; use true or gaussian");
    Err(Error::Adapter { path: Default::default(), reason })
}

fn random_a(init: &Init, [r, cols]: [usize; 2], module: u32, seed: u64) -> Result<Vec<f32>> {
    let len = elements::<f32>(&[r, cols])?;
    if let Init::Gaussian = init {
        return normals(len, 1.0 / r as f32, module, seed);
    }
    let bound = (cols as f32).sqrt().recip();
    let uniforms = words(len, module, seed).flatten().map(|word| (2.0 * uniform(word) - 1.0) * bound);
    Ok(host::collect(len, uniforms.take(len))?)
}

fn normals(len: usize, deviation: f32, module: u32, seed: u64) -> Result<Vec<f32>> {
    let normals = words(len, module, seed).flat_map(|[a, b, c, d]| [normal(a, b), normal(c, d)]).flatten();
    Ok(host::collect(len, normals.map(|v| v * deviation).take(len))?)
}

/// Random words for so many numbers, four at a time.
fn words(len: usize, module: u32, seed: u64) -> impl Iterator<Item = [u32; 4]> {
    (0..len.div_ceil(4)).map(move |quad| philox([quad as u32, (quad >> 32) as u32, module, STREAM], seed))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moments(v: &[f32]) -> (f64, f64) {
        let mean = v.iter().map(|&x| f64::from(x)).sum::<f64>() / v.len() as f64;
        (mean, v.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / v.len() as f64)
    }

    #[test]
    fn kaiming_is_uniform_within_its_bound() {
        let a = random_a(&Init::Kaiming, [16, 1024], 3, 7).unwrap();
        let bound = 1.0 / 32.0;
        let (mean, variance) = moments(&a);
        assert!(a.iter().all(|v| v.abs() <= bound));
        // Five standard deviations of the mean; the variance of a uniform is bound² / 3.
        assert!(mean.abs() <= 5.0 * f64::from(bound) / (3.0 * a.len() as f64).sqrt());
        assert!((variance * 3.0 / f64::from(bound * bound) - 1.0).abs() <= 0.05);
    }

    #[test]
    fn gaussian_has_deviation_one_over_r() {
        let a = random_a(&Init::Gaussian, [8, 2048], 0, 1).unwrap();
        let (mean, variance) = moments(&a);
        assert!(mean.abs() <= 5.0 / 8.0 / (a.len() as f64).sqrt());
        assert!((variance * 64.0 - 1.0).abs() <= 0.06);
    }

    #[test]
    fn modules_and_seeds_differ() {
        let make = |module, seed| random_a(&Init::Kaiming, [4, 64], module, seed).unwrap();
        assert_eq!(make(0, 0), make(0, 0));
        assert_ne!(make(0, 0), make(1, 0));
        assert_ne!(make(0, 0), make(0, 1));
    }
}
