use halfbyte::elements;
use regex::Regex;

use super::{LoraConfig, Table};
use crate::config::{Module, Projection, Qwen3Config};
use crate::{Error, Result, options};

/// Modules by name, as PEFT takes them.
#[derive(Debug, Clone, PartialEq)]
pub enum Targets {
    /// Every linear map of the layers; not the output head.
    AllLinear,
    /// Modules with one of these names, or whose names end in a dot and one of them.
    Names(Vec<String>),
    /// Modules whose whole name matches a regular expression.
    Regex(String),
}

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

impl Targets {
    /// Of a text from the command line or a settings file: `all-linear`, names with commas between them, or, where it has
    /// characters that no such list has, a regular expression.
    pub fn from_text(text: &str) -> Self {
        let text = text.trim();
        if text.eq_ignore_ascii_case("all-linear") {
            return Self::AllLinear;
        }
        if text.chars().all(|c| c.is_ascii_alphanumeric() || "_-., ".contains(c)) {
            let names = text.split(',').map(str::trim).filter(|n| !n.is_empty());
            return Self::Names(names.map(str::to_owned).collect());
        }
        Self::Regex(text.to_owned())
    }

    /// A matcher for names of modules; every entry must match a module of the model.
    fn compile(&self, key: &str, model: &Qwen3Config) -> Result<Matcher> {
        let matcher = match self {
            Self::AllLinear => return Ok(Matcher::AllLinear),
            Self::Names(names) => {
                for name in names {
                    let found = model.modules().any(|m| named(&m.to_string(), name).is_some());
                    expect_match(found, key, name, model)?;
                }
                return Ok(Matcher::Names(names.clone()));
            }
            Self::Regex(pattern) => Matcher::Regex(compile(key, pattern, |p| format!("(?:{p})"))?),
        };
        if let Self::Regex(pattern) = self {
            expect_match(model.modules().any(|m| matcher.find(&m).is_some()), key, pattern, model)?;
        }
        Ok(matcher)
    }
}

impl LoraConfig {
    /// The modules of a model to adapt, in the order of the model, each with its rank and scaling.
    ///
    /// # Errors
    /// [`Error::Setting`] for a rank, an alpha or a dropout out of range; [`Error::Target`] for an entry of a list or
    /// pattern that matches nothing or is no regular expression, if nothing is left to adapt, and if an output head would
    /// be saved that is also the embedding.
    pub fn resolve(&self, model: &Qwen3Config) -> Result<Vec<Target>> {
        if self.save_lm_head && model.tie_word_embeddings {
            let reason = "the model's output head is its embedding, and an adapter's own head would part the two; leave \
                          it out";
            return Err(target_error("modules_to_save", "lm_head", reason));
        }
        options::LORA_DROPOUT.check(self.dropout)?;
        let chosen = self.choose(model)?;
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
    /// [`Error::Target`] for a module that is no such table, a token that the model has not or that comes twice, and a head
    /// that would be parted from the embedding that it is or that is trained whole.
    pub fn tokens(&self, model: &Qwen3Config) -> Result<Vec<(Table, Vec<u32>)>> {
        let tokens = self.trainable_tokens.resolve(model)?;
        if self.save_lm_head && tokens.iter().any(|(table, _)| *table == Table::Head) {
            let reason = "the head is trained whole (`modules_to_save`); leave one of the two out";
            return Err(target_error("trainable_token_indices", "lm_head", reason));
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
            elements::<f32>(&[sum + a + b])
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
                    (Some(Match::Suffix), Module::LmHead) => false,
                }
        };
        let chosen: Vec<_> = model.modules().filter(keep).collect();
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

/// How a module's name matched; only an ending is subject to `layers_to_transform`.
#[derive(Clone, Copy)]
enum Match {
    Exact,
    Suffix,
}

enum Matcher {
    AllLinear,
    Names(Vec<String>),
    Regex(Regex),
}

impl Matcher {
    fn find(&self, module: &Module) -> Option<Match> {
        let name = module.to_string();
        match self {
            Self::AllLinear => (*module != Module::LmHead).then_some(Match::Exact),
            Self::Regex(regex) => regex.is_match(&name).then_some(Match::Exact),
            Self::Names(names) => {
                let found = names.iter().filter_map(|n| named(&name, n));
                found.min_by_key(|m| matches!(m, Match::Suffix))
            }
        }
    }
}

fn named(module: &str, name: &str) -> Option<Match> {
    let parent = module.strip_suffix(name)?;
    match parent {
        "" => Some(Match::Exact),
        _ => parent.ends_with('.').then_some(Match::Suffix),
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

/// Compiles a regular expression of Python's to match whole names.
fn compile(key: &str, pattern: &str, wrap: impl Fn(&str) -> String) -> Result<Regex> {
    let refuse = |reason: &str| target_error(key, pattern, reason);
    if let Some(construct) = differs_from_python(pattern) {
        return Err(refuse(&format!("`{construct}` means something else in Python; write it in another way")));
    }
    // On its own first, so that the error is about what was written.
    let unsupported = |e: regex::Error| {
        refuse(&format!("not a regular expression that is supported (no look-around, no references): {e}"))
    };
    Regex::new(pattern).map_err(unsupported)?;
    Regex::new(&format!(r"\A(?:{})\z", wrap(pattern))).map_err(unsupported)
}

/// A construct that the regex crate understands but not as Python's `re` does.
fn differs_from_python(pattern: &str) -> Option<&'static str> {
    const ANYWHERE: [&str; 9] = [r"\<", r"\>", r"\b{", r"\p", r"\P", "++", "*+", "?+", "}+"];
    const IN_CLASS: [&str; 4] = ["[", "&&", "--", "~~"];
    let mut in_class = false;
    let mut rest = pattern;
    while let Some(c) = rest.chars().next() {
        let constructs: &[&'static str] = if in_class { &IN_CLASS } else { &ANYWHERE };
        if let Some(found) = constructs.iter().find(|&&x| rest.starts_with(x)) {
            return Some(found);
        }
        let skip = match c {
            '\\' => rest.chars().take(2).map(char::len_utf8).sum(),
            // A bracket that comes first does not close its class.
            '[' => ["[^]", "[]", "[^", "["].into_iter().find(|open| rest.starts_with(open)).map_or(1, str::len),
            _ => c.len_utf8(),
        };
        in_class = c == '[' || in_class && c != ']';
        rest = &rest[skip..];
    }
    None
}

fn expect_match(found: bool, key: &str, entry: &str, model: &Qwen3Config) -> Result<()> {
    if found {
        return Ok(());
    }
    let names = Projection::ALL.map(Projection::name).join(", ");
    let reason = format!(
        "it matches no module; this model has {names} in `model.layers.0` to `model.layers.{}`, and lm_head",
        model.n_layers - 1
    );
    Err(target_error(key, entry, &reason))
}

fn target_error(key: &str, entry: &str, reason: &str) -> Error {
    Error::Target { target: format!("`{entry}` of `{key}`"), reason: reason.to_owned() }
}

/// As it is written on the command line.
impl std::fmt::Display for Targets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AllLinear => f.write_str("all-linear"),
            Self::Names(names) => f.write_str(&names.join(",")),
            Self::Regex(pattern) => f.write_str(pattern),
        }
    }
}
