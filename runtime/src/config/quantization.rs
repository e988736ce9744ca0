use super::keys::Keys;
use crate::error::Result;

/// What `config.json` says about quantisation. It informs people; whether a weight is 4-bit is decided by its own
/// tensors, as mixed checkpoints leave layers unquantised that this does not tell of.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct QuantizationConfig {
    /// `nf4` or `fp4`.
    pub quant_type: String,
    /// Whether the block scales are themselves quantised.
    pub double_quant: bool,
    /// The type to compute in, by PyTorch's name.
    pub compute_dtype: Option<String>,
    /// The type that the packed bytes are stored as, by PyTorch's name.
    pub storage: String,
    /// Modules left unquantised, where they are listed.
    pub skip_modules: Option<Vec<String>>,
}

impl QuantizationConfig {
    /// Parses `quantization_config`, if there is one. Other methods than bitsandbytes' 4 bits are refused.
    pub(super) fn parse(config: Keys) -> Result<Option<Self>> {
        let Some(keys) = config.object("quantization_config")? else {
            return Ok(None);
        };
        let method = keys.text("quant_method")?;
        keys.support("quant_method", method.is_none_or(|m| m == "bitsandbytes"), "\"bitsandbytes\"")?;
        keys.support("load_in_8bit", !keys.flag("load_in_8bit")?, "false (4-bit or unquantised weights)")?;
        let quant_type = keys.text("bnb_4bit_quant_type")?.unwrap_or_else(|| "fp4".to_owned());
        keys.support("bnb_4bit_quant_type", ["nf4", "fp4"].contains(&quant_type.as_str()), "\"nf4\" or \"fp4\"")?;
        Ok(Some(Self {
            quant_type,
            double_quant: keys.flag("bnb_4bit_use_double_quant")?,
            compute_dtype: keys.text("bnb_4bit_compute_dtype")?,
            storage: keys.text("bnb_4bit_quant_storage")?.unwrap_or_else(|| "uint8".to_owned()),
            skip_modules: keys.get("llm_int8_skip_modules", "a list of texts")?,
        }))
    }
}
