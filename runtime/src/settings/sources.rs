//! Where settings come from, and which of them counts.

use super::{
    config::RagConfig,
    section::{Field, suggestion},
};
use crate::{
    error::{Error, Result},
    files,
};
use serde_json::Value as Json;
use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};
use toml::de::{DeTable, DeValue};

/// Where a value comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Source {
    /// Nobody said anything.
    #[default]
    Default,
    /// The model's `generation_config.json`.
    Checkpoint(PathBuf),
    /// A line of a file, from 1.
    Line(PathBuf, usize),
    /// A variable of the environment.
    Variable(String),
    /// An option of the command line.
    Option(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Default => f.write_str("default"),
            Source::Checkpoint(path) => write!(f, "{}", path.display()),
            Source::Line(path, line) => write!(f, "{}, line {line}", path.display()),
            Source::Variable(name) | Source::Option(name) => f.write_str(name),
        }
    }
}

/// A text for a setting. Its name may be one of its other names until [`Given::resolve`] was there.
#[derive(Clone, Debug)]
pub(super) struct Given {
    pub section: String,
    pub name: String,
    pub text: String,
    pub source: Source,
}

impl Given {
    fn refuse(&self, reason: String) -> Error {
        Error::Given { place: self.source.to_string(), reason }
    }

    /// By its first name.
    fn resolve(mut self, config: &RagConfig) -> Result<Given> {
        let Some(section) = config.section(&self.section) else {
            let sections = RagConfig::SECTIONS.join(", ");
            return Err(self.refuse(format!("there is no section {}; there are {sections}", self.section)));
        };
        let fields = section.fields();
        let Some(field) = fields.iter().find(|field| field.is(&self.name)) else {
            let (section, name, meant) = (&self.section, &self.name, suggestion(&self.name, &fields));
            return Err(self.refuse(format!("{section} has no setting {name}; {meant}")));
        };
        self.name = field.name.into();
        Ok(self)
    }

    fn apply(&self, config: &mut RagConfig) -> Result<()> {
        let Some(section) = config.section_mut(&self.section) else { return Ok(()) };
        let set = section.set(&self.name, &self.text);
        set.map_err(|want| self.refuse(format!("{}.{} is {:?}, but {want}", self.section, self.name, self.text)))
    }
}

/// All places that settings are read from, lowest priority first.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// Whether the model's `generation_config.json` counts where nothing else is said.
    pub use_generation_config: bool,
    /// A TOML file with a table for each section.
    pub file: Option<PathBuf>,
    /// A file of lines `HALFBYTE_SECTION__NAME=value`; others in it are not ours.
    pub dotenv: Option<PathBuf>,
    /// Of the environment: `HALFBYTE_SECTION__NAME` and its value.
    pub variables: Vec<(String, String)>,
}

/// The file that is read where none is named.
const FILE: &str = "halfbyte.toml";
const DOTENV: &str = ".env";
const PREFIX: &str = "HALFBYTE_";

impl Sources {
    /// `halfbyte.toml` and `.env` of the working directory, where they are, and the environment.
    pub fn here() -> Self {
        let found = |name: &str| Path::new(name).is_file().then(|| name.into());
        let text = |name: std::ffi::OsString, value: std::ffi::OsString| {
            Some((name.into_string().ok()?, value.to_string_lossy().into_owned()))
        };
        let variables = std::env::vars_os().filter_map(|(name, value)| text(name, value)).collect();
        Sources { file: found(FILE), dotenv: found(DOTENV), variables, ..Sources::default() }
    }

    /// Reads them all.
    ///
    /// # Errors
    /// A file cannot be read, or a setting is unknown, has a bad value, or is given twice in one place; the error names
    /// the place.
    pub fn load(&self) -> Result<Loaded> {
        self.load_below(&[])
    }

    /// The options of a command line count more.
    pub(super) fn load_below(&self, options: &[Given]) -> Result<Loaded> {
        let mut layers = Vec::new();
        layers.extend(self.file.as_deref().map(toml_file).transpose()?);
        layers.extend(self.dotenv.as_deref().map(dotenv_file).transpose()?);
        layers.push(of_variables(&self.variables)?);
        let unknown = RagConfig::default();
        let resolve = |layer: Vec<Given>| layer.into_iter().map(|given| given.resolve(&unknown)).collect();
        let layers: Vec<Vec<Given>> = layers.into_iter().map(resolve).collect::<Result<_>>()?;
        layers.iter().try_for_each(|layer| expect_once(layer))?;
        let mut given: Vec<Given> = layers.concat();
        given.extend_from_slice(options);
        let loaded = Loaded::new(&given)?;
        if !self.use_generation_config {
            return Ok(loaded);
        }
        let mut all = of_checkpoint(&loaded.config)?;
        all.extend(given);
        Ok(Loaded { use_generation_config: true, ..Loaded::new(&all)? })
    }
}

