//! Modules by name.

use regex::Regex;

use crate::config::{Module, Projection, Qwen3Config};
use crate::error::{Error, Result};

/// Modules by name, as PEFT takes them.
#[derive(Debug, Clone, PartialEq)]
pub enum Targets {
    /// Every linear map of the layers; not the embedding or the output head.
    AllLinear,
    /// Modules with one of these names, or whose names end in a dot and one of them.
    Names(Vec<String>),
    /// Modules whose whole name matches a regular expression.
    Regex(String),
}

impl Targets {
    /// Of a text from the command line or a settings file: `all-linear`, names with commas between them, or, where it has
    /// characters that no such list has, a regular expression.
    pub fn from_text(text: &str) -> Self {
        let text = text.trim();
        if text.eq_ignore_ascii_case("all-linear") {
            return Self::AllLinear;
        }
        if text.chars().all(|c| c.is_ascii_alphanumeric() || "_-., ".contains(c)) {
            let names = text.split(',').map(str::trim).filter(|n| !n.is_empty());
            return Self::Names(names.map(str::to_owned).collect());
        }
        Self::Regex(text.to_owned())
    }

    /// A matcher for names of modules; every entry must match a module of the model.
    pub(super) fn compile(&self, key: &str, model: &Qwen3Config) -> Result<Matcher> {
        let matcher = match self {
            Self::AllLinear => return Ok(Matcher::AllLinear),
            Self::Names(names) => {
                for name in names {
                    let found = model.adaptable().any(|m| named(&m.to_string(), name).is_some());
                    expect_match(found, key, name, model)?;
                }
                return Ok(Matcher::Names(names.clone()));
            }
            Self::Regex(pattern) => Matcher::Regex(compile(key, pattern, |p| format!("(?:{p})"))?),
        };
        if let Self::Regex(pattern) = self {
            expect_match(model.adaptable().any(|m| matcher.find(&m).is_some()), key, pattern, model)?;
        }
        Ok(matcher)
    }
}

/// How a module's name matched; only an ending is subject to `layers_to_transform`.
#[derive(Clone, Copy)]
pub(super) enum Match {
    Exact,
    Suffix,
}

pub(super) enum Matcher {
    AllLinear,
    Names(Vec<String>),
    Regex(Regex),
}

impl Matcher {
    pub(super) fn find(&self, module: &Module) -> Option<Match> {
        let name = module.to_string();
        match self {
            Self::AllLinear => (!module.is_end()).then_some(Match::Exact),
            Self::Regex(regex) => regex.is_match(&name).then_some(Match::Exact),
            Self::Names(names) => {
                let found = names.iter().filter_map(|n| named(&name, n));
                found.min_by_key(|m| matches!(m, Match::Suffix))
            }
        }
    }
}

fn named(module: &str, name: &str) -> Option<Match> {
    let parent = module.strip_suffix(name)?;
    match parent {
        "" => Some(Match::Exact),
        _ => parent.ends_with('.').then_some(Match::Suffix),
    }
}

/// Compiles a regular expression of Python's to match whole names.
pub(super) fn compile(key: &str, pattern: &str, wrap: impl Fn(&str) -> String) -> Result<Regex> {
    let refuse = |reason: &str| target_error(key, pattern, reason);
    if let Some(construct) = differs_from_python(pattern) {
        return Err(refuse(&format!("`{construct}` means something else in Python; write it in another way")));
    }
    // On its own first, so that the error is about what was written.
    let unsupported = |e: regex::Error| {
        refuse(&format!("not a regular expression that is supported (no look-around, no references): {e}"))
    };
    Regex::new(pattern).map_err(unsupported)?;
    Regex::new(&format!(r"\A(?:{})\z", wrap(pattern))).map_err(unsupported)
}

/// A construct that the regex crate understands but not as Python's `re` does.
fn differs_from_python(pattern: &str) -> Option<&'static str> {
    const ANYWHERE: [&str; 9] = [r"\<", r"\>", r"\b{", r"\p", r"\P", "++", "*+", "?+", "}+"];
    const IN_CLASS: [&str; 4] = ["[", "&&", "--", "~~"];
    let mut in_class = false;
    let mut rest = pattern;
    while let Some(c) = rest.chars().next() {
        let constructs: &[&'static str] = if in_class { &IN_CLASS } else { &ANYWHERE };
        if let Some(found) = constructs.iter().find(|&&x| rest.starts_with(x)) {
            return Some(found);
        }
        let skip = match c {
            '\\' => rest.chars().take(2).map(char::len_utf8).sum(),
            // A bracket that comes first does not close its class.
            '[' => ["[^]", "[]", "[^", "["].into_iter().find(|open| rest.starts_with(open)).map_or(1, str::len),
            _ => c.len_utf8(),
        };
        in_class = c == '[' || in_class && c != ']';
        rest = &rest[skip..];
    }
    None
}

pub(super) fn expect_match(found: bool, key: &str, entry: &str, model: &Qwen3Config) -> Result<()> {
    if found {
        return Ok(());
    }
    let names = Projection::ALL.map(Projection::name).join(", ");
    let reason = format!(
        "it matches no module; this model has {names} in `model.layers.0` to `model.layers.{}`, embed_tokens and lm_head",
        model.n_layers - 1
    );
    Err(target_error(key, entry, &reason))
}

pub(super) fn target_error(key: &str, entry: &str, reason: &str) -> Error {
    Error::Target { target: format!("`{entry}` of `{key}`"), reason: reason.to_owned() }
}

/// As it is written on the command line.
impl std::fmt::Display for Targets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AllLinear => f.write_str("all-linear"),
            Self::Names(names) => f.write_str(&names.join(",")),
            Self::Regex(pattern) => f.write_str(pattern),
        }
    }
}
