//! Conversations as text, by the checkpoint's chat template.
//!
//! Templates are Jinja as transformers renders it: `trim_blocks`, `lstrip_blocks`, Python's string methods, `tojson`
//! in Python's spelling, `raise_exception` and `strftime_now` (in UTC).

use std::path::{Path, PathBuf};

use minijinja::value::Serde;
use minijinja::{Environment, ErrorKind, Value as Jinja};
use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::files;
use crate::tokenizer::{Tokenizer, read_config, token_content};

mod limits;
mod python;

/// What begins the text of a message, followed by its role.
pub const TURN_START: &str = "<|im_start|>";
/// What ends it.
pub const TURN_END: &str = "<|im_end|>";

/// Qwen3's format without tools and thinking, for checkpoints that have its markers but no template.
const CHATML: &str = "\
{%- if tools %}{{ raise_exception('this checkpoint has no chat template that knows tools') }}{% endif %}
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{% endif %}";

/// What a template renders.
#[derive(Clone, Copy, Debug, Default)]
pub struct Chat<'a> {
    /// The messages: objects with `role`, `content` and what else the template knows (`reasoning_content`,
    /// `tool_calls`).
    pub messages: &'a [Value],
    /// Descriptions of the tools that the model may call.
    pub tools: Option<&'a Value>,
    /// End with the beginning of the assistant's turn.
    pub add_generation_prompt: bool,
    /// Whether the model is to think; `None` leaves it to the template.
    pub enable_thinking: Option<bool>,
    /// Further variables of the template.
    pub extra: Option<&'a Map<String, Value>>,
}

impl Chat<'_> {
    /// Bytes that it brings along.
    fn bytes(&self) -> u64 {
        let messages: usize = self.messages.iter().map(|message| message.to_string().len() + 64).sum();
        let others = self.tools.map_or(0, |tools| tools.to_string().len());
        (messages + others) as u64
    }
}

/// A checkpoint's chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    path: PathBuf,
    special_tokens: Map<String, Value>,
    note: Option<String>,
}

impl ChatTemplate {
    /// Reads `chat_template.jinja` of the checkpoint, or `chat_template` of its `tokenizer_config.json`.
    ///
    /// A checkpoint without either gets plain ChatML if its tokenizer has the markers; [`Self::note`] says so.
    ///
    /// # Errors
    /// When there is no template and no markers, or the template is not valid.
    pub fn open(dir: impl AsRef<Path>, tokenizer: &Tokenizer) -> Result<Self> {
        let dir = dir.as_ref();
        let config = read_config(dir)?;
        let (path, sources) = match read_sources(dir, &config)? {
            Some(found) => found,
            None => return Self::chatml(dir, tokenizer),
        };
        let mut template = Self::new(path, sources)?;
        template.special_tokens = special_tokens(&config);
        Ok(template)
    }

    /// A template from its text; `path` is for error messages.
    ///
    /// # Errors
    /// When it is not a valid template.
    pub fn from_source(path: impl Into<PathBuf>, source: impl Into<String>) -> Result<Self> {
        Self::new(path.into(), vec![("default".into(), source.into())])
    }

    fn new(path: PathBuf, sources: Vec<(String, String)>) -> Result<Self> {
        let mut environment = python::environment();
        for (name, source) in sources {
            environment.add_template_owned(name, source).map_err(|e| template_error(&path, &e))?;
        }
        Ok(Self { environment, path, special_tokens: Map::new(), note: None })
    }

    fn chatml(dir: &Path, tokenizer: &Tokenizer) -> Result<Self> {
        if [TURN_START, TURN_END].iter().any(|marker| tokenizer.token_to_id(marker).is_none()) {
            let hint = "copy it from the model's original checkpoint, or use the model without chat (--raw)";
            return Err(Error::MissingFile { dir: dir.to_owned(), wanted: "chat_template.jinja".into(), hint });
        }
        let mut template = Self::from_source("ChatML", CHATML)?;
        template.note = Some(format!("`{}` has no chat template: using plain ChatML", dir.display()));
        Ok(template)
    }

    /// What decides what it renders; none where the time does, too.
    pub(crate) fn identity(&self) -> Option<String> {
        let mut sources: Vec<_> = self.environment.templates().map(|(name, t)| (name, t.source().to_owned())).collect();
        sources.sort_unstable();
        let timeless = !sources.iter().any(|(_, source)| source.contains("strftime_now"));
        timeless.then(|| format!("{sources:?} {}", Value::from(self.special_tokens.clone())))
    }

    /// What the user should know about the choice of the template.
    pub fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    /// Whether the template reads a variable, such as `enable_thinking`.
    pub fn uses(&self, variable: &str) -> bool {
        self.environment.templates().any(|(_, template)| template.undeclared_variables(false).contains(variable))
    }

