//! Hugging Face checkpoints: safetensors files, one or sharded, read in place and written without being held in memory;
//! bitsandbytes' 4-bit weights among them.

mod header;
pub(crate) mod mmap;
mod quantized;
mod reader;
mod save;
mod tensor;
mod weights;
mod writer;

pub(crate) use quantized::Values;
pub use quantized::{Bnb4bitTensor, GroupBytes, QuantizedAs, ScaleBytes};
pub use reader::Checkpoint;
pub use safetensors::Dtype;
pub use save::BnbConfig;
pub(crate) use save::COMPANIONS;
pub use tensor::{Tensor, TensorRef};
pub use weights::Weight;
pub(crate) use writer::write_tensors;
pub use writer::{CheckpointWriter, DEFAULT_SHARD_BYTES, write_file};
