//! Which modules of a model a configuration adapts, and how.

use halfbyte::elements;
use regex::Regex;

use super::config::LoraConfig;
use super::targets::{Match, Targets, compile, expect_match, target_error};
use super::tokens::Table;
use crate::config::{Module, Qwen3Config};
use crate::error::Result;
use crate::options;

/// A module that an adapter adapts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Target {
    /// Which one.
    pub module: Module,
    /// Rank.
    pub r: usize,
    /// What `B A x` is multiplied by.
    pub scaling: f32,
    /// Outputs and inputs of the module.
    pub shape: [usize; 2],
}

impl LoraConfig {
    /// The modules of a model to adapt, in the order of the model, each with its rank and scaling.
    ///
    /// # Errors
    /// [`Error::Setting`] for a rank, an alpha or a dropout out of range; [`Error::Target`] for an entry of a list or
    /// pattern that matches nothing or is no regular expression, if nothing is left to adapt, if an output head would be
    /// saved that is also the embedding, and for DoRA on the
    /// embedding or the head.
    ///
    /// [`Error::Setting`]: crate::error::Error::Setting
    /// [`Error::Target`]: crate::error::Error::Target
    pub fn resolve(&self, model: &Qwen3Config) -> Result<Vec<Target>> {
        if self.save_lm_head && model.tie_word_embeddings {
            let reason = "the model's output head is its embedding, and an adapter's own head would part the two; adapt \
                          it (`target_modules`), or leave it out";
            return Err(target_error("modules_to_save", "lm_head", reason));
        }
        options::LORA_DROPOUT.check(self.dropout)?;
        let chosen = self.choose(model)?;
        if let (true, Some(end)) = (self.use_dora, chosen.iter().find(|module| module.is_end())) {
            let reason = "DoRA (`use_dora`) is for the layers' linear maps; leave one of the two out";
            return Err(target_error("target_modules", &end.to_string(), reason));
        }
        let ranks = patterns("rank_pattern", &self.rank_pattern, &chosen)?;
        let alphas = patterns("alpha_pattern", &self.alpha_pattern, &chosen)?;
        let with_rank = |module: Module| {
            let name = module.to_string();
            let r = first(&ranks, &name).unwrap_or(self.r);
            let alpha = first(&alphas, &name).unwrap_or(self.alpha);
            let scaling = self.scaling(r, alpha)?;
            Ok(Target { module, r, scaling, shape: model.shape(module) })
        };
        chosen.into_iter().map(with_rank).collect()
    }

    /// The tokens that have rows of their own in each table of a model, the embedding first. A head that is the embedding
    /// follows it.
    ///
    /// # Errors
    /// [`Error::Target`] for a module that is no such table, a token that the model has not or that comes twice, a head
    /// that would be parted from the embedding that it is or that is trained whole, and a table that is adapted, too.
    ///
    /// [`Error::Target`]: crate::error::Error::Target
    pub fn tokens(&self, model: &Qwen3Config) -> Result<Vec<(Table, Vec<u32>)>> {
        let tokens = self.trainable_tokens.resolve(model)?;
        if self.save_lm_head && tokens.iter().any(|(table, _)| *table == Table::Head) {
            let reason = "the head is trained whole (`modules_to_save`); leave one of the two out";
            return Err(target_error("trainable_token_indices", "lm_head", reason));
        }
        let has_rows = |module: &Module| match module {
            Module::Embedding => tokens.iter().any(|(table, _)| *table == Table::Embedding),
            Module::LmHead => tokens.iter().any(|(table, _)| *table == Table::Head || model.tie_word_embeddings),
            Module::Layer(..) => false,
        };
        if let Some(end) = self.choose(model)?.iter().find(|module| has_rows(module)) {
            let reason = "rows of it are trained whole (`trainable_token_indices`); leave one of the two out";
            return Err(target_error("target_modules", &end.to_string(), reason));
        }
        Ok(tokens)
    }

