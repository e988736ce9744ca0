//! From a checkpoint's files to a backend's memory, quantising on the way.

use super::{
    qwen3::{Layer, Qwen3},
    rope::RopeTables,
    weights::{MergedLinear, QuantizedWeight, Weight, blocks_of, bytes_of, groups_of},
};
use crate::{
    checkpoint::{self, Checkpoint, TensorRef},
    config::{Module, Projection, Qwen3Config},
    error::{Error, Result},
    screen::bars,
};
use half::{bf16, f16};
use halfbyte::{
    Backend, Buf, DType, DenseBuf, Element, Float, ViewMut, host,
    ops::{Cast, Op},
    quant::{self, Absmax, Format, GROUP, Group},
};
use indicatif::{ProgressBar, ProgressStyle};
use std::{borrow::Cow, ops::Range, sync::OnceLock, time::Instant};
use tracing::{debug, info};

/// How to hold the linear layers that a checkpoint has unquantised. Those that it has in 4 bits stay as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Base {
    /// In the compute type.
    Unquantized,
    /// In 4 bits, quantised while loading.
    Quantized {
        /// nf4 or fp4.
        format: Format,
        /// Elements that share a scale; bitsandbytes' default is 64.
        block_size: usize,
        /// Whether the scales are quantised too.
        double_quant: bool,
    },
}

impl Base {
    /// Whether a weight can lie behind others of so many elements in one: whether the scales line up.
    pub(super) fn lines_up(self, elements: usize) -> bool {
        elements.is_multiple_of(match self {
            Base::Unquantized => 1,
            Base::Quantized { block_size, double_quant: false, .. } => block_size,
            Base::Quantized { block_size, double_quant: true, .. } => block_size * GROUP,
        })
    }
}

/// A weight on its way.
pub(super) struct Source<'a> {
    pub(super) rows: usize,
    pub(super) weight: checkpoint::Weight<'a>,
    pub(super) held: Base,
}

impl<'a> Source<'a> {
    pub(super) fn new(files: &'a Checkpoint, base: Base, name: &str, shape: [usize; 2]) -> Result<Self> {
        let weight = files.weight(name, shape)?;
        let held = match &weight {
            checkpoint::Weight::Quantized(w) => {
                Base::Quantized { format: w.format, block_size: w.block_size, double_quant: has_standard_map(w)? }
            }
            _ => base,
        };
        if let checkpoint::Weight::Quantized(w) = &weight {
            check_codes(files, w, name)?;
        }
        Ok(Source { rows: shape[0], weight, held })
    }
}

/// Whether the scales are nested with the one map that kernels know; other maps are undone while loading.
fn has_standard_map(weight: &checkpoint::Bnb4bitTensor) -> Result<bool> {
    match weight.absmax {
        Absmax::Nested { groups, .. } => Ok(elements::<f32>(groups.map)? == quant::DYNAMIC_MAP.as_slice()),
        Absmax::Plain(_) => Ok(false),
    }
}

fn check_codes(files: &Checkpoint, weight: &checkpoint::Bnb4bitTensor, name: &str) -> Result<()> {
    if weight.quant_map() == weight.format.codes() {
        return Ok(());
    }
    let want = format!("the {} codes of bitsandbytes; quantise the checkpoint again", weight.format);
    let name = format!("{name}.quant_map");
    let path = files.tensor(&name)?.file.to_owned();
    Err(Error::Tensor { path, name, got: "other codes".into(), want })
}

/// `bytes` as elements, copied only where they are not aligned.
fn elements<S: Element>(bytes: &[u8]) -> Result<Cow<'_, [S]>> {
    if let Ok(aligned) = bytemuck::try_cast_slice(bytes) {
        return Ok(Cow::Borrowed(aligned));
    }
    let pieces = bytes.chunks_exact(size_of::<S>());
    Ok(Cow::Owned(host::collect(pieces.len(), pieces.map(bytemuck::pod_read_unaligned))?))
}

/// Which memory a weight lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Home {
    /// The device's.
    Device,
    /// The host's, from which ops read as much as they need.
    Host,
}

impl Home {
    pub(super) fn zeros<B: Backend, T: Element>(self, backend: &B, len: usize) -> Result<Buf<B, T>> {
        Ok(if self == Home::Host { backend.zeros_on_host(len)? } else { backend.zeros(len)? })
    }
}