/// Settings, and where each comes from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What counts.
    pub config: RagConfig,
    /// Whether the model's `generation_config.json` was asked.
    pub use_generation_config: bool,
    sources: BTreeMap<(String, String), Source>,
}

impl Loaded {
    /// The later counts.
    fn new(given: &[Given]) -> Result<Self> {
        let mut loaded =
            Loaded { config: RagConfig::default(), use_generation_config: false, sources: BTreeMap::new() };
        for one in given {
            one.apply(&mut loaded.config)?;
            loaded.sources.insert((one.section.clone(), one.name.clone()), one.source.clone());
        }
        Ok(loaded)
    }

    /// Where the value of a setting comes from.
    pub fn source(&self, section: &str, name: &str) -> Source {
        self.sources.get(&(section.into(), name.into())).cloned().unwrap_or_default()
    }

    /// Where a setting was asked for, if it was.
    pub fn given(&self, section: &str, name: &str) -> Option<&Source> {
        self.sources.get(&(section.into(), name.into()))
    }

    /// Refuses a setting that was asked for anywhere, because it contradicts what else was asked for or found.
    ///
    /// # Errors
    /// It was asked for; the error names where.
    pub fn refuse(&self, section: &str, name: &str, why: &str) -> Result<()> {
        let Some(source) = self.given(section, name) else { return Ok(()) };
        Err(Error::Given { place: source.to_string(), reason: format!("{section}.{name} has no effect here: {why}") })
    }

    /// Refuses settings on the command line that the program, as it was called, has no use for. In a file or the
    /// environment they may be meant for another program.
    ///
    /// # Errors
    /// One is on the command line.
    pub fn refuse_options(&self, section: &str, names: &[&str], why: &str) -> Result<()> {
        let asked = |name: &&&str| matches!(self.given(section, name), Some(Source::Option(_)));
        names.iter().find(asked).map_or(Ok(()), |name| self.refuse(section, name, why))
    }

    /// Every value of these sections and where it comes from, as a TOML file whose lines fit so many columns, if they can.
    pub fn print(&self, sections: &[&str], columns: Option<usize>) -> String {
        let print = |&name: &&str| {
            let section = self.config.section(name)?;
            let lines =
                section.fields().into_iter().map(|field| self.line(name, &field, columns.unwrap_or(usize::MAX)));
            Some(format!("[{name}]\n{}", lines.collect::<String>()))
        };
        sections.iter().filter_map(print).collect::<Vec<_>>().join("\n")
    }

    fn line(&self, section: &str, field: &Field, columns: usize) -> String {
        let text = match self.config.section(section).map(|section| section.json()[field.name].take()) {
            Some(bare @ (Json::Number(_) | Json::Bool(_))) => bare.to_string(),
            _ => toml_string(&self.config.section(section).and_then(|s| s.show(field.name)).unwrap_or_default()),
        };
        let (name, source) = (field.name, self.source(section, field.name));
        let aligned = format!("{name:<28} = {text:<24} # {source}");
        let lines = [aligned, format!("{name} = {text} # {source}")];
        let fits = lines.into_iter().find(|line| line.chars().count() <= columns);
        fits.unwrap_or_else(|| format!("# {source}\n{name} = {text}")) + "\n"
    }
}

fn toml_string(text: &str) -> String {
    // A JSON string is a TOML string but for DEL, which needs no escape there.
    Json::from(text).to_string().replace('\u{7f}', "\\u007f")
}

fn expect_once(layer: &[Given]) -> Result<()> {
    for (i, one) in layer.iter().enumerate() {
        if let Some(first) = layer[..i].iter().find(|other| (&other.section, &other.name) == (&one.section, &one.name))
        {
            let reason = format!("{}.{} is given here and in {}; leave one", one.section, one.name, first.source);
            return Err(one.refuse(reason));
        }
    }
    Ok(())
}

