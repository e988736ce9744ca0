use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use safetensors::Dtype;

use super::config::{self, LoraConfig};
use super::resolve::Target;
use super::tokens::{Table, TokenRows};
use crate::checkpoint::{Checkpoint, Tensor, TensorRef, write_tensors};
use crate::config::{Module, Qwen3Config};
use crate::error::{Error, Result};
use crate::files::{self, OutputFolder, Staged};

/// The file of an adapter's weights.
pub(crate) const WEIGHTS: &str = "adapter_model.safetensors";
/// DoRA's tensor of a module.
const MAGNITUDE: &str = "lora_magnitude_vector";
/// What PEFT calls the base's weight of a module.
const BASE: &str = "base_layer.weight";
/// PEFT's name for the model that it wraps.
const PREFIX: &str = "base_model.model.";

/// An adapter on the host.
#[derive(Debug, Clone, PartialEq)]
pub struct Adapter {
    /// What it is.
    pub config: LoraConfig,
    /// The adapted modules, in the order of the model.
    pub layers: Vec<LoraWeights>,
    /// An output head of its own that takes the place of the model's.
    pub lm_head: Option<HeadWeights>,
    /// Rows that take the place of the embedding's and the head's, the embedding's first.
    pub tokens: Vec<TokenRows>,
}

impl Adapter {
    /// Whether a model of this shape takes another output head with it: one of its own, or its table with rows that are
    /// the adapter's.
    pub fn has_head(&self, model: &Qwen3Config) -> bool {
        let of_head = |rows: &TokenRows| rows.table == Table::Head || model.tie_word_embeddings;
        self.lm_head.is_some() || self.tokens.iter().any(of_head)
    }

    /// Whether the output head and the embedding, should they be one, are two with it.
    pub(crate) fn parts_head(&self) -> bool {
        self.layers.iter().any(|layer| layer.target.module.is_end())
    }

    /// Whether nobody has found what it begins with.
    pub(crate) fn is_to_begin(&self) -> bool {
        self.layers.iter().any(|layer| layer.a.is_empty())
    }

    /// Refuses a new adapter that nobody has begun, or whose magnitudes nobody has measured.
    pub(crate) fn expect_begun(&self) -> Result<()> {
        if self.is_to_begin() {
            let reason = format!("init_lora_weights {} begins with what a model finds", self.config.init);
            return Err(Error::Adapter { path: Default::default(), reason });
        }
        let wants = |layer: &LoraWeights| if self.config.use_dora { layer.target.shape[0] } else { 0 };
        match self.layers.iter().find(|layer| layer.magnitude.len() != wants(layer)) {
            Some(layer) => {
                let (got, want) = (layer.magnitude.len(), wants(layer));
                let reason = format!("{} has {got} magnitudes, not {want}: a model measures them", layer.target.module);
                Err(Error::Adapter { path: Default::default(), reason })
            }
            None => Ok(()),
        }
    }
}

/// The weights of an output head.
#[derive(Debug, Clone, PartialEq)]
pub struct HeadWeights {
    /// `[vocab, hidden]`
    pub shape: [usize; 2],
    /// Row-major.
    pub weight: Vec<f32>,
}

/// The weights of an adapted module.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraWeights {
    /// The module, its shape `[out, in]`, and the rank.
    pub target: Target,
    /// `[r, in]`
    pub a: Vec<f32>,
    /// `[out, r]`
    pub b: Vec<f32>,
    /// `[out]`, with DoRA. A new adapter's come from the model ([`crate::model::Qwen3::measure`]).
    pub magnitude: Vec<f32>,
}

impl Adapter {
    /// Reads PEFT's adapter in a folder: both files of one save, also while another is made. Also returns notes for the
    /// user.
    ///
    /// # Errors
    /// Those of [`LoraConfig::open`] and [`LoraConfig::resolve`]; [`Error::MissingTensor`] and [`Error::Tensor`] for
    /// tensors that are absent or have other shapes than the model calls for; [`Error::Adapter`] for tensors that have
    /// no place in the model.
    pub fn open(dir: &Path, model: &Qwen3Config) -> Result<(Self, Option<String>)> {
        files::read_together(dir, &[config::FILE, WEIGHTS], || Self::read(dir, model))
    }

    fn read(dir: &Path, model: &Qwen3Config) -> Result<(Self, Option<String>)> {
        let (config, note) = LoraConfig::open(dir)?;
        let path = dir.join(WEIGHTS);
        if !path.exists() {
            let hint = "save the adapter with PEFT's safe_serialization (pickled adapter_model.bin is not read)";
            return Err(Error::MissingFile { dir: dir.to_owned(), wanted: WEIGHTS.to_owned(), hint });
        }
        let mut tensors = Tensors::open(path)?;
        let mut layers = Vec::new();
        let in_config = |e: Error| e.in_file(&dir.join(config::FILE));
        let targets = config.resolve(model).map_err(in_config)?;
        for target in targets {
            let ([rows, cols], r) = (target.shape, target.r);
            let [of_a, of_b] = factors(target.module);
            let a = tensors.take(&of_a, [r, cols])?;
            let b = tensors.take(&of_b, [rows, r])?;
            let magnitude = match config.use_dora {
                true => tensors.take(&key(target.module, MAGNITUDE), [rows])?,
                false => Vec::new(),
            };
            layers.push(LoraWeights { target, a, b, magnitude });
        }
        let mut lm_head = None;
        if config.save_lm_head {
            let shape = model.shape(Module::LmHead);
            lm_head = Some(HeadWeights { shape, weight: tensors.take(&key(Module::LmHead, "weight"), shape)? });
        }
        let mut tokens = Vec::new();
        for (table, ids) in config.tokens(model).map_err(in_config)? {
            let weight = tensors.take(&token_key(table), [ids.len(), model.hidden_size])?;
            tokens.push(TokenRows { table, ids, weight });
        }
        let copied = tensors.leave_base(&layers, model)?;
        tensors.expect_empty()?;
        let notes: Vec<String> = note.into_iter().chain(copied).collect();
        Ok((Self { config, layers, lm_head, tokens }, (!notes.is_empty()).then(|| notes.join("\n"))))
    }