/// Puts weights into a backend's memory.
pub(super) struct Loader<'a, B: Backend> {
    pub(super) backend: &'a B,
    pub(super) files: &'a Checkpoint,
    pub(super) base: Base,
}

/// `$body` with `$S` the element type of `$tensor`.
macro_rules! with_dtype {
    ($tensor:expr, $S:ident => $body:expr) => {
        match $tensor.float() {
            Some(DType::Bf16) => {
                type $S = bf16;
                $body
            }
            Some(DType::F16) => {
                type $S = f16;
                $body
            }
            Some(DType::F32) => {
                type $S = f32;
                $body
            }
            None => Err($tensor.wrong("bfloat16, float16 or float32")),
        }
    };
}

impl<'a, B: Backend> Loader<'a, B> {
    /// `tensor` in the compute type, into `out`.
    fn dense<T: Float>(&self, tensor: TensorRef, out: ViewMut<'_, B, T>) -> Result<()> {
        let tensor = tensor.expect_finite()?;
        with_dtype!(tensor, S => {
            let host = elements::<S>(tensor.data)?;
            if S::DTYPE == T::DTYPE {
                self.backend.write(bytemuck::cast_slice(&host), out)?;
            } else {
                let x = self.backend.upload(&host)?;
                Cast { x: x.view(), out }.run(self.backend)?;
            }
            Ok(())
        })
    }

    /// A tensor `[rows, cols]` in the compute type.
    fn matrix<T: Float>(&self, name: &str, shape: [usize; 2], home: Home) -> Result<Buf<B, T>> {
        let tensor = self.files.tensor(name)?.expect_shape(&shape)?;
        let mut out = home.zeros(self.backend, shape[0] * shape[1])?;
        self.dense(tensor, out.view_mut())?;
        Ok(out)
    }

    /// A norm's weight.
    fn vector(&self, name: &str, len: usize) -> Result<Buf<B, f32>> {
        let host = self.files.tensor(name)?.expect_shape(&[len])?.expect_finite()?.to_f32()?;
        Ok(self.backend.upload(&host)?)
    }

    /// The output head: in 4 bits only where the checkpoint has it so.
    fn head<T: Float>(&self, config: &Qwen3Config) -> Result<Weight<B, T>> {
        let shape = config.shape(Module::LmHead);
        let source = Source::new(self.files, Base::Unquantized, "lm_head.weight", shape)?;
        self.weight(&[source], shape[1])
    }

    /// Layers with one input, merged where they are held alike.
    fn merged<T: Float>(
        &self,
        config: &Qwen3Config,
        layer: usize,
        projections: &[Projection],
    ) -> Result<MergedLinear<B, T>> {
        let (parts, modules) = (Vec::new(), Vec::new());
        let mut linear = MergedLinear { parts, modules, in_features: 0, out_features: 0 };
        let mut pending: Vec<Source> = Vec::new();
        let mut cols = 0;
        for &projection in projections {
            let module = Module::Layer(layer, projection);
            let [rows, k] = config.shape(module);
            (cols, linear.in_features) = (k, k);
            let source = Source::new(self.files, self.base, &format!("{module}.weight"), [rows, k])?;
            if pending.last().is_some_and(|last| !joins(last, &source, k)) {
                self.push(&mut linear, std::mem::take(&mut pending), k)?;
            }
            pending.push(source);
            linear.modules.push((projection, linear.out_features..linear.out_features + rows));
            linear.out_features += rows;
        }
        self.push(&mut linear, pending, cols)?;
        Ok(linear)
    }

    /// The next part of a merged layer.
    fn push<T: Float>(&self, linear: &mut MergedLinear<B, T>, sources: Vec<Source>, cols: usize) -> Result<()> {
        let start = linear.parts.last().map_or(0, |(_, columns)| columns.end);
        let rows: usize = sources.iter().map(|s| s.rows).sum();
        linear.parts.push((self.weight(&sources, cols)?, start..start + rows));
        Ok(())
    }