    /// Bytes of the adapter's weights for a model.
    ///
    /// # Errors
    /// Those of [`LoraConfig::resolve`] and [`LoraConfig::tokens`]; or no memory could hold them.
    pub fn weight_bytes(&self, model: &Qwen3Config) -> Result<usize> {
        let head = if self.save_lm_head { elements::<f32>(&model.shape(Module::LmHead))? } else { 0 };
        // What `elements` has let pass is below 2^61, so that three such numbers can be added.
        let rows = |sum: usize, ids: usize| elements::<f32>(&[sum + elements::<f32>(&[ids, model.hidden_size])?]);
        let fixed = self.tokens(model)?.iter().try_fold(head, |sum, (_, ids)| rows(sum, ids.len()))?;
        let add = |sum: usize, t: &Target| {
            let (a, b) = (elements::<f32>(&[t.r, t.shape[1]])?, elements::<f32>(&[t.shape[0], t.r])?);
            let magnitudes = if self.use_dora { t.shape[0] } else { 0 };
            elements::<f32>(&[elements::<f32>(&[sum + a + b])? + magnitudes])
        };
        Ok(self.resolve(model)?.iter().try_fold(fixed, add)? * size_of::<f32>())
    }

    fn scaling(&self, r: usize, alpha: f64) -> Result<f32> {
        options::LORA_R.check(r)?;
        options::LORA_ALPHA.check(alpha)?;
        let scaling = alpha / if self.use_rslora { (r as f64).sqrt() } else { r as f64 };
        if !(scaling as f32).is_finite() {
            return Err(target_error("lora_alpha", &alpha.to_string(), "it must be a finite number"));
        }
        Ok(scaling as f32)
    }

    /// The modules that are targets, in layers to adapt, and not excluded.
    fn choose(&self, model: &Qwen3Config) -> Result<Vec<Module>> {
        let targets = self.target_modules.compile("target_modules", model)?;
        let excluded = self.exclude_modules.as_ref().map(|e| e.compile("exclude_modules", model)).transpose()?;
        let layers = self.layers(model)?;
        let keep = |module: &Module| {
            let excluded = excluded.as_ref().is_some_and(|e| e.find(module).is_some());
            let replaced = self.save_lm_head && *module == Module::LmHead;
            !excluded
                && !replaced
                && match (targets.find(module), module) {
                    (None, _) => false,
                    (Some(Match::Exact), _) => true,
                    (Some(Match::Suffix), _) if layers.is_empty() => true,
                    (Some(Match::Suffix), Module::Layer(i, _)) => layers.contains(i),
                    (Some(Match::Suffix), Module::Embedding | Module::LmHead) => false,
                }
        };
        let chosen: Vec<_> = model.adaptable().filter(keep).collect();
        if chosen.is_empty() && !self.save_lm_head {
            let reason = "nothing is left to adapt once excluded modules and layers are taken away";
            return Err(target_error("target_modules", &self.target_modules.to_string(), reason));
        }
        Ok(chosen)
    }

    /// The layers to adapt; none named is all of them.
    fn layers(&self, model: &Qwen3Config) -> Result<&[usize]> {
        let key = if self.layers_to_transform.is_empty() { "layers_pattern" } else { "layers_to_transform" };
        if self.layers_to_transform.is_empty() && self.layers_pattern.is_empty() {
            return Ok(&[]);
        }
        if self.layers_to_transform.is_empty() || !matches!(self.target_modules, Targets::Names(_)) {
            let reason = "it only goes with `layers_to_transform` and a list of `target_modules`";
            return Err(target_error(key, "…", reason));
        }
        if let Some(layer) = self.layers_to_transform.iter().find(|&&l| l >= model.n_layers) {
            let reason = format!("the model has layers 0 to {}", model.n_layers - 1);
            return Err(target_error(key, &layer.to_string(), &reason));
        }
        for pattern in &self.layers_pattern {
            let regex = compile("layers_pattern", pattern, |p| format!(r"(?:.*?\.)?(?:{p})\.\d+\..*"))?;
            expect_match(regex.is_match("model.layers.0.mlp.up_proj"), "layers_pattern", pattern, model)?;
        }
        Ok(&self.layers_to_transform)
    }
}

/// PEFT's patterns match at the end of a module's name, from a dot on. Each must match one of the modules.
fn patterns<T: Copy>(key: &str, patterns: &[(String, T)], modules: &[Module]) -> Result<Vec<(Regex, T)>> {
    let one = |(pattern, value): &(String, T)| {
        let regex = compile(key, pattern, |p| format!(r"(?:.*\.)?(?:{p})"))?;
        if !modules.iter().any(|m| regex.is_match(&m.to_string())) {
            return Err(target_error(key, pattern, "it matches no module that is adapted; mend it or take it out"));
        }
        Ok((regex, *value))
    };
    patterns.iter().map(one).collect()
}

fn first<T: Copy>(patterns: &[(Regex, T)], name: &str) -> Option<T> {
    patterns.iter().find(|(regex, _)| regex.is_match(name)).map(|&(_, value)| value)
}
