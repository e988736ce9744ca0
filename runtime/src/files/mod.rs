//! Files that are either whole or absent, also several of them together, whatever fails and whenever a process is killed.

mod folder;
mod journal;
mod layer;
mod log;
mod read;
mod staged;
mod staged_folder;
mod transaction;
mod unfinished;
mod unpack;
mod write;

pub use folder::OutputFolder;
pub(crate) use folder::{read_together, refuse_existing};
pub(crate) use journal::Journal;
#[doc(hidden)]
pub use layer::{Fault, with_fault};
pub(crate) use log::Log;
pub use read::read_to_string;
pub(crate) use read::{Opened, exists, open, read, read_to_use};
pub(crate) use staged::{PARTIAL_METRICS, Staged};
pub(crate) use staged_folder::{StagedFolder, remove_folder};
pub(crate) use transaction::Transaction;
pub use unfinished::abandon;
pub(crate) use unpack::{Zstd, unpack};
pub(crate) use write::{folder_of, stage};
pub use write::{write_atomic, write_bytes};
