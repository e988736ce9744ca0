use std::{fmt, path::Path};

use serde_json::{Map, Number, Value, json};

use super::targets::Targets;
use super::tokens::TrainableTokens;
use crate::config::Projection;
use crate::config::keys::Keys;
use crate::error::{Error, Result};
use crate::python_json::Dumps;
use crate::{files, options};

/// The file of an adapter's configuration.
pub(crate) const FILE: &str = "adapter_config.json";
/// The version of PEFT whose format is written.
pub(crate) const PEFT_VERSION: &str = "0.21.2";
/// Before the number of steps.
const NITER: &str = "pissa_niter_";

/// What an adapter is, as `adapter_config.json` of PEFT says it.
///
/// Whatever that file asks for beyond these fields and would change the result is refused when it is read.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraConfig {
    /// Rank.
    pub r: usize,
    /// The numerator of the scaling, PEFT's `lora_alpha`.
    pub alpha: f64,
    /// The share of inputs that training drops, from 0 to below 1.
    pub dropout: f32,
    /// Whether the scaling is `alpha / √r` and not `alpha / r` (Kalajdzievski 2023, arXiv:2312.03732).
    pub use_rslora: bool,
    /// Whether each output has a magnitude that is trained, and the rest of its weight is a direction (DoRA; Liu et al.
    /// 2024, arXiv:2402.09353).
    pub use_dora: bool,
    /// The modules to adapt.
    pub target_modules: Targets,
    /// Modules not to adapt though they are targets.
    pub exclude_modules: Option<Targets>,
    /// The layers to adapt; all of them where it is empty. Modules named in full are adapted in any layer.
    pub layers_to_transform: Vec<usize>,
    /// What the parent of a layer's number may be called, each a regular expression; anything where it is empty.
    pub layers_pattern: Vec<String>,
    /// Other ranks for modules that match a regular expression; the first that matches counts.
    pub rank_pattern: Vec<(String, usize)>,
    /// Other alphas for modules that match a regular expression; the first that matches counts.
    pub alpha_pattern: Vec<(String, f64)>,
    /// Whether the adapter has an output head of its own (PEFT's `modules_to_save: ["lm_head"]`).
    pub save_lm_head: bool,
    /// Tokens that have rows of their own in the embedding or the output head.
    pub trainable_tokens: TrainableTokens,
    /// How A and B begin.
    pub init: Init,
    /// The model that the adapter is for: a folder or a name on the hub.
    pub base_model: Option<String>,
    /// PEFT's other keys, which mean nothing here, to be written as they were.
    rest: Map<String, Value>,
}

/// How A and B begin.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Init {
    /// A uniform in ±1/√in (Kaiming with a = √5), B zero: `init_lora_weights: true`.
    Kaiming,
    /// A normal with deviation 1/r, B zero: `"gaussian"`.
    Gaussian,
    /// `B A` is the principal part of the weight, which the base is left without: `"pissa"`; after so many steps of the
    /// search for it, `"pissa_niter_N"`.
    Pissa(Option<usize>),
    /// `B A` is the principal part of what quantising took from the weight, over the scaling: `"loftq"` of one iteration.
    LoftQ,
    /// Another of PEFT's that leaves the base as it is: such an adapter can be loaded but not begun here.
    Other(Value),
}

/// Keys that must be unset (null, false or empty), because they change the result.
const REFUSED: [&str; 13] = [
    "use_qalora",
    "fan_in_fan_out",
    "lora_bias",
    "ensure_weight_tying",
    "kasa_config",
    "velora_config",
    "layer_replication",
    "target_parameters",
    "megatron_config",
    "alora_invocation_tokens",
    "arrow_config",
    "use_bdlora",
    "monteclora_config",
];

/// Those of them that an empty object sets, too: PEFT fills it with defaults.
const VARIANTS: [&str; 5] = ["kasa_config", "velora_config", "arrow_config", "use_bdlora", "monteclora_config"];