    /// Writes both files of PEFT's adapter into a folder, which is made if need be. They take the place of an adapter that
    /// is there, both or neither.
    ///
    /// # Errors
    /// [`Error::Io`]: the disk is full or fails, or another process writes into the folder.
    pub fn save(&self, dir: &Path) -> Result<()> {
        let folder = OutputFolder::claim(dir)?;
        let mut weights = Staged::create(&dir.join(WEIGHTS))?;
        let mut config = self.stage(dir, &weights)?;
        let mut transaction = folder.transaction();
        [&mut weights, &mut config].into_iter().for_each(|file| transaction.add(file));
        transaction.commit()
    }

    /// Writes the weights of an adapter in `dir` to a file of it, and gives its configuration's.
    pub(crate) fn stage(&self, dir: &Path, weights: &Staged) -> Result<Staged> {
        self.expect_begun()?;
        self.write_weights(weights)?;
        let (path, text) = (dir.join(config::FILE), self.config.to_json());
        files::stage(&path, |w| w.write_all(text.as_bytes()).map_err(Error::io("write", &path)))
    }

    fn write_weights(&self, to: &Staged) -> Result<()> {
        let mut parts: Vec<(String, Vec<usize>, &[f32])> = Vec::new();
        for LoraWeights { target, a, b, magnitude } in &self.layers {
            let ([rows, cols], r) = (target.shape, target.r);
            let [of_a, of_b] = factors(target.module);
            parts.push((of_a, vec![r, cols], a));
            parts.push((of_b, vec![rows, r], b));
            if self.config.use_dora {
                parts.push((key(target.module, MAGNITUDE), vec![rows], magnitude));
            }
        }
        if let Some(head) = &self.lm_head {
            parts.push((key(Module::LmHead, "weight"), head.shape.to_vec(), &head.weight));
        }
        for TokenRows { table, ids, weight } in &self.tokens {
            parts.push((token_key(*table), vec![ids.len(), weight.len() / ids.len()], weight));
        }
        let tensors: Vec<_> = parts
            .iter()
            .map(|(name, shape, data)| Tensor { name, dtype: Dtype::F32, shape, data: bytemuck::cast_slice(data) })
            .collect();
        write_tensors(to, &tensors)
    }
}

fn key(module: Module, part: &str) -> String {
    format!("{PREFIX}{module}.{part}")
}

/// Of A and B.
fn factors(module: Module) -> [String; 2] {
    let parts = match module {
        Module::Embedding => ["lora_embedding_A", "lora_embedding_B"],
        _ => ["lora_A.weight", "lora_B.weight"],
    };
    parts.map(|part| key(module, part))
}

fn token_key(table: Table) -> String {
    format!("{PREFIX}{table}.token_adapter.trainable_tokens_delta")
}

/// The tensors of an adapter's file, each to be taken once.
struct Tensors {
    path: PathBuf,
    file: Checkpoint,
    left: BTreeSet<String>,
}

impl Tensors {
    fn open(path: PathBuf) -> Result<Self> {
        let file = Checkpoint::open_file(&path)?;
        let left = file.names().map(str::to_owned).collect();
        Ok(Self { path, file, left })
    }

    fn take<const N: usize>(&mut self, name: &str, shape: [usize; N]) -> Result<Vec<f32>> {
        let hint =
            "adapter_config.json calls for it; the two files do not belong together, or the model is another one";
        let tensor: TensorRef = self.file.get(name).ok_or_else(|| Error::MissingTensor {
            path: self.path.clone(),
            name: name.to_owned(),
            hint: hint.to_owned(),
        })?;
        self.left.remove(name);
        tensor.expect_shape(&shape)?.expect_finite()?.to_f32()
    }

    /// Leaves out what PEFT saves of the base beside matrices for its embedding and head; a note on it.
    fn leave_base(&mut self, layers: &[LoraWeights], model: &Qwen3Config) -> Result<Option<String>> {
        let mut all = Vec::new();
        for module in layers.iter().map(|layer| layer.target.module).filter(|module| module.is_end()) {
            let name = key(module, BASE);
            if let Some(tensor) = self.file.get(&name) {
                tensor.expect_shape(&model.shape(Module::LmHead))?;
                self.left.remove(&name);
                all.push(module.to_string());
            }
        }
        let (path, names) = (self.path.display(), all.join(" and "));
        Ok((!all.is_empty()).then(|| {
            format!("`{path}`: it has the base's weights of {names}, too, as PEFT saves them; the model's own are used")
        }))
    }

    fn expect_empty(&self) -> Result<()> {
        let Some(first) = self.left.first() else { return Ok(()) };
        let why = if first.ends_with(MAGNITUDE) {
            "it is DoRA's, and adapter_config.json does not say `use_dora`"
        } else if first.contains("embed_tokens") || first.ends_with(BASE) {
            "the embedding of the base was saved too; save again with `save_embedding_layers=False`"
        } else {
            "no module of this model that adapter_config.json targets has it; using the rest would give another model"
        };
        let reason = format!("{} of its tensors would go unused, the first of them `{first}`: {why}", self.left.len());
        Err(Error::Adapter { path: self.path.clone(), reason })
    }
}