    /// Weights that are held alike as one.
    pub(super) fn weight<T: Float>(&self, sources: &[Source], cols: usize) -> Result<Weight<B, T>> {
        let rows: usize = sources.iter().map(|s| s.rows).sum();
        match sources[0].held {
            Base::Unquantized => {
                let mut out = self.backend.zeros(rows * cols)?;
                for (source, range) in placed(sources, cols) {
                    let checkpoint::Weight::Dense(tensor) = &source.weight else { continue };
                    self.dense(*tensor, out.at_mut(range))?;
                }
                Ok(Weight::Dense(DenseBuf::new(out, [rows, cols])))
            }
            Base::Quantized { format, block_size, double_quant } => {
                let mut weight = QuantizedWeight::zeros(self.backend, format, block_size, double_quant, [rows, cols])?;
                for (source, range) in placed(sources, cols) {
                    self.quantized(source, &mut weight, range)?;
                }
                Ok(Weight::Quantized(weight))
            }
        }
    }

    /// One source into its elements `range` of a 4-bit weight.
    fn quantized(&self, source: &Source, weight: &mut QuantizedWeight<B>, range: Range<usize>) -> Result<()> {
        match &source.weight {
            checkpoint::Weight::Dense(tensor) => with_dtype!(tensor.expect_finite()?, S => {
                weight.quantize(self.backend, self.backend.upload(&elements::<S>(tensor.data)?)?.view(), range)
            }),
            checkpoint::Weight::Quantized(stored) => {
                self.backend.write(stored.codes, weight.codes.at_mut(bytes_of(&range)))?;
                self.scales(stored, weight, range)
            }
        }
    }

    /// Scales as the checkpoint has them; nested ones with a map of their own are undone.
    fn scales(
        &self,
        stored: &checkpoint::Bnb4bitTensor,
        weight: &mut QuantizedWeight<B>,
        range: Range<usize>,
    ) -> Result<()> {
        let blocks = blocks_of(&range, weight.block_size);
        match (&stored.absmax, &mut weight.scales) {
            (Absmax::Plain(values), Absmax::Plain(absmax)) => {
                self.backend.write(&elements(values)?, absmax.at_mut(blocks))?;
            }
            (&Absmax::Nested { codes, groups }, Absmax::Nested { codes: nested, groups: out }) => {
                let group = |absmax| Group { absmax, offset: groups.offset };
                let scales = elements(groups.absmax)?;
                let groups = host::collect(scales.len(), scales.iter().map(|&absmax| group(absmax)))?;
                self.backend.write(&groups, out.at_mut(groups_of(&blocks)))?;
                self.backend.write(codes, nested.at_mut(blocks))?;
            }
            (Absmax::Nested { codes, groups }, Absmax::Plain(absmax)) => {
                let (map, offset, groups) =
                    (elements::<f32>(groups.map)?, groups.offset, elements::<f32>(groups.absmax)?);
                let undone = |(i, &code): (usize, &u8)| map[usize::from(code)] * groups[i / GROUP] + offset;
                let values = host::collect(codes.len(), codes.iter().enumerate().map(undone))?;
                self.backend.write(&values, absmax.at_mut(blocks))?;
            }
            // `Source::new` makes nested weights only of sources that are quantised here or have nested scales.
            (Absmax::Plain(_), Absmax::Nested { .. }) => {}
        }
        Ok(())
    }
}

/// Each source and its elements in the merged weight.
fn placed<'s, 'a>(sources: &'s [Source<'a>], cols: usize) -> impl Iterator<Item = (&'s Source<'a>, Range<usize>)> {
    sources.iter().scan(0, move |row, source| {
        let start = *row * cols;
        *row += source.rows;
        Some((source, start..*row * cols))
    })
}

/// Whether `next` can lie behind `last` in one weight: held alike, and the scales line up.
fn joins(last: &Source, next: &Source, cols: usize) -> bool {
    last.held == next.held && last.held.lines_up(last.rows * cols)
}

/// Whether the output head is not the embedding: where config.json says so, and where the file has another one all the
/// same, which transformers uses, too.
pub(crate) fn head_is_separate(files: &Checkpoint, config: &Qwen3Config) -> Result<bool> {
    let Some(head) = files.get("lm_head.weight") else { return Ok(!config.tie_word_embeddings) };
    let embedding = files.tensor("model.embed_tokens.weight")?;
    Ok(!config.tie_word_embeddings || (head.dtype, head.data) != (embedding.dtype, embedding.data))
}

