//! `Debug` of types that hold a machine, a model or a secret: their names, and what of them says something to a reader.

use crate::{
    evaluate::exam::Exam,
    hub::Environment,
    llm::{self, Llm},
    lora::DeviceAdapter,
    model::{Activations, Decoder, Gradients, LossBuffers, Qwen3},
    settings::Program,
    train::{run, trainer::Trainer},
};
use halfbyte::{Backend, Float};
use std::fmt::{Debug, Formatter, Result};

/// `[generics] Type, "its name": the fields to show;`
macro_rules! shown {
    ($([$($generics:tt)*] $Type:ty, $name:literal: $($field:ident)*;)*) => {$(
        impl<$($generics)*> Debug for $Type {
            fn fmt(&self, f: &mut Formatter<'_>) -> Result {
                f.debug_struct($name)$(.field(stringify!($field), &self.$field))*.finish_non_exhaustive()
            }
        }
    )*};
}

shown! {
    [B: Backend, T: Float] Qwen3<B, T>, "Qwen3": config;
    [B: Backend, T: Float] DeviceAdapter<B, T>, "DeviceAdapter": layout;
    [B: Backend, T: Float] Activations<B, T>, "Activations": capacity;
    [B: Backend, T: Float] Gradients<B, T>, "Gradients": adapter;
    [B: Backend, T: Float] LossBuffers<B, T>, "LossBuffers":;
    [B: Backend, T: Float] Decoder<'_, B, T>, "Decoder":;
    [B: Backend, T: Float] Trainer<'_, B, T>, "Trainer":;
    [] llm::Prepared, "Prepared": settings dir config notes;
    [] Llm, "Llm":;
    [] run::Prepared, "Prepared": settings dir config lora notes;
    [] Exam<'_>, "Exam":;
    [] Program, "Program":;
    // Not its token.
    [] Environment, "Environment": cache endpoint offline;
}

#[cfg(feature = "rag")]
shown! {
    [] crate::rag::Index, "Index":;
    [A] crate::rag::RagPipeline<A>, "RagPipeline":;
}

#[cfg(feature = "cli")]
shown! {
    [] crate::cli::Tool, "Tool": name;
    [] crate::cli::Signals, "Signals":;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_not_shown() {
        let (cache, endpoint) = ("cache".into(), "https://hub".into());
        let hub = Environment { cache, endpoint, offline: false, token: Some("hf_secret".into()) };
        let shown = format!("{hub:?}");
        assert!(shown.contains("https://hub") && !shown.contains("secret"), "{shown}");
    }
}
