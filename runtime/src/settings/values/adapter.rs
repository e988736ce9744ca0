//! Values that say what an adapter is.

use crate::{
    lora::{Init, Targets, TrainableTokens},
    options::Range,
    settings::values::Value,
};

impl Value for Targets {
    fn wanted(_: Option<Range>) -> String {
        "all-linear, names separated by commas, or a regular expression".into()
    }

    fn parse(text: &str, _: Option<Range>) -> Option<Self> {
        (!text.is_empty()).then(|| Targets::from_text(text))
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Value for TrainableTokens {
    fn wanted(_: Option<Range>) -> String {
        "ids, as 1,2,3, or JSON, as {\"embed_tokens\": [1, 2], \"lm_head\": [2]}".into()
    }

    fn parse(text: &str, _: Option<Range>) -> Option<Self> {
        let none = text.is_empty() || text.eq_ignore_ascii_case("none");
        if none { Some(TrainableTokens::None) } else { TrainableTokens::from_text(text) }
    }

    fn show(&self) -> String {
        if *self == TrainableTokens::None { "none".into() } else { self.to_string() }
    }
}

impl Value for Init {
    fn wanted(_: Option<Range>) -> String {
        "true, gaussian, pissa, pissa_niter_N (N from 0 to 100) or loftq".into()
    }

    fn parse(text: &str, _: Option<Range>) -> Option<Self> {
        Init::from_text(text)
    }

    fn show(&self) -> String {
        self.to_string()
    }
}
