//! What a setting's text means.

mod adapter;

use super::choices::{
    ActivationMemory, DataFormat, Mode, Optim, Overlong, PackingStrategy, Resume, ScheduleKind, TensorBoard,
    TrainOnEos, Whole,
};
use crate::{
    device::Device,
    export::{Combination, GgufType, MajoritySign},
    options::{Number, Range},
    train::data::DataFiles,
};
use halfbyte::{DType, quant::Format};
use serde_json::Value as Json;
use std::path::PathBuf;

/// A value that every source can give as text.
pub trait Value: Sized {
    /// Whether it may stand alone on the command line, and is then true.
    const FLAG: bool = false;

    /// Whether it may be given several times on the command line, as if commas were between.
    const LIST: bool = false;

    /// What a text must be: "nf4 or fp4".
    fn wanted(range: Option<Range>) -> String;

    /// The value of a text, if it is one.
    fn parse(text: &str, range: Option<Range>) -> Option<Self>;

    /// A text of this value.
    fn show(&self) -> String;

    /// For files that programs read.
    fn json(&self) -> Json {
        self.show().into()
    }
}

/// The value of a text, for options that are no settings.
///
/// # Errors
/// What it must be.
pub fn parse<V: Value>(text: &str) -> Result<V, String> {
    V::parse(text, None).ok_or_else(|| format!("it must be {}", V::wanted(None)))
}

macro_rules! numbers {
    ($($T:ty),*) => {$(
        impl Value for $T {
            fn wanted(range: Option<Range>) -> String {
                range.map_or(<$T>::KIND.to_owned(), |range| format!("{}, {range}", <$T>::KIND))
            }

            fn parse(text: &str, range: Option<Range>) -> Option<Self> {
                match range {
                    Some(range) => range.parse(text).ok(),
                    None => text.parse().ok(),
                }
            }

            fn show(&self) -> String {
                self.to_string()
            }

            fn json(&self) -> Json {
                // By its text, so that an f32 of 0.1 stays 0.1.
                serde_json::from_str(&self.to_string()).unwrap_or(Json::Null)
            }
        }
    )*};
}

numbers!(f32, f64, usize, u64);

/// Python writes `None`, TOML has no such value.
impl<V: Value> Value for Option<V> {
    const FLAG: bool = V::FLAG;
    const LIST: bool = V::LIST;

    fn wanted(range: Option<Range>) -> String {
        V::wanted(range)
    }

    fn parse(text: &str, range: Option<Range>) -> Option<Self> {
        if text.is_empty() || text.eq_ignore_ascii_case("none") { Some(None) } else { V::parse(text, range).map(Some) }
    }

    fn show(&self) -> String {
        self.as_ref().map_or("none".into(), V::show)
    }

    fn json(&self) -> Json {
        self.as_ref().map_or(Json::Null, V::json)
    }
}

impl Value for String {
    fn wanted(_: Option<Range>) -> String {
        "a text".into()
    }

    fn parse(text: &str, _: Option<Range>) -> Option<Self> {
        Some(text.into())
    }

    fn show(&self) -> String {
        self.clone()
    }
}

impl Value for PathBuf {
    fn wanted(_: Option<Range>) -> String {
        "a path".into()
    }

    fn parse(text: &str, _: Option<Range>) -> Option<Self> {
        (!text.is_empty()).then(|| text.into())
    }

    fn show(&self) -> String {
        self.display().to_string()
    }
}

impl Value for DataFiles {
    const LIST: bool = true;

    fn wanted(_: Option<Range>) -> String {
        DataFiles::WANTED.into()
    }