/// Keys that become fields.
const FIELDS: [&str; 19] = [
    "peft_type",
    "task_type",
    "bias",
    "r",
    "lora_alpha",
    "lora_dropout",
    "use_rslora",
    "use_dora",
    "target_modules",
    "exclude_modules",
    "layers_to_transform",
    "layers_pattern",
    "rank_pattern",
    "alpha_pattern",
    "modules_to_save",
    "trainable_token_indices",
    "init_lora_weights",
    "base_model_name_or_path",
    "inference_mode",
];

/// Keys that are only carried along: where it came from, and parameters of methods that other keys switch on.
const CARRIED: [&str; 9] = [
    "auto_mapping",
    "corda_config",
    "eva_config",
    "loftq_config",
    "lora_ga_config",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
];

impl LoraConfig {
    /// An adapter with PEFT's defaults beyond the arguments.
    pub fn new(r: usize, alpha: f64, target_modules: Targets) -> Self {
        Self {
            r,
            alpha,
            dropout: 0.0,
            use_rslora: false,
            use_dora: false,
            target_modules,
            exclude_modules: None,
            layers_to_transform: Vec::new(),
            layers_pattern: Vec::new(),
            rank_pattern: Vec::new(),
            alpha_pattern: Vec::new(),
            save_lm_head: false,
            trainable_tokens: TrainableTokens::None,
            init: Init::Kaiming,
            base_model: None,
            rest: Map::new(),
        }
    }

    /// Says which model the adapter is for, and, of one on the hub, which revision if it is not the usual one.
    pub fn set_base(&mut self, name: String, revision: Option<String>) {
        self.base_model = Some(name);
        self.rest.insert("revision".into(), revision.into());
    }

    /// Reads `adapter_config.json` of a folder. Also returns a note on keys that it does not know and ignores.
    pub fn open(dir: &Path) -> Result<(Self, Option<String>)> {
        let path = dir.join(FILE);
        if !path.exists() {
            let hint = "give the folder of a PEFT LoRA adapter";
            return Err(Error::MissingFile { dir: dir.to_owned(), wanted: FILE.to_owned(), hint });
        }
        Self::parse(&path, &files::read_to_string(&path)?)
    }

    /// Parses the text of an `adapter_config.json`; `path` is for the errors.
    pub fn parse(path: &Path, text: &str) -> Result<(Self, Option<String>)> {
        let value = crate::json::parse(text.as_bytes()).map_err(Error::json(path))?;
        let keys = Keys::new(path, &value)?;
        refuse_other_methods(keys)?;
        let config = Self {
            r: keys.size("r", 1 << 16)?,
            alpha: keys.number("lora_alpha")?.unwrap_or(8.0),
            dropout: keys.number("lora_dropout")?.unwrap_or(0.0) as f32,
            use_rslora: keys.flag("use_rslora")?,
            use_dora: keys.flag("use_dora")?,
            target_modules: Targets::parse(keys, "target_modules")?.unwrap_or_else(Targets::default),
            exclude_modules: Targets::parse(keys, "exclude_modules")?,
            layers_to_transform: one_or_more(keys, "layers_to_transform")?,
            layers_pattern: one_or_more(keys, "layers_pattern")?,
            rank_pattern: pattern(keys, "rank_pattern", "a whole number", |v| usize::try_from(v.as_u64()?).ok())?,
            alpha_pattern: pattern(keys, "alpha_pattern", "a number", Value::as_f64)?,
            save_lm_head: saves_lm_head(keys)?,
            trainable_tokens: TrainableTokens::parse(keys)?,
            init: Init::parse(keys)?,
            base_model: keys.text("base_model_name_or_path")?,
            rest: CARRIED.iter().filter_map(|&k| Some((k.to_owned(), keys.raw(k)?.clone()))).collect(),
        };
        keys.in_range("lora_alpha", &options::LORA_ALPHA, Some(config.alpha))?;
        keys.in_range("lora_dropout", &options::LORA_DROPOUT, Some(config.dropout))?;
        let others = keys.others(&[&REFUSED[..], &FIELDS[..], &CARRIED[..]].concat());
        let note = (!others.is_empty())
            .then(|| format!("`{}`: keys that are not known and are ignored: {}", path.display(), others.join(", ")));
        Ok((config, note))
    }

