//! Which 4 bits: NF4 or FP4.

use crate::error::{Error, Result};

/// Which 16 values the codes stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// Quantiles of a normal distribution, "4-bit NormalFloat".
    Nf4,
    /// Sign, two bits of exponent, one of mantissa.
    Fp4,
}

/// The name that bitsandbytes gives a format: `nf4`, `fp4`.
impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Format::Nf4 => "nf4",
            Format::Fp4 => "fp4",
        })
    }
}

impl std::str::FromStr for Format {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "nf4" => Ok(Format::Nf4),
            "fp4" => Ok(Format::Fp4),
            _ => {
                Err(Error::Value { op: "quantize", arg: "the format", got: name.into(), want: "it must be nf4 or fp4" })
            }
        }
    }
}
