//! JSON as Python's `json.dumps` writes it, so that files and prompts equal those of the libraries that this replaces.

use serde_json::{Map, Value};

/// The arguments of `json.dumps`.
#[derive(Debug, Clone)]
pub(crate) struct Dumps {
    /// Spaces for each level, with every item on a line of its own; none for one line.
    pub indent: Option<usize>,
    /// What stands between items, and between a key and its value.
    pub separators: (String, String),
    pub sort_keys: bool,
    /// Escapes everything beyond ASCII.
    pub ensure_ascii: bool,
}

impl Dumps {
    /// Python's defaults with this `indent`.
    pub fn new(indent: Option<usize>) -> Self {
        let item = if indent.is_some() { "," } else { ", " };
        Dumps { indent, separators: (item.into(), ": ".into()), sort_keys: false, ensure_ascii: true }
    }

    /// The text of `value`.
    pub fn dumps(&self, value: &Value) -> String {
        let mut writer = Writer { options: self, out: String::new() };
        writer.value(value, 0);
        writer.out
    }
}

/// `json.dumps(value, indent=2, sort_keys=True)`.
pub(crate) fn sorted(value: &Value) -> String {
    Dumps { sort_keys: true, ..Dumps::new(Some(2)) }.dumps(value)
}

struct Writer<'a> {
    options: &'a Dumps,
    out: String,
}

impl Writer<'_> {
    fn value(&mut self, value: &Value, depth: usize) {
        match value {
            Value::Array(items) if !items.is_empty() => self.array(items, depth),
            Value::Object(entries) if !entries.is_empty() => self.object(entries, depth),
            Value::Number(number) if number.is_f64() => {
                self.out += &number.as_f64().map_or_else(|| number.to_string(), float);
            }
            Value::String(text) => self.string(text),
            other => self.out += &other.to_string(),
        }
    }

    fn array(&mut self, items: &[Value], depth: usize) {
        self.out.push('[');
        for (index, item) in items.iter().enumerate() {
            self.separate(index, depth + 1);
            self.value(item, depth + 1);
        }
        self.new_line(depth);
        self.out.push(']');
    }

    fn object(&mut self, entries: &Map<String, Value>, depth: usize) {
        let mut entries: Vec<_> = entries.iter().collect();
        if self.options.sort_keys {
            entries.sort_by_key(|(key, _)| *key);
        }
        self.out.push('{');
        for (index, (key, value)) in entries.into_iter().enumerate() {
            self.separate(index, depth + 1);
            self.string(key);
            self.out += &self.options.separators.1;
            self.value(value, depth + 1);
        }
        self.new_line(depth);
        self.out.push('}');
    }

    fn string(&mut self, text: &str) {
        // serde_json escapes as Python does, but only where JSON asks for it.
        for c in Value::from(text).to_string().chars() {
            if !self.options.ensure_ascii || c.is_ascii() && c != '\x7f' {
                self.out.push(c);
            } else {
                let units = c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")).collect::<String>();
                self.out += &units;
            }
        }
    }

    fn separate(&mut self, index: usize, depth: usize) {
        if index > 0 {
            self.out += &self.options.separators.0;
        }
        self.new_line(depth);
    }

    fn new_line(&mut self, depth: usize) {
        if let Some(indent) = self.options.indent {
            self.out.push('\n');
            self.out.extend(std::iter::repeat_n(' ', indent * depth));
        }
    }
}

/// `repr` of a float: the shortest digits that give the same number, with an exponent below 1e-4 and from 1e16 on.
pub(crate) fn float(v: f64) -> String {
    if !v.is_finite() {
        return if v.is_nan() {
            "NaN"
        } else if v > 0.0 {
            "Infinity"
        } else {
            "-Infinity"
        }
        .to_owned();
    }
    let scientific = shortest(v);
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if v != 0.0 && !(-4..16).contains(&exponent) {
        return format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs());
    }
    let decimals = (fraction(digits) as i32 - exponent).max(1);
    format!("{v:.*}", decimals.unsigned_abs() as usize)
}

/// The shortest digits, as `1.25e-3`. Where two strings of that length are as near, Rust takes the upper and Python the
/// even one.
fn shortest(v: f64) -> String {
    let text = format!("{v:e}");
    let even = format!("{v:.*e}", fraction(text.split('e').next().unwrap_or_default()));
    if even.parse() == Ok(v) { even } else { text }
}

/// Digits behind the point.
fn fraction(digits: &str) -> usize {
    digits.split_once('.').map_or(0, |(_, fraction)| fraction.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn floats_are_those_of_python() {
        // Python's repr of each.
        let cases = [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1.0, "1.0"),
            (-2.5, "-2.5"),
            (0.1, "0.1"),
            (123456.0, "123456.0"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.5e300, "1.5e+300"),
            (1e-4, "0.0001"),
            (1e-6, "1e-06"),
            (9.5367431640625e-07, "9.5367431640625e-07"),
            (f64::from(0.1f32), "0.10000000149011612"),
            // 0.074283599853515625 and 0.203800201416015625: halfway between two strings of 16 digits.
            (0.07428359985351562, "0.07428359985351562"),
            (0.20380020141601562, "0.20380020141601562"),
            (5e-324, "5e-324"),
            (9007199254740993.0, "9007199254740992.0"),
            (2f64.powi(-1074 + 52), "2.2250738585072014e-308"),
            (f64::MAX, "1.7976931348623157e+308"),
        ];
        for (v, want) in cases {
            assert_eq!(float(v), want);
        }
    }

    #[test]
    fn texts_are_those_of_python() {
        let value = json!({"b": [1, 2.0, {}, 1e-7], "a": "é\u{1}\"<&'😀\x7f"});
        // json.dumps(value)
        let ascii = r#"{"b": [1, 2.0, {}, 1e-07], "a": "\u00e9\u0001\"<&'\ud83d\ude00\u007f"}"#;
        assert_eq!(Dumps::new(None).dumps(&value), ascii);
        // json.dumps(value, indent=2, sort_keys=True)
        let lines = "{\n  \"a\": [],\n  \"b\": [\n    1,\n    null\n  ]\n}";
        assert_eq!(sorted(&json!({"b": [1, null], "a": []})), lines);
    }
}