    /// The text of `adapter_config.json` as PEFT writes it: all of its keys, sorted. "all-linear" becomes the names of
    /// the seven projections, which means the same.
    pub fn to_json(&self) -> String {
        let mut keys: Map<String, Value> =
            FIELDS.iter().chain(&CARRIED).map(|&k| (k.to_owned(), Value::Null)).collect();
        keys.extend(REFUSED.iter().map(|&k| (k.to_owned(), Value::Null)));
        for flag in ["use_qalora", "fan_in_fan_out", "lora_bias", "ensure_weight_tying"] {
            keys.insert(flag.to_owned(), false.into());
        }
        let set = json!({
            "bias": "none", "inference_mode": true, "loftq_config": {}, "megatron_core": "megatron.core",
            "peft_type": "LORA", "peft_version": PEFT_VERSION, "qalora_group_size": 16, "task_type": "CAUSAL_LM",
        });
        keys.extend(set.as_object().cloned().unwrap_or_default());
        keys.extend(self.rest.clone());
        keys.extend(self.fields().as_object().cloned().unwrap_or_default());
        // Not the inner objects: of patterns, the first that matches counts.
        keys.sort_keys();
        Dumps::new(Some(2)).dumps(&Value::Object(keys))
    }

    fn fields(&self) -> Value {
        let none_if_empty = |list: Value| if list.as_array().is_some_and(Vec::is_empty) { Value::Null } else { list };
        let ranks: Map<_, _> = self.rank_pattern.iter().map(|(k, r)| (k.clone(), json!(r))).collect();
        let alphas: Map<_, _> = self.alpha_pattern.iter().map(|(k, a)| (k.clone(), number(*a))).collect();
        json!({
            "r": self.r,
            "lora_alpha": number(self.alpha),
            "lora_dropout": shortest(self.dropout),
            "use_rslora": self.use_rslora,
            "use_dora": self.use_dora,
            "target_modules": self.target_modules.to_json(),
            "exclude_modules": self.exclude_modules.as_ref().map(Targets::to_json),
            "layers_to_transform": none_if_empty(json!(self.layers_to_transform)),
            "layers_pattern": none_if_empty(json!(self.layers_pattern)),
            "rank_pattern": ranks,
            "alpha_pattern": alphas,
            "modules_to_save": self.save_lm_head.then(|| json!(["lm_head"])),
            "trainable_token_indices": self.trainable_tokens.to_json(),
            "init_lora_weights": self.init.to_json(),
            "base_model_name_or_path": self.base_model,
        })
    }
}

impl Init {
    /// PEFT changes the base weights for pissa, olora, corda, lora_ga and loftq, also when it loads such an adapter.
    fn parse(keys: Keys) -> Result<Self> {
        const KEY: &str = "init_lora_weights";
        match keys.raw(KEY) {
            None | Some(Value::Bool(true)) => Ok(Self::Kaiming),
            Some(Value::String(s)) if s == "gaussian" => Ok(Self::Gaussian),
            Some(other) => {
                let harmless = *other == Value::Bool(false)
                    || other.as_str().is_some_and(|s| ["eva", "orthogonal", "mica"].contains(&s));
                keys.support(KEY, harmless, "what leaves the base weights as they are (true, \"gaussian\", …)")?;
                Ok(Self::Other(other.clone()))
            }
        }
    }

    fn to_json(&self) -> Value {
        match self {
            // Of LoftQ, PEFT would take from the base what a quantised one has lost already.
            Self::Kaiming | Self::LoftQ => true.into(),
            Self::Other(value) => value.clone(),
            named => named.to_string().into(),
        }
    }

    /// Of a text from the command line or a settings file, as PEFT calls them.
    pub fn from_text(text: &str) -> Option<Self> {
        match text.trim().to_ascii_lowercase().as_str() {
            "true" | "kaiming" => Some(Self::Kaiming),
            "gaussian" => Some(Self::Gaussian),
            "pissa" => Some(Self::Pissa(None)),
            "loftq" => Some(Self::LoftQ),
            other => {
                let steps = other.strip_prefix(NITER)?.parse().ok()?;
                options::PISSA_STEPS.holds(steps as f64).then_some(Self::Pissa(Some(steps)))
            }
        }
    }
}

