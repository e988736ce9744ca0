use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::options::{Number, Range};

/// A JSON object with the path of its file and the key that leads to it, for errors that say where.
#[derive(Clone, Copy)]
pub(crate) struct Keys<'a> {
    path: &'a Path,
    prefix: &'a str,
    map: &'a Map<String, Value>,
}

impl<'a> Keys<'a> {
    /// The top level of a file.
    pub fn new(path: &'a Path, value: &'a Value) -> Result<Self> {
        let map = value.as_object().ok_or_else(|| Error::Corrupt {
            path: path.to_owned(),
            format: "JSON configuration",
            reason: format!("its top level is {}, not an object", brief(value)),
        })?;
        Ok(Self { path, prefix: "", map })
    }

    /// The object under `key`; `None` where it is absent or null. `prefix` is `key` with its dots, for errors.
    pub fn object(&self, key: &'a str) -> Result<Option<Keys<'a>>> {
        match self.raw(key) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Keys { path: self.path, prefix: key, map })),
            Some(_) => Err(self.wrong(key, "it must be an object")),
        }
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// The value under `key`, unless it is absent or null.
    pub fn raw(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|v| !v.is_null())
    }

    /// The value under `key`, if there is one. `want` describes the type: "a whole number".
    pub fn get<T: DeserializeOwned>(&self, key: &str, want: &str) -> Result<Option<T>> {
        match self.raw(key) {
            None => Ok(None),
            Some(v) => T::deserialize(v).map(Some).map_err(|_| self.wrong(key, &format!("it must be {want}"))),
        }
    }

    /// A finite number, if there is one.
    pub fn number(&self, key: &str) -> Result<Option<f64>> {
        self.get(key, "a number")
    }

    /// Whether `key` is there, if only as null.
    pub fn has(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    /// Fails unless a value is in the range that such a setting has.
    pub fn in_range<N: Number>(&self, key: &str, range: &Range, value: Option<N>) -> Result<()> {
        self.check(key, value.is_none_or(|v| range.check(v).is_ok()), || format!("it must be {range}"))
    }

    /// A flag, false where it is absent.
    pub fn flag(&self, key: &str) -> Result<bool> {
        Ok(self.get(key, "true or false")?.unwrap_or(false))
    }

    /// A text, if there is one.
    pub fn text(&self, key: &str) -> Result<Option<String>> {
        self.get(key, "a text")
    }

    /// Token ids given as one number or as a list.
    pub fn token_ids(&self, key: &str) -> Result<Vec<u32>> {
        match self.raw(key) {
            None => Ok(Vec::new()),
            Some(Value::Array(_)) => Ok(self.get(key, "a token id or a list of them")?.unwrap_or_default()),
            Some(_) => Ok(self.get(key, "a token id or a list of them")?.into_iter().collect()),
        }
    }

    /// A size that must be there, from 1 to `max`.
    pub fn size(&self, key: &str, max: usize) -> Result<usize> {
        let size = self.get(key, "a whole number")?.ok_or_else(|| self.wrong(key, "it must be given"))?;
        self.check(key, (1..=max).contains(&size), || format!("it must be from 1 to {max}"))?;
        Ok(size)
    }

    /// Fails with what the key must be, unless `ok`.
    pub fn check(&self, key: &str, ok: bool, want: impl FnOnce() -> String) -> Result<()> {
        if ok { Ok(()) } else { Err(self.wrong(key, &want())) }
    }

    /// Fails with what is supported, unless `ok`.
    pub fn support(&self, key: &str, ok: bool, supported: &'static str) -> Result<()> {
        if ok {
            return Ok(());
        }
        Err(Error::Unsupported { path: self.path.to_owned(), key: self.full(key), got: self.shown(key), supported })
    }

    /// The keys that are set (not null) and not in `known`.
    pub fn others(&self, known: &[&str]) -> Vec<String> {
        self.others_but(known, &[])
    }

    /// The same without those that are set to the number or flag (as 1 or 0) beside them.
    pub fn others_but(&self, known: &[&str], defaults: &[(&str, f64)]) -> Vec<String> {
        let number = |value: &Value| value.as_f64().or(value.as_bool().map(|flag| f64::from(u8::from(flag))));
        let default = |key: &str, value: &Value| defaults.iter().any(|&(k, v)| k == key && number(value) == Some(v));
        let other = |key: &str, value: &Value| !value.is_null() && !known.contains(&key) && !default(key, value);
        self.map.iter().filter(|(key, value)| other(key, value)).map(|(key, _)| key.clone()).collect()
    }

    /// The error of a key with a senseless value.
    pub fn wrong(&self, key: &str, want: &str) -> Error {
        Error::Config { path: self.path.to_owned(), key: self.full(key), got: self.shown(key), want: want.to_owned() }
    }

    fn full(&self, key: &str) -> String {
        if self.prefix.is_empty() { key.to_owned() } else { format!("{}.{key}", self.prefix) }
    }

    fn shown(&self, key: &str) -> String {
        self.map.get(key).map_or_else(|| "missing".to_owned(), brief)
    }
}

/// A JSON value, cut to what fits in a message.
fn brief(value: &Value) -> String {
    const MOST: usize = 80;
    let text = value.to_string();
    match text.char_indices().nth(MOST) {
        None => text,
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}