    /// The text of a conversation.
    ///
    /// # Errors
    /// When a message has no known role or no text, or the template refuses the conversation.
    pub fn render(&self, chat: &Chat<'_>) -> Result<String> {
        check_messages(chat.messages).map_err(|reason| Error::Template { path: self.path.clone(), reason })?;
        let name = if chat.tools.is_some() { "tool_use" } else { "default" };
        let mut environment = self.environment.clone();
        environment.set_fuel(Some(limits::fuel(chat.bytes())));
        let template = environment.get_template(name).or_else(|_| environment.get_template("default"));
        let mut out = limits::Limited::new(chat.bytes());
        let rendered =
            template.and_then(|template| template.render_captured_to(self.variables(chat), &mut out).map(drop));
        match rendered {
            Err(_) if out.is_full() => Err(Error::Template { path: self.path.clone(), reason: out.reason() }),
            Err(e) => Err(template_error(&self.path, &e)),
            Ok(()) => Ok(out.into_text()),
        }
    }

    fn variables(&self, chat: &Chat<'_>) -> Jinja {
        let mut variables = self.special_tokens.clone();
        variables.insert("messages".into(), chat.messages.iter().map(with_reasoning).collect());
        variables.insert("tools".into(), chat.tools.cloned().unwrap_or_default());
        variables.insert("add_generation_prompt".into(), chat.add_generation_prompt.into());
        if let Some(enable) = chat.enable_thinking {
            variables.insert("enable_thinking".into(), enable.into());
        }
        variables.extend(chat.extra.cloned().unwrap_or_default());
        Jinja::from(Serde(variables))
    }
}

/// The text of a checkpoint's chat template, the default one of several; none where it has none.
pub(crate) fn template_source(dir: &Path) -> Result<Option<String>> {
    let sources = read_sources(dir, &read_config(dir)?)?.map(|(_, sources)| sources);
    Ok(sources.into_iter().flatten().find(|(name, _)| name == "default").map(|(_, source)| source))
}

/// The template file and its templates by name.
type Sources = (PathBuf, Vec<(String, String)>);

fn read_sources(dir: &Path, config: &Value) -> Result<Option<Sources>> {
    let file = dir.join("chat_template.jinja");
    if files::exists(&file) {
        let source = files::read_to_string(&file)?;
        return Ok(Some((file, vec![("default".into(), source)])));
    }
    let path = dir.join("tokenizer_config.json");
    let named = |entry: &Value| Some((entry["name"].as_str()?.to_owned(), entry["template"].as_str()?.to_owned()));
    let sources = match &config["chat_template"] {
        Value::Null => return Ok(None),
        Value::String(source) => Some(vec![("default".to_owned(), source.clone())]),
        Value::Array(entries) => entries.iter().map(named).collect(),
        _ => None,
    };
    match sources {
        Some(sources) if sources.iter().any(|(name, _)| name == "default") => Ok(Some((path, sources))),
        _ => Err(Error::Config {
            path,
            key: "chat_template".into(),
            got: "something else".into(),
            want: "it must be a string, or a list of {name, template} with one named `default`".into(),
        }),
    }
}

fn special_tokens(config: &Value) -> Map<String, Value> {
    let names = ["bos_token", "eos_token", "pad_token", "unk_token"];
    names.iter().filter_map(|&name| Some((name.to_owned(), token_content(&config[name])?.into()))).collect()
}

/// A message with `reasoning_content` filled from the other names in use for it.
fn with_reasoning(message: &Value) -> Value {
    let mut message = message.clone();
    let names = ["reasoning_content", "thinking", "reasoning"];
    if let Some(reasoning) = names.iter().map(|&name| message[name].clone()).find(|value| !value.is_null()) {
        message["reasoning_content"] = reasoning;
    }
    message
}

/// Checks what templates pass over in silence: Qwen3's leaves out messages of unknown roles and content that is no
/// string.
fn check_messages(messages: &[Value]) -> Result<(), String> {
    if messages.is_empty() {
        return Err("there are no messages".into());
    }
    for (index, message) in messages.iter().enumerate() {
        check_message(message).map_err(|reason| format!("message {index}: {reason}"))?;
    }
    Ok(())
}

fn check_message(message: &Value) -> Result<(), String> {
    if !message.is_object() {
        return Err(format!("{message} is not an object with `role` and `content`"));
    }
    let role = &message["role"];
    if !["system", "user", "assistant", "tool"].iter().any(|known| role == known) {
        return Err(format!("`role` is {role}, but must be \"system\", \"user\", \"assistant\" or \"tool\""));
    }
    match &message["content"] {
        Value::String(_) => Ok(()),
        Value::Null if message["tool_calls"].is_array() => Ok(()),
        other => Err(format!("`content` is {other}, but must be a string")),
    }
}

fn template_error(path: &Path, error: &minijinja::Error) -> Error {
    let line = error.line().map_or(String::new(), |line| format!(" (line {line})"));
    let reason = match (error.kind(), error.detail()) {
        (ErrorKind::InvalidOperation, Some(detail)) => format!("{detail}{line}"),
        (kind, detail) => format!("{kind}: {}{line}", detail.unwrap_or("no detail")),
    };
    Error::Template { path: path.to_owned(), reason }
}

/// A message of the given role.
pub fn message(role: &str, content: &str) -> Value {
    json!({ "role": role, "content": content })
}
