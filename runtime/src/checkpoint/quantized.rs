use halfbyte::quant::{Absmax, BLOCK_SIZES, Format, GROUP};
use halfbyte::{DType, host};
use safetensors::Dtype;
use serde_json::{Value, json};

use super::tensor::{Tensor, TensorRef, f32s};
use crate::config::{dtype_by_name, dtype_name};
use crate::error::{Error, Result};
use crate::json;
use crate::python_json::Dumps;

/// Codes of a 4-bit format.
pub(super) const CODES: usize = 16;
/// Entries of the 8-bit map of scales.
pub(super) const MAP: usize = 256;
/// The names of a 4-bit weight's further tensors, after its own name and a dot.
const PARTS: [&str; 6] = [
    "absmax",
    "quant_map",
    "nested_absmax",
    "nested_quant_map",
    "quant_state.bitsandbytes__nf4",
    "quant_state.bitsandbytes__fp4",
];

/// A weight `[out, in]` in bitsandbytes' 4-bit layout, as bytes of its file.
#[derive(Debug, Clone, Copy)]
pub struct Bnb4bitTensor<'a> {
    /// Which codes.
    pub format: Format,
    /// Elements that share a scale; one of [`BLOCK_SIZES`].
    pub block_size: usize,
    /// Outputs and inputs of the layer.
    pub shape: [usize; 2],
    /// The type that the weight had before, which bitsandbytes dequantises to.
    pub dtype: DType,
    /// Two codes a byte, the first in the high half, over the flattened weight: `⌈out·in / 2⌉` bytes.
    pub codes: &'a [u8],
    /// One scale for each block, `⌈out·in / block_size⌉` of them.
    pub absmax: ScaleBytes<'a>,
    /// What the 16 codes stand for: f32, little-endian.
    pub quant_map: &'a [u8],
}

/// The scales of a 4-bit weight's blocks; f32 little-endian and of any alignment.
///
/// With double quantisation, block `i` has `map[codes[i]] · groups.absmax[i / 256] + offset`.
pub type ScaleBytes<'a> = Absmax<&'a [u8], &'a [u8], GroupBytes<'a>>;

/// How a checkpoint holds its 4-bit weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuantizedAs {
    /// Which codes.
    pub format: Format,
    /// Whether the scales are quantised too.
    pub double_quant: bool,
}

impl std::fmt::Display for QuantizedAs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let double = if self.double_quant { ", double-quantised" } else { "" };
        write!(f, "{} in 4 bits{double}", self.format)
    }
}

/// What doubly quantised scales share, in groups or all.
#[derive(Debug, Clone, Copy)]
pub struct GroupBytes<'a> {
    /// An f32 for each [`GROUP`] blocks.
    pub absmax: &'a [u8],
    /// Mean of the scales.
    pub offset: f32,
    /// What the bytes stand for, 256 f32.
    pub map: &'a [u8],
}

impl<'a> Bnb4bitTensor<'a> {
    /// The weight that a tensor of this name is a part of, if it is named like one.
    pub(super) fn weight_of_part(name: &str) -> Option<&str> {
        PARTS.iter().find_map(|part| name.strip_suffix(part)?.strip_suffix('.'))
    }

    /// What the 16 codes stand for.
    pub fn quant_map(&self) -> Vec<f32> {
        f32s(self.quant_map)
    }

    /// What the weight stands for.
    ///
    /// # Errors
    /// There is too little memory for its scales.
    pub(crate) fn values(self) -> Result<Values<'a>> {
        let scales = match self.absmax {
            Absmax::Plain(absmax) => f32s(absmax),
            Absmax::Nested { codes, groups } => {
                let (map, absmax) = (f32s(groups.map), f32s(groups.absmax));
                let scale = |(i, &code): (usize, &u8)| map[usize::from(code)] * absmax[i / GROUP] + groups.offset;
                host::collect(codes.len(), codes.iter().enumerate().map(scale))?
            }
        };
        Ok(Values { map: self.quant_map(), scales, weight: self })
    }

    /// The state as bitsandbytes writes it, to the byte: `json.dumps` of its `QuantState.as_dict`.
    pub fn state_json(&self) -> String {
        let mut state = json!({
            "quant_type": self.format.to_string(),
            "blocksize": self.block_size,
            "dtype": dtype_name(self.dtype),
            "shape": self.shape,
        });
        if let Absmax::Nested { groups: GroupBytes { offset, .. }, .. } = self.absmax {
            state["nested_blocksize"] = GROUP.into();
            state["nested_dtype"] = "float32".into();
            state["nested_offset"] = f64::from(offset).into();
        }
        Dumps::new(None).dumps(&state)
    }

    /// Hands on each tensor of this weight as bitsandbytes names and shapes them.
    pub fn each_tensor(&self, name: &str, mut put: impl FnMut(Tensor) -> Result<()>) -> Result<()> {
        put(Tensor { name, dtype: Dtype::U8, shape: &[self.codes.len(), 1], data: self.codes })?;
        let mut part = |part: &str, dtype: Dtype, data: &[u8]| {
            let len = data.len() * 8 / dtype.bitsize();
            put(Tensor { name: &format!("{name}.{part}"), dtype, shape: &[len], data })
        };
        part("quant_map", Dtype::F32, self.quant_map)?;
        match self.absmax {
            Absmax::Plain(absmax) => part("absmax", Dtype::F32, absmax)?,
            Absmax::Nested { codes, groups } => {
                part("absmax", Dtype::U8, codes)?;
                part("nested_absmax", Dtype::F32, groups.absmax)?;
                part("nested_quant_map", Dtype::F32, groups.map)?;
            }
        }
        part(&state_part(self.format), Dtype::U8, self.state_json().as_bytes())
    }
}