/// As it is written on the command line.
impl fmt::Display for Init {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kaiming => f.write_str("true"),
            Self::Gaussian => f.write_str("gaussian"),
            Self::Pissa(None) => f.write_str("pissa"),
            Self::Pissa(Some(steps)) => write!(f, "{NITER}{steps}"),
            Self::LoftQ => f.write_str("loftq"),
            Self::Other(value) => value.fmt(f),
        }
    }
}

impl Default for Targets {
    /// What PEFT adapts of a Qwen3 unless told otherwise.
    fn default() -> Self {
        Self::Names(vec!["q_proj".to_owned(), "v_proj".to_owned()])
    }
}

impl Targets {
    fn parse(keys: Keys, key: &str) -> Result<Option<Self>> {
        match keys.raw(key) {
            None => Ok(None),
            Some(Value::String(text)) if text.eq_ignore_ascii_case("all-linear") => Ok(Some(Self::AllLinear)),
            Some(Value::String(text)) => Ok(Some(Self::Regex(text.clone()))),
            Some(_) => Ok(keys.get(key, "a text or a list of texts")?.map(Self::Names)),
        }
    }

    fn to_json(&self) -> Value {
        match self {
            Self::AllLinear => json!(Projection::ALL.map(Projection::name)),
            Self::Names(names) => json!(names),
            Self::Regex(pattern) => json!(pattern),
        }
    }
}

fn refuse_other_methods(keys: Keys) -> Result<()> {
    keys.support("peft_type", keys.text("peft_type")?.as_deref() == Some("LORA"), "\"LORA\"")?;
    let task = keys.text("task_type")?;
    keys.support("task_type", task.is_none_or(|t| t == "CAUSAL_LM"), "\"CAUSAL_LM\"")?;
    keys.support("bias", keys.text("bias")?.is_none_or(|b| b == "none"), "\"none\"")?;
    for key in REFUSED {
        let unset = match keys.raw(key) {
            None | Some(Value::Bool(false)) => true,
            Some(Value::Array(list)) => list.is_empty(),
            Some(Value::Object(object)) => object.is_empty() && !VARIANTS.contains(&key),
            Some(_) => false,
        };
        keys.support(key, unset, "an adapter without it")?;
    }
    Ok(())
}

fn saves_lm_head(keys: Keys) -> Result<bool> {
    let modules: Vec<String> = keys.get("modules_to_save", "a list of texts")?.unwrap_or_default();
    keys.support("modules_to_save", modules.iter().all(|m| m == "lm_head"), "[\"lm_head\"]")?;
    Ok(!modules.is_empty())
}

/// A list, or one value alone.
fn one_or_more<T: serde::de::DeserializeOwned>(keys: Keys, key: &str) -> Result<Vec<T>> {
    match keys.raw(key) {
        None => Ok(Vec::new()),
        Some(Value::Array(_)) => Ok(keys.get(key, "a list of layers or of texts")?.unwrap_or_default()),
        Some(_) => Ok(keys.get(key, "one value or a list of them")?.into_iter().collect()),
    }
}

/// An object from regular expressions to values, in the file's order.
fn pattern<T>(keys: Keys, key: &str, want: &str, read: impl Fn(&Value) -> Option<T>) -> Result<Vec<(String, T)>> {
    let Some(object) = keys.get::<Map<String, Value>>(key, "an object")? else { return Ok(Vec::new()) };
    let entries = object.iter().map(|(k, v)| Some((k.clone(), read(v)?))).collect::<Option<_>>();
    entries.ok_or_else(|| keys.wrong(key, &format!("each of its values must be {want}")))
}

/// Whole numbers without a point, as PEFT's alphas are.
fn number(v: f64) -> Value {
    if v.fract() == 0.0 && v.abs() < 1e15 { json!(v as i64) } else { json!(v) }
}

/// The f64 with the digits that the f32 shows: 0.05 and not 0.05000000074505806.
fn shortest(v: f32) -> Value {
    v.to_string().parse().ok().and_then(Number::from_f64).map_or(Value::Null, Value::Number)
}
