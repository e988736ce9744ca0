//! The Qwen3 model: weights, activations, the forward pass and the backward pass down to the adapters.

mod activations;
mod attention;
mod backward;
mod branches;
mod context;
mod decode;
mod forward;
mod head;
mod load;
mod loss;
mod picked;
mod qwen3;
mod random;
mod residual;
mod room;
mod rope;
mod rows;
mod save;
mod tokens;
mod untrained;
mod weights;

pub use activations::{Activations, Gradients};
pub(crate) use branches::{branch_losses, log_likelihood};
pub use context::{DropoutSeed, ForwardContext};
pub(crate) use decode::PREFILL_TOKENS;
pub use decode::{Decoder, SampleOptions};
pub use load::{Base, checkpoint_note};
pub use loss::LossBuffers;
pub use qwen3::{Layer, Qwen3};
pub use residual::Keep;
pub(crate) use room::Room;
pub use rope::RopeTables;
pub use save::{QuantizeReport, quantize_checkpoint};
pub use untrained::{UntrainedToken, untrained_note, untrained_tokens};
pub use weights::{MergedLinear, QuantizedWeight, Weight};
