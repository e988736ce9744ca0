//! LoRA adapters in PEFT's files: which modules they adapt, and their weights.
//!
//! An adapted module computes `W x + scaling · B A dropout(x)` with `A [r, in]`, `B [out, r]` (Hu et al. 2021,
//! arXiv:2106.09685).

mod config;
mod device;
mod dora;
mod files;
mod flat;
mod init;
mod layout;
mod pissa;
mod principal;
mod resolve;
mod targets;
mod tokens;

pub(crate) use config::{FILE as CONFIG, PEFT_VERSION};
pub use config::{Init, LoraConfig};
pub use device::DeviceAdapter;
pub(crate) use device::{EndAdapter, SMALLER, identity};
pub(crate) use dora::DoraBuffers;
pub(crate) use files::WEIGHTS;
pub use files::{Adapter, HeadWeights, LoraWeights};
pub use layout::{Layout, LoraModule, Role, TensorGroup, TensorKind, TokenLayout};
pub(crate) use pissa::OfWhole;
pub use resolve::Target;
pub use targets::Targets;
pub use tokens::{Table, TokenRows, TrainableTokens};
