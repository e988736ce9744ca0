//! The weights of a checkpoint, dense or in 4 bits.

use halfbyte::quant::{Absmax, Format, GROUP};
use safetensors::Dtype;

use super::quantized::{Bnb4bitTensor, CODES, GroupBytes, MAP, QuantState, QuantizedAs, broken, state_part};
use super::reader::Checkpoint;
use super::tensor::TensorRef;
use crate::error::Result;

/// A weight as a checkpoint has it.
#[derive(Debug, Clone, Copy)]
pub enum Weight<'a> {
    /// Unquantised, of a floating-point type.
    Dense(TensorRef<'a>),
    /// In bitsandbytes' 4 bits.
    Quantized(Bnb4bitTensor<'a>),
}

impl Checkpoint {
    /// How the first of its 4-bit weights is held; `None` where all are unquantised.
    pub fn quantized_as(&self) -> Option<QuantizedAs> {
        let state = |name: &str| {
            let (weight, state) = name.split_once(".quant_state.bitsandbytes__")?;
            let double_quant = self.has(&format!("{weight}.nested_absmax"));
            Some(QuantizedAs { format: state.parse().ok()?, double_quant })
        };
        self.names().find_map(state)
    }

    /// The weight of this name and shape `[out, in]`, quantised or not as its own tensors say.
    ///
    /// # Errors
    /// [`Error::MissingTensor`], [`Error::Tensor`] for another shape or a type that is no weight's, and
    /// [`Error::Quantized`] for a 4-bit weight whose parts are missing or contradict each other.
    ///
    /// [`Error::MissingTensor`]: crate::error::Error::MissingTensor
    /// [`Error::Tensor`]: crate::error::Error::Tensor
    /// [`Error::Quantized`]: crate::error::Error::Quantized
    pub fn weight(&self, name: &str, shape: [usize; 2]) -> Result<Weight<'_>> {
        let tensor = self.tensor(name)?;
        let states = [Format::Nf4, Format::Fp4].map(|f| (f, self.get(&format!("{name}.{}", state_part(f)))));
        match states {
            [(_, None), (_, None)] => dense(tensor, shape).map(Weight::Dense),
            [(format, Some(state)), (_, None)] | [(_, None), (format, Some(state))] => {
                self.quantized(tensor, format, state, shape).map(Weight::Quantized)
            }
            _ => Err(broken(tensor, "it has both an nf4 and an fp4 state; write the checkpoint again")),
        }
    }

    fn quantized<'a>(
        &'a self,
        tensor: TensorRef<'a>,
        format: Format,
        state: TensorRef<'a>,
        want: [usize; 2],
    ) -> Result<Bnb4bitTensor<'a>> {
        let state = QuantState::parse(tensor, state, format)?;
        if state.shape != want {
            return Err(broken(tensor, format!("its state says that it is {:?}, expected {want:?}", state.shape)));
        }
        let len = want[0] * want[1];
        let blocks = len.div_ceil(state.block_size);
        let codes = part_bytes(tensor, tensor, len.div_ceil(2))?;
        let part = |part: &str, dtype, bytes| {
            let found = self.get(&format!("{}.{part}", tensor.name));
            let found = found.ok_or_else(|| broken(tensor, format!("its part `{part}` is missing")))?;
            part_bytes(tensor, found.expect_dtype(dtype)?.expect_finite()?, bytes)
        };
        let nested = ["nested_absmax", "nested_quant_map"].map(|part| format!("{}.{part}", tensor.name));
        if let (None, Some(part)) = (state.nested_offset, nested.iter().find(|part| self.has(part))) {
            let reason = format!("`{part}` is there, but its quant_state has no `nested_offset`; write it again");
            return Err(broken(tensor, reason));
        }
        let absmax = match state.nested_offset {
            None => Absmax::Plain(part("absmax", Dtype::F32, 4 * blocks)?),
            Some(offset) => Absmax::Nested {
                codes: part("absmax", Dtype::U8, blocks)?,
                groups: GroupBytes {
                    absmax: part("nested_absmax", Dtype::F32, 4 * blocks.div_ceil(GROUP))?,
                    offset,
                    map: part("nested_quant_map", Dtype::F32, 4 * MAP)?,
                },
            },
        };
        let quant_map = part("quant_map", Dtype::F32, 4 * CODES)?;
        let QuantState { block_size, shape, dtype, .. } = state;
        Ok(Bnb4bitTensor { format, block_size, shape, dtype, codes, absmax, quant_map })
    }
}

/// An unquantised weight of the right shape.
fn dense(tensor: TensorRef, shape: [usize; 2]) -> Result<TensorRef> {
    if tensor.float().is_some() {
        return tensor.expect_shape(&shape);
    }
    if tensor.dtype == Dtype::U8 {
        let reason = "it is uint8 but has no `quant_state.bitsandbytes__nf4` or `…fp4` beside it, so its scales are \
                      unknown; save the checkpoint again with bitsandbytes 0.42 or later";
        return Err(broken(tensor, reason));
    }
    Err(tensor.wrong(format!("bfloat16, float16, float32 or 4-bit {shape:?}")))
}

/// The bytes of a 4-bit weight's part. Their number counts, not their type: bitsandbytes' `quant_storage` may view
/// the codes as any type.
fn part_bytes<'a>(weight: TensorRef, part: TensorRef<'a>, want: usize) -> Result<&'a [u8]> {
    let got = part.data.len();
    if got == want {
        return Ok(part.data);
    }
    Err(broken(weight, format!("`{}` has {got} bytes, but its state calls for {want}", part.name)))
}
