//! Retrieval: texts are cut into passages and indexed, and the best passages for a question go into its prompt.
//!
//! ```no_run
//! # fn main() -> halfbyte_runtime::Result<()> {
//! use halfbyte_runtime::rag::{Index, RetrievalSettings};
//!
//! let settings = RetrievalSettings::default();
//! Index::build("laws.index".as_ref(), &["laws/".into()], &settings)?;
//! for passage in Index::open("laws.index".as_ref())?.search("有価証券とは何ですか。", settings.top_k)? {
//!     println!("{:.2} {}: {}", passage.score, passage.source, passage.text);
//! }
//! # Ok(())
//! # }
//! ```
mod best;
mod build;
mod chunk;
mod directory;
mod index;
mod manifest;
mod pipeline;
mod prompt;
mod schema;
mod source;
mod terms;

pub use crate::settings::RetrievalSettings;
pub use chunk::chunks;
pub use index::{Index, Passage};
pub use manifest::Info;
pub use pipeline::{Answer, RagPipeline};
pub use prompt::{context, prompt};
pub use source::{Document, read_documents};
pub use terms::terms;
