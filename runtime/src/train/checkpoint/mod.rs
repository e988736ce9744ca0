//! Checkpoints of a run: folders from which it goes on as if it had never stopped. Not those of models, which are in
//! [`crate::checkpoint`].

mod identity;
mod keeper;
mod saved;

pub(crate) use identity::{Identity, Parts};
pub(crate) use keeper::Keeper;
pub(crate) use saved::{Saved, State, name, whole};