fn toml_file(path: &Path) -> Result<Vec<Given>> {
    let text = files::read_to_string(path)?;
    let line_of = |at: usize| text.as_bytes()[..at.min(text.len())].iter().filter(|&&byte| byte == b'\n').count() + 1;
    let fail = |at: usize, reason: String| Error::Line { path: path.to_owned(), line: line_of(at), reason };
    let table = DeTable::parse(&text).map_err(|e| fail(e.span().map_or(0, |span| span.start), e.message().into()))?;
    let mut all = Vec::new();
    for (section, value) in table.get_ref() {
        let Some(fields) = value.get_ref().as_table() else {
            let sections = RagConfig::SECTIONS.join(", ");
            let reason = format!("{} stands outside of a section; there are [{sections}]", section.get_ref());
            return Err(fail(section.span().start, reason));
        };
        for (name, value) in fields {
            let at = name.span().start;
            let text = toml_text(value.get_ref())
                .ok_or_else(|| fail(at, format!("{} must be a string, a number, true or false", name.get_ref())))?;
            let source = Source::Line(path.to_owned(), line_of(at));
            all.push(Given { section: section.get_ref().to_string(), name: name.get_ref().to_string(), text, source });
        }
    }
    Ok(all)
}

/// A list becomes what the command line would have: names separated by commas.
fn toml_text(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => Some(number.to_string()),
        DeValue::Float(number) => Some(number.to_string()),
        DeValue::Boolean(value) => Some(value.to_string()),
        DeValue::Array(values) => {
            let texts: Option<Vec<_>> = values.iter().map(|value| toml_text(value.get_ref())).collect();
            Some(texts?.join(","))
        }
        _ => None,
    }
}

fn dotenv_file(path: &Path) -> Result<Vec<Given>> {
    let text = files::read_to_string(path)?;
    let mut all = Vec::new();
    for pair in dotenvy::from_read_iter(text.as_bytes()) {
        let fail = |e: dotenvy::Error| Error::Data { path: path.to_owned(), reason: e.to_string() };
        let (name, value) = pair.map_err(fail)?;
        let line = text.lines().position(|line| assigns(line, &name)).map_or(0, |i| i + 1);
        all.extend(variable(&name, &value, Source::Line(path.to_owned(), line))?);
    }
    Ok(all)
}

fn assigns(line: &str, name: &str) -> bool {
    let line = line.trim_start();
    let line = line.strip_prefix("export ").unwrap_or(line).trim_start();
    line.strip_prefix(name).is_some_and(|rest| rest.trim_start().starts_with('='))
}

fn of_variables(variables: &[(String, String)]) -> Result<Vec<Given>> {
    let given = |(name, value): &(String, String)| variable(name, value, Source::Variable(name.clone())).transpose();
    let mut all: Vec<Given> = variables.iter().filter_map(given).collect::<Result<_>>()?;
    // The environment has no order of its own; errors should not change from run to run.
    all.sort_by(|a, b| (&a.section, &a.name).cmp(&(&b.section, &b.name)));
    Ok(all)
}

/// Variables of other programs, and those that are no settings (`HALFBYTE_ROOT`), are left alone.
fn variable(name: &str, value: &str, source: Source) -> Result<Option<Given>> {
    let Some(rest) = name.strip_prefix(PREFIX) else { return Ok(None) };
    let Some((section, field)) = rest.split_once("__") else {
        let single = |section: &&&str| rest.starts_with(&format!("{}_", section.to_ascii_uppercase()));
        return match RagConfig::SECTIONS.iter().find(single) {
            Some(section) => {
                let field = &rest[section.len() + 1..];
                let right = format!("{PREFIX}{}__{field}", section.to_ascii_uppercase());
                let reason = format!("two underscores follow the section: write {right}");
                Err(Error::Given { place: source.to_string(), reason })
            }
            None => Ok(None),
        };
    };
    let (section, name) = (section.to_ascii_lowercase(), field.to_ascii_lowercase());
    Ok(Some(Given { section, name, text: value.into(), source }))
}

fn of_checkpoint(config: &RagConfig) -> Result<Vec<Given>> {
    let path = config.llm.model_dir()?.join("generation_config.json");
    let given = |(name, text): (&str, String)| Given {
        section: "llm".into(),
        name: name.into(),
        text,
        source: Source::Checkpoint(path.clone()),
    };
    Ok(config.llm.recommended()?.into_iter().map(given).collect())
}
