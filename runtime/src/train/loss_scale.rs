//! What the loss of f16 training is multiplied by.

use halfbyte::DType;
use serde::{Deserialize, Serialize};

/// The loss scale of f16 training, as PyTorch's `GradScaler` moves it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct LossScale {
    /// The factor; 1 in other types.
    pub scale: f32,
    /// Steps since it last changed.
    good_steps: u32,
}

impl LossScale {
    /// Steps without an overflow after which the scale doubles.
    const GROWTH_INTERVAL: u32 = 2000;

    pub(super) fn new(dtype: DType) -> Self {
        LossScale { scale: if dtype == DType::F16 { 65536.0 } else { 1.0 }, good_steps: 0 }
    }

    pub(super) fn overflowed(&mut self) {
        *self = LossScale { scale: self.scale / 2.0, good_steps: 0 };
    }

    pub(super) fn succeeded(&mut self, dtype: DType) {
        self.good_steps += 1;
        if dtype == DType::F16 && self.good_steps == Self::GROWTH_INTERVAL {
            *self = LossScale { scale: self.scale * 2.0, good_steps: 0 };
        }
    }
}
