//! A model that answers, without the backend and the type in its name.
//!
//! ```no_run
//! use halfbyte_runtime::{llm::Llm, settings::LlmSettings};
//!
//! let settings = LlmSettings { model_name: "Qwen3-8B".into(), ..LlmSettings::default() };
//! let llm = Llm::new(&settings)?;
//! println!("{}", llm.invoke("Where is Kyoto?")?);
//! # Ok::<(), halfbyte_runtime::Error>(())
//! ```

mod answer;
mod conversation;
mod engine;
mod force;
mod need;
mod prepared;

pub use answer::{Llm, Score};
pub use conversation::Conversation;
pub use engine::Stream;
pub(crate) use force::{base_line, describe, idle, model_line};
pub use force::{expect_effect, in_force, sampling};
pub(crate) use need::{AdapterRoom, base_parts, held};
pub use need::{Extent, Need, Work};
pub use prepared::Prepared;