/// What the user should know about a checkpoint whose files contradict each other.
///
/// # Errors
/// It has no embedding.
pub fn checkpoint_note(files: &Checkpoint, config: &Qwen3Config) -> Result<Option<String>> {
    let contradiction = config.tie_word_embeddings && head_is_separate(files, config)?;
    let dir = files.dir().display();
    let head = contradiction.then(|| {
        format!(
            "`{dir}`: config.json ties the output head to the embedding, but there is another `lm_head.weight`: the \
             model uses that one, as in transformers; set `tie_word_embeddings` to false, or remove it"
        )
    });
    let others = files.others(&config.tensor_names().collect());
    let unused = others.first().map(|first| {
        format!(
            "`{dir}`: {} of its tensors are no part of the model that config.json describes and are not used, as in \
             transformers; the first of them is `{first}`",
            others.len()
        )
    });
    let notes: Vec<String> = head.into_iter().chain(unused).collect();
    Ok((!notes.is_empty()).then(|| notes.join("\n")))
}

impl<B: Backend, T: Float> Qwen3<B, T> {
    /// Puts the weights of a checkpoint into `backend`'s memory.
    ///
    /// # Errors
    /// A tensor is missing, of another shape or damaged; the device has too little memory.
    pub fn load(backend: &B, files: &Checkpoint, config: &Qwen3Config, base: Base) -> Result<Self> {
        Self::load_with(backend, files, config, base, Home::Device)
    }

    /// The same, with a place for the embedding.
    ///
    /// # Errors
    /// Those of [`Qwen3::load`].
    pub fn load_with(
        backend: &B,
        files: &Checkpoint,
        config: &Qwen3Config,
        base: Base,
        embedding: Home,
    ) -> Result<Self> {
        backend.warm_up();
        let (loader, bar) = (Loader { backend, files, base }, bar("loading", config.n_layers, "layers"));
        let (table, began) = ([config.vocab_size, config.hidden_size], Instant::now());
        let model = Qwen3 {
            config: config.clone(),
            embedding: loader.matrix("model.embed_tokens.weight", table, embedding)?,
            layers: (0..config.n_layers).map(|i| loader.told_layer(config, i, &bar)).collect::<Result<_>>()?,
            norm: loader.vector("model.norm.weight", config.hidden_size)?,
            head: if head_is_separate(files, config)? { Some(loader.head(config)?) } else { None },
            screen: OnceLock::new(),
            rope: RopeTables::new(backend, config)?,
        };
        backend.synchronize()?; // ops may read them early (`Linear::settled`)
        bar.finish_and_clear();
        info!(?base, layers = config.n_layers, took = ?began.elapsed(), "weights were loaded");
        Ok(model)
    }
}

impl<B: Backend> Loader<'_, B> {
    fn told_layer<T: Float>(&self, config: &Qwen3Config, i: usize, bar: &ProgressBar) -> Result<Layer<B, T>> {
        let began = Instant::now();
        let layer = self.layer(config, i)?;
        bar.inc(1);
        debug!(layer = i, took = ?began.elapsed(), "weights were read, and quantised where they are to be");
        Ok(layer)
    }

    fn layer<T: Float>(&self, config: &Qwen3Config, i: usize) -> Result<Layer<B, T>> {
        use Projection::{Down, Gate, K, O, Q, Up, V};
        let norm = |name: &str, len| self.vector(&format!("model.layers.{i}.{name}.weight"), len);
        Ok(Layer {
            attention_norm: norm("input_layernorm", config.hidden_size)?,
            q_norm: norm("self_attn.q_norm", config.head_dim)?,
            k_norm: norm("self_attn.k_norm", config.head_dim)?,
            mlp_norm: norm("post_attention_layernorm", config.hidden_size)?,
            qkv: self.merged(config, i, &[Q, K, V])?,
            o: self.merged(config, i, &[O])?,
            gate_up: self.merged(config, i, &[Gate, Up])?,
            down: self.merged(config, i, &[Down])?,
        })
    }
}

/// How far something that takes long is, for a terminal.
pub(super) fn bar(what: &str, n: usize, unit: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(&format!("{what} {{wide_bar}} {{pos}}/{{len}} {unit} {{eta}}"));
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::with_draw_target(Some(n as u64), bars()).with_style(style)
}
