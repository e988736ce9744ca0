//! The programs: what `halfbyte`'s subcommands and the examples of the repository are, and how they print, listen to
//! signals and end. A program of one's own can do the same with what is public here.
//!
//! ```no_run
//! halfbyte_runtime::cli::INFER.main("infer", std::env::args_os());
//! ```

mod decode_speed;
mod doctor;
mod evaluate;
mod export;
mod infer;
mod logits;
mod logs;
mod measured;
mod output;
mod quantize;
mod rag;
mod report;
mod signals;
mod subcommands;
mod tool;
mod train;
mod train_speed;

pub use crate::{note, say};
pub use decode_speed::DECODE_SPEED;
pub use doctor::DOCTOR;
pub use evaluate::EVALUATE;
pub use export::{EXPORT, MERGE};
pub use infer::INFER;
pub use logits::LOGITS;
pub use output::{complain, note_line, print, progress_bar, say_line};
pub use quantize::QUANTIZE;
pub use rag::RAG;
pub use report::REPORT;
pub use signals::{Signals, asks_to_retry, exit_code};
pub use subcommands::main;
pub use tool::{Tool, version};
pub use train::TRAIN;
pub use train_speed::TRAIN_SPEED;
