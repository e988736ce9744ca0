//! Dropout as kernels take it.

use crate::{cuda::params::DropoutParams, ops::Dropout};

/// The mask, and what is left to multiply with.
pub(in crate::cuda) fn dropout_params(dropout: Option<Dropout>) -> (DropoutParams, f32) {
    match dropout {
        Some(d) => {
            (DropoutParams { seed: d.seed, stream: d.stream, threshold: u32::from(d.threshold()) << 16 }, d.scale())
        }
        None => (DropoutParams { seed: 0, stream: 0, threshold: 0 }, 1.0),
    }
}
