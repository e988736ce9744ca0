//! Which format a record has, and what it says.

use serde_json::{Map, Value};

use crate::chat::message;
use crate::evaluate::{prompt::Continuations, questions};
use crate::json;
use crate::settings::{DataFormat, Value as _};

/// What a record has to be trained on.
pub(super) enum Content {
    /// A text after another, which may be empty.
    Text { prompt: String, completion: String },
    /// A conversation.
    Talk(Talk),
}

/// A conversation of which the assistant's turns are trained.
pub(super) struct Talk {
    pub messages: Vec<Value>,
    /// So many messages come before what is trained.
    pub n_given: usize,
    pub tools: Option<Value>,
    pub enable_thinking: Option<bool>,
}

impl Talk {
    /// Whether each of the assistant's turns is trained; `weight` is OpenAI's key for it.
    ///
    /// # Errors
    /// A weight is neither 0 nor 1.
    pub fn trained(&self) -> Result<Vec<bool>, String> {
        let turns = self.messages.iter().enumerate().filter(|(_, message)| message["role"] == "assistant");
        let trained = turns.map(|(i, message)| match (&message["weight"], message["weight"].as_f64()) {
            (Value::Null, _) | (_, Some(1.0)) => Ok(i >= self.n_given),
            (_, Some(0.0)) => Ok(false),
            (weight, _) => Err(format!("message {i}: `weight` is {}, but must be 0 or 1", brief(weight))),
        });
        trained.collect()
    }
}

const ALL: [DataFormat; 6] = [
    DataFormat::Text,
    DataFormat::PromptCompletion,
    DataFormat::Messages,
    DataFormat::ShareGpt,
    DataFormat::Alpaca,
    DataFormat::MultipleChoice,
];

/// Keys of which a record of the format has one, and no record of another format.
fn marks(format: DataFormat) -> &'static [&'static str] {
    match format {
        DataFormat::Text => &["text"],
        DataFormat::PromptCompletion => &["completion"],
        DataFormat::Messages => &["messages"],
        DataFormat::ShareGpt => &["conversations"],
        DataFormat::Alpaca => &["instruction"],
        DataFormat::MultipleChoice => &questions::MARKS,
    }
}

/// Keys that would change what is trained, were they read.
fn strays(format: DataFormat, in_messages: bool) -> &'static [&'static str] {
    match format {
        DataFormat::PromptCompletion if in_messages => &[],
        DataFormat::Messages | DataFormat::ShareGpt => &[],
        DataFormat::Alpaca => &["history", "tools", "enable_thinking"],
        _ => &["tools", "enable_thinking"],
    }
}

/// Whether a key tells a format.
pub(super) fn is_mark(key: &str) -> bool {
    ALL.iter().any(|&format| marks(format).contains(&key))
}

/// Whether records of both formats may stand in a file: a text is a completion of nothing.
pub(super) fn go_together(a: DataFormat, b: DataFormat) -> bool {
    let plain = |format| matches!(format, DataFormat::Text | DataFormat::PromptCompletion);
    a == b || plain(a) && plain(b)
}

/// The format of a record.
pub(super) fn detect(record: &Map<String, Value>) -> Result<DataFormat, String> {
    let has = |format: &DataFormat| marks(*format).iter().any(|key| record.contains_key(*key));
    let mut found: Vec<_> = ALL.into_iter().filter(has).collect();
    if found.contains(&DataFormat::MultipleChoice) {
        // A question may say how to answer it.
        found.retain(|&format| format != DataFormat::Alpaca);
    }
    let keys = || record.keys().collect::<Vec<_>>();
    match found[..] {
        [format] if format != DataFormat::PromptCompletion && has_value(record, "prompt") => {
            let (mark, name) = (marks(format)[0], format.show());
            Err(format!("`prompt` means nothing beside `{mark}`; take it out, or say --data-format {name}"))
        }
        [format] => Ok(format),
        [] if record.contains_key("prompt") => Err("`prompt` needs a `completion` beside it".into()),
        [] => Err(format!("found the keys {:?}, expected {WANTED}", keys())),
        _ => {
            let marks = found.iter().flat_map(|&format| marks(format));
            let marks: Vec<_> = marks.filter(|key| record.contains_key(**key)).collect();
            let names = found.iter().map(DataFormat::show).collect::<Vec<_>>().join(" or ");
            Err(format!("the keys {marks:?} exclude each other; keep one, or say --data-format {names}"))
        }
    }
}

const WANTED: &str = "`text`, or `prompt` and `completion`, or `messages`, or `conversations`, or `instruction` and \
                      `output`, or `question`, `options` and `answer`";

/// What a record of this format says.
///
/// # Errors
/// A key is missing, has no such value, or would be ignored.
pub(super) fn read(format: DataFormat, record: &Map<String, Value>) -> Result<Content, String> {
    let in_messages = record.get("completion").is_some_and(Value::is_array);
    if let Some(stray) = strays(format, in_messages).iter().find(|key| has_value(record, key)) {
        return Err(format!("`{stray}` means nothing beside `{}`; take it out", marks(format)[0]));
    }
    let text = |prompt: &str, completion: &str| Content::Text { prompt: prompt.into(), completion: completion.into() };
    match format {
        DataFormat::Text => Ok(text("", string(record, "text")?)),
        DataFormat::PromptCompletion if in_messages => {
            let prompt = list(record, "prompt")?;
            talk(record, [prompt, list(record, "completion")?].concat(), prompt.len())
        }
        DataFormat::PromptCompletion => Ok(text(string(record, "prompt")?, string(record, "completion")?)),
        DataFormat::Messages => talk(record, list(record, "messages")?.to_vec(), 0),
        DataFormat::ShareGpt => talk(record, sharegpt(record)?, 0),
        DataFormat::Alpaca => talk(record, alpaca(record)?, 0),
        DataFormat::MultipleChoice => {
            let question = questions::of_record(0, record.clone().into())?;
            let answer = question.answer.ok_or("`answer` is null, so there is nothing to train on")?;
            let Continuations { prompt, options } = Continuations::of_texts(&question, &[]);
            Ok(text(&prompt, &options[answer]))
        }
    }
}