/// The elements of a 4-bit weight as f32.
#[derive(Debug)]
pub(crate) struct Values<'a> {
    weight: Bnb4bitTensor<'a>,
    map: Vec<f32>,
    scales: Vec<f32>,
}

impl Values<'_> {
    /// The elements from `start` on, as many as `out` has.
    pub fn fill(&self, start: usize, out: &mut [f32]) {
        for (i, out) in (start..).zip(out) {
            let byte = self.weight.codes[i / 2];
            let code = if i % 2 == 0 { byte >> 4 } else { byte & 15 };
            *out = self.map[usize::from(code)] * self.scales[i / self.weight.block_size];
        }
    }
}

pub(super) fn state_part(format: Format) -> String {
    format!("quant_state.bitsandbytes__{format}")
}

pub(super) fn broken(weight: TensorRef, reason: impl Into<String>) -> Error {
    Error::Quantized { path: weight.file.to_owned(), name: weight.name.to_owned(), reason: reason.into() }
}

/// What a `quant_state.bitsandbytes__*` tensor says.
pub(super) struct QuantState {
    pub block_size: usize,
    pub shape: [usize; 2],
    pub dtype: DType,
    pub nested_offset: Option<f32>,
}

impl QuantState {
    pub fn parse(weight: TensorRef, state: TensorRef, format: Format) -> Result<Self> {
        let json = json::parse(state.data)
            .map_err(|e| broken(weight, format!("its quant_state is not JSON ({e}); download the file again")))?;
        Self::read(&json, format).map_err(|(key, want)| {
            let got = json.get(key).map_or_else(|| "missing".to_owned(), Value::to_string);
            broken(weight, format!("its quant_state has `{key}` {got}, but {want}"))
        })
    }

    /// The fields, or the key that is wrong and what it must be.
    fn read(json: &Value, format: Format) -> Result<Self, (&'static str, String)> {
        let text = |key| json.get(key).and_then(Value::as_str);
        let size = |v: &Value| v.as_u64().and_then(|v| usize::try_from(v).ok()).filter(|&v| v > 0);
        if text("quant_type") != Some(&format.to_string()) {
            return Err(("quant_type", format!("its name says {format}")));
        }
        let block_size = json.get("blocksize").and_then(size).filter(|b| BLOCK_SIZES.contains(b));
        let dtype = text("dtype").and_then(dtype_by_name);
        Ok(Self {
            block_size: block_size.ok_or_else(|| ("blocksize", format!("it must be one of {BLOCK_SIZES:?}")))?,
            shape: shape(json, size).ok_or_else(|| ("shape", "it must be [out, in]".to_owned()))?,
            dtype: dtype.ok_or_else(|| ("dtype", "it must be bfloat16, float16 or float32".to_owned()))?,
            nested_offset: nested_offset(json)?,
        })
    }
}

fn shape(json: &Value, size: impl Fn(&Value) -> Option<usize>) -> Option<[usize; 2]> {
    let [rows, cols] = json.get("shape")?.as_array()?.as_slice() else { return None };
    let shape = [size(rows)?, size(cols)?];
    // So that sizes in bytes do not overflow.
    shape[0].checked_mul(shape[1])?.checked_mul(8)?;
    Some(shape)
}

/// The offset of doubly quantised scales; none if they are plain.
fn nested_offset(json: &Value) -> Result<Option<f32>, (&'static str, String)> {
    let Some(offset) = json.get("nested_offset") else { return Ok(None) };
    if json.get("nested_blocksize").and_then(Value::as_u64) != Some(GROUP as u64) {
        return Err(("nested_blocksize", format!("only {GROUP} is supported; quantise the checkpoint again")));
    }
    if json.get("nested_dtype").and_then(Value::as_str) != Some("float32") {
        return Err(("nested_dtype", "only float32 is supported; quantise the checkpoint again".to_owned()));
    }
    let offset = offset.as_f64().map(|v| v as f32).filter(|v| v.is_finite());
    offset.map(Some).ok_or_else(|| ("nested_offset", "it must be a finite number".to_owned()))
}
