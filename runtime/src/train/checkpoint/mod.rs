//! Checkpoints of a run: folders from which it goes on as if it had never stopped. Not those of models, which are in
//! [`crate::checkpoint`].

mod identity;
mod keeper;
mod saved;

pub use identity::Identity;
pub(crate) use identity::Parts;
pub(crate) use keeper::Keeper;
pub(crate) use saved::{Saved, State, name, whole};