fn has_value(record: &Map<String, Value>, key: &str) -> bool {
    record.get(key).is_some_and(|value| !value.is_null())
}

fn talk(record: &Map<String, Value>, messages: Vec<Value>, n_given: usize) -> Result<Content, String> {
    let enable_thinking = match record.get("enable_thinking") {
        None | Some(Value::Null) => None,
        Some(Value::Bool(enable)) => Some(*enable),
        Some(_) => return Err(wrong_type(record, "enable_thinking", "true or false")),
    };
    Ok(Content::Talk(Talk { messages, n_given, tools: tools(record)?, enable_thinking }))
}

/// Some write the list as a text.
fn tools(record: &Map<String, Value>) -> Result<Option<Value>, String> {
    match record.get("tools") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.trim().is_empty() => Ok(None),
        Some(Value::String(text)) => {
            let tools = json::parse(text.as_bytes()).ok().filter(Value::is_array);
            tools.map(Some).ok_or_else(|| wrong_type(record, "tools", "a list, or one as a text of JSON"))
        }
        Some(tools) => Ok(Some(tools.clone())),
    }
}

fn system(record: &Map<String, Value>) -> Result<Option<Value>, String> {
    match record.get("system") {
        None | Some(Value::Null) => Ok(None),
        Some(_) => string(record, "system").map(|text| (!text.is_empty()).then(|| message("system", text))),
    }
}

fn alpaca(record: &Map<String, Value>) -> Result<Vec<Value>, String> {
    let (instruction, output) = (string(record, "instruction")?, string(record, "output")?);
    let asked = match record.get("input") {
        None | Some(Value::Null) => instruction.to_owned(),
        Some(_) => match string(record, "input")? {
            "" => instruction.to_owned(),
            input => format!("{instruction}\n{input}"),
        },
    };
    Ok(system(record)?.into_iter().chain([message("user", &asked), message("assistant", output)]).collect())
}

fn sharegpt(record: &Map<String, Value>) -> Result<Vec<Value>, String> {
    let turns = list(record, "conversations")?.iter().enumerate();
    let turns = turns.map(|(i, turn)| turn_of(turn).map_err(|reason| format!("turn {i}: {reason}")));
    system(record)?.into_iter().map(Ok).chain(turns).collect()
}

/// A turn as a message; some write `role` and `content` here, too.
fn turn_of(turn: &Value) -> Result<Value, String> {
    let either = |names: [&'static str; 2]| names.into_iter().find(|name| turn.get(name).is_some()).unwrap_or(names[0]);
    let (from, value) = (either(["from", "role"]), either(["value", "content"]));
    let Some(text) = turn[value].as_str() else {
        return Err(format!("`{value}` is {}, but must be a string", brief(&turn[value])));
    };
    let mut said = match turn[from].as_str().unwrap_or_default() {
        "human" | "user" => message("user", text),
        "gpt" | "assistant" | "model" | "chatgpt" => message("assistant", text),
        "system" => message("system", text),
        "tool" | "observation" | "function_response" => message("tool", text),
        "function_call" => call(text)?,
        _ => {
            let wanted = "human, gpt, system, tool, observation or function_call";
            return Err(format!("`{from}` is {}, but must be {wanted}", brief(&turn[from])));
        }
    };
    if let Some(weight) = turn.get("weight") {
        said["weight"] = weight.clone();
    }
    Ok(said)
}

/// A call of a tool, or several, written as JSON.
fn call(text: &str) -> Result<Value, String> {
    let calls = match json::parse(text.as_bytes()) {
        Ok(Value::Array(calls)) => calls,
        Ok(call) => vec![call],
        Err(_) => Vec::new(),
    };
    if calls.is_empty() || !calls.iter().all(|call| call["name"].is_string()) {
        return Err(format!(
            "a function_call is {}, but must be {{\"name\": …, \"arguments\": …}}",
            brief(&text.into())
        ));
    }
    let calls: Vec<_> = calls.iter().map(|call| serde_json::json!({"type": "function", "function": call})).collect();
    Ok(serde_json::json!({"role": "assistant", "content": "", "tool_calls": calls}))
}

fn list<'a>(record: &'a Map<String, Value>, key: &str) -> Result<&'a [Value], String> {
    match record.get(key) {
        Some(Value::Array(items)) => Ok(items),
        Some(_) => Err(wrong_type(record, key, "a list")),
        None => Err(missing(key)),
    }
}

fn string<'a>(record: &'a Map<String, Value>, key: &str) -> Result<&'a str, String> {
    match record.get(key) {
        Some(Value::String(text)) => Ok(text),
        Some(_) => Err(wrong_type(record, key, "a string")),
        None => Err(missing(key)),
    }
}

fn missing(key: &str) -> String {
    format!("the key `{key}` is missing")
}

fn wrong_type(record: &Map<String, Value>, key: &str, want: &str) -> String {
    format!("`{key}` is {}, but must be {want}", brief(&record[key]))
}

/// A value as JSON, cut to a readable length.
pub(super) fn brief(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