    fn parse(text: &str, _: Option<Range>) -> Option<Self> {
        DataFiles::from_text(text)
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

/// With commas between; nothing is `none`.
impl<V: Value> Value for Vec<V> {
    const LIST: bool = true;

    fn wanted(range: Option<Range>) -> String {
        format!("{}, or several with commas between", V::wanted(range))
    }

    fn parse(text: &str, range: Option<Range>) -> Option<Self> {
        let parts = Option::<String>::parse(text, None)?;
        parts.iter().flat_map(|parts| parts.split(',')).map(|part| V::parse(part.trim(), range)).collect()
    }

    fn show(&self) -> String {
        if self.is_empty() { "none".into() } else { self.iter().map(V::show).collect::<Vec<_>>().join(",") }
    }

    fn json(&self) -> Json {
        self.iter().map(V::json).collect()
    }
}

impl Value for Resume {
    fn wanted(_: Option<Range>) -> String {
        "auto, or a checkpoint's folder".into()
    }

    fn parse(text: &str, _: Option<Range>) -> Option<Self> {
        let auto = text.eq_ignore_ascii_case("auto") || text.eq_ignore_ascii_case("true");
        if auto { Some(Resume::Auto) } else { PathBuf::parse(text, None).map(Resume::From) }
    }

    fn show(&self) -> String {
        match self {
            Resume::Auto => "auto".into(),
            Resume::From(path) => path.show(),
        }
    }
}

impl Value for TensorBoard {
    const FLAG: bool = true;

    fn wanted(_: Option<Range>) -> String {
        "true, false or a folder".into()
    }

    fn parse(text: &str, _: Option<Range>) -> Option<Self> {
        Some(match bool::parse(text, None) {
            Some(true) => TensorBoard::InOutput,
            Some(false) => TensorBoard::Off,
            None if text.is_empty() || text.eq_ignore_ascii_case("none") => TensorBoard::Off,
            None => TensorBoard::At(text.into()),
        })
    }

    fn show(&self) -> String {
        match self {
            TensorBoard::Off => "false".into(),
            TensorBoard::InOutput => "true".into(),
            TensorBoard::At(dir) => dir.show(),
        }
    }
}

impl Value for Device {
    fn wanted(_: Option<Range>) -> String {
        "auto, cpu, cuda or cuda:N".into()
    }

    fn parse(text: &str, _: Option<Range>) -> Option<Self> {
        text.to_ascii_lowercase().parse().ok()
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

/// Values with names. The first name of each is ours; capitals do not count.
macro_rules! named {
    ($($T:ty: $flag:literal, $($value:path = $name:literal $(| $alias:literal)*),+;)*) => {$(
        impl Value for $T {
            const FLAG: bool = $flag;

            fn wanted(_: Option<Range>) -> String {
                either(&[$($name),+])
            }

            fn parse(text: &str, _: Option<Range>) -> Option<Self> {
                let name = text.to_ascii_lowercase().replace('-', "_");
                match name.as_str() {
                    $($name $(| $alias)* => Some($value),)+
                    _ => None,
                }
            }

            fn show(&self) -> String {
                match self {
                    $($value => $name,)+
                }
                .into()
            }
        }
    )*};
}

named! {
    DType: false,
        DType::Bf16 = "bfloat16" | "bf16" | "torch.bfloat16",
        DType::F16 = "float16" | "fp16" | "f16" | "half" | "torch.float16",
        DType::F32 = "float32" | "fp32" | "f32" | "float" | "torch.float32";
    Format: false, Format::Nf4 = "nf4", Format::Fp4 = "fp4";
    ScheduleKind: false,
        ScheduleKind::Linear = "linear",
        ScheduleKind::Cosine = "cosine",
        ScheduleKind::CosineWithMinLr = "cosine_with_min_lr",
        ScheduleKind::WarmupStableDecay = "warmup_stable_decay" | "wsd",
        ScheduleKind::Polynomial = "polynomial",
        ScheduleKind::Constant = "constant" | "constant_with_warmup";
    ActivationMemory: false,
        ActivationMemory::Auto = "auto",
        ActivationMemory::Full = "full",
        ActivationMemory::MlpRecompute = "mlp-recompute" | "mlp_recompute",
        ActivationMemory::Checkpoint = "checkpoint",
        ActivationMemory::Offload = "offload";
    Optim: false,
        Optim::AdamW = "adamw_torch" | "adamw" | "adamw_torch_fused",
        Optim::AdamW8bit = "adamw_8bit" | "adamw8bit" | "adamw_bnb_8bit",
        Optim::PagedAdamW = "paged_adamw_32bit" | "paged_adamw",
        Optim::PagedAdamW8bit = "paged_adamw_8bit" | "paged_adamw8bit";
    DataFormat: false,
        DataFormat::Text = "text",
        DataFormat::PromptCompletion = "prompt-completion" | "prompt_completion",
        DataFormat::Messages = "messages" | "openai",
        DataFormat::ShareGpt = "sharegpt",
        DataFormat::Alpaca = "alpaca",
        DataFormat::MultipleChoice = "multiple-choice" | "multiple_choice";
    Overlong: false, Overlong::Error = "error", Overlong::Truncate = "truncate", Overlong::Skip = "skip";
    PackingStrategy: false,
        PackingStrategy::FirstFit = "first-fit" | "first_fit",
        PackingStrategy::BestFit = "best-fit" | "best_fit" | "bfd";
    TrainOnEos: false,
        TrainOnEos::Turn = "turn",
        TrainOnEos::Last = "last",
        TrainOnEos::All = "all",
        TrainOnEos::None = "none";
    Mode: false, Mode::Likelihood = "likelihood", Mode::Generate = "generate";
    Combination: false,
        Combination::Cat = "cat",
        Combination::Linear = "linear",
        Combination::Ties = "ties";
    GgufType: false,
        GgufType::F32 = "f32" | "float32",
        GgufType::F16 = "f16" | "float16",
        GgufType::Bf16 = "bf16" | "bfloat16",
        GgufType::Q8_0 = "q8_0",
        GgufType::Q4KM = "q4_k_m";
    MajoritySign: false, MajoritySign::Total = "total", MajoritySign::Frequency = "frequency";
    Whole: false, Whole::LmHead = "lm_head";
}

impl Value for bool {
    const FLAG: bool = true;

    fn wanted(_: Option<Range>) -> String {
        "true or false".into()
    }

    fn parse(text: &str, _: Option<Range>) -> Option<Self> {
        match text.to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "on" => Some(true),
            "false" | "0" | "no" | "off" => Some(false),
            _ => None,
        }
    }

    fn show(&self) -> String {
        self.to_string()
    }

    fn json(&self) -> Json {
        (*self).into()
    }
}

/// "a, b or c"
pub(crate) fn either(names: &[&str]) -> String {
    match names {
        [rest @ .., last] if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        names => names.concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names<V: Value + PartialEq + std::fmt::Debug>(value: V, names: &[&str]) {
        names.iter().for_each(|name| assert_eq!(V::parse(name, None).as_ref(), Some(&value), "{name}"));
        assert_eq!(V::parse(&value.show(), None).as_ref(), Some(&value));
    }

    #[test]
    fn names_that_python_users_type_are_known() {
        names(DType::Bf16, &["bf16", "bfloat16", "BFloat16", "torch.bfloat16"]);
        names(DType::F16, &["fp16", "float16"]);
        names(DType::F32, &["fp32", "float32"]);
        names(Format::Nf4, &["nf4", "NF4"]);
        names(true, &["True", "true", "1"]);
        names(None::<PathBuf>, &["None", "", "none"]);
        names(ActivationMemory::MlpRecompute, &["mlp-recompute", "MLP_recompute"]);
        names(Optim::AdamW, &["adamw", "adamw_torch", "adamw_torch_fused"]);
        names(Optim::AdamW8bit, &["adamw_8bit", "adamw_bnb_8bit", "AdamW8bit"]);
        names(Optim::PagedAdamW, &["paged_adamw", "paged_adamw_32bit"]);
        names(vec![3_usize, 1], &["3,1", "3, 1"]);
        names(Vec::<usize>::new(), &["none", ""]);
        names(ScheduleKind::Constant, &["constant_with_warmup", "constant-with-warmup"]);
    }

    #[test]
    fn what_is_no_value_is_none() {
        assert_eq!(DType::parse("int8", None), None);
        assert_eq!((bool::parse("maybe", None), Vec::<usize>::parse("3,x", None)), (None, None));
        assert_eq!(f32::parse("nan", Some(crate::options::TEMPERATURE)), None);
        assert_eq!(DType::wanted(None), "bfloat16, float16 or float32");
        assert_eq!(0.1_f32.json().to_string(), "0.1");
    }
}
