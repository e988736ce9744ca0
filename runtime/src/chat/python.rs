//! Jinja as Python's transformers sets it up.

use jiff::Timestamp;
use jiff::fmt::strtime;
use jiff::tz::TimeZone;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value as Jinja, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Output, State, escape_formatter};
use minijinja_contrib::pycompat;

use super::limits;
use crate::python_json::{self, Dumps};

/// An environment without templates.
pub(super) fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.expect("Jinja's own delimiters"));
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_formatter(format_value);
    environment.set_unknown_method_callback(method);
    environment.add_filter("tojson", tojson);
    environment.add_function("raise_exception", |message: String| -> Result<Jinja, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message))
    });
    environment.add_function("strftime_now", |format: String| strftime(&format, Timestamp::now()));
    environment
}

/// The most spaces of a level of `tojson`: what depends on it is the size of its text.
const MAX_INDENT: usize = 64;

/// Python's methods.
fn method(state: &mut State<'_, '_>, value: &Jinja, name: &str, args: &[Jinja]) -> Result<Jinja, Error> {
    if name == "format" {
        limits::pay_for_padding(state, value.as_str().unwrap_or_default())?;
    }
    pycompat::unknown_method_callback(state, value, name, args)
}

/// Prints `True`, `False`, `None` and floats as Python does.
fn format_value(out: &mut Output<'_>, state: &mut State<'_, '_>, value: &Jinja) -> Result<(), Error> {
    let text = match value.kind() {
        ValueKind::Bool if value.is_true() => "True".into(),
        ValueKind::Bool => "False".into(),
        ValueKind::None => "None".into(),
        ValueKind::Number if !value.is_integer() => match f64::try_from(value.clone()) {
            Ok(number) => python_json::float(number),
            Err(_) => return escape_formatter(out, state, value),
        },
        _ => return escape_formatter(out, state, value),
    };
    Ok(out.write_str(&text)?)
}

/// `json.dumps`, where everything beyond ASCII stays as it is unless `ensure_ascii=True` says otherwise.
fn tojson(state: &State<'_, '_>, value: Jinja, options: Kwargs) -> Result<Jinja, Error> {
    let indent: Option<usize> = options.get("indent")?;
    if indent.is_some_and(|indent| indent > MAX_INDENT) {
        return Err(Error::new(ErrorKind::InvalidOperation, format!("tojson indents by at most {MAX_INDENT}")));
    }
    let sort_keys = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    let ensure_ascii = options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
    let separators: Option<(String, String)> = options
        .get::<Option<Vec<String>>>("separators")?
        .and_then(|pair| pair.try_into().ok().map(|[item, key]: [String; 2]| (item, key)));
    options.assert_all_used()?;
    let python = Dumps::new(indent);
    let dumps = Dumps { indent, separators: separators.unwrap_or(python.separators), sort_keys, ensure_ascii };
    limits::pay_for_json(state, &value, &dumps, 0)?;
    let value = serde_json::to_value(&value).map_err(|e| Error::new(ErrorKind::BadSerialization, e.to_string()))?;
    Ok(Jinja::from_safe_string(dumps.dumps(&value)))
}

/// A time in UTC, by the directives of `strftime`.
fn strftime(format: &str, now: Timestamp) -> Result<String, Error> {
    strtime::format(format, &now.to_zoned(TimeZone::UTC))
        .map_err(|e| Error::new(ErrorKind::InvalidOperation, format!("strftime_now cannot write `{format}`: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use minijinja::value::Serde;
    use serde_json::Value;

    #[test]
    fn dates_as_python_writes_them() {
        // datetime.fromtimestamp(1709210096, UTC), a leap day
        let now = Timestamp::from_second(1_709_210_096).unwrap();
        let cases = [
            ("%d %b %Y", "29 Feb 2024"),
            ("%A, %B %e %H:%M:%S", "Thursday, February 29 12:34:56"),
            ("%I %p %y %F %T %%", "12 PM 24 2024-02-29 12:34:56 %"),
        ];
        for (format, want) in cases {
            assert_eq!(strftime(format, now).unwrap(), want);
        }
        for format in ["%", "%!", "%i"] {
            assert!(strftime(format, now).unwrap_err().to_string().contains(&format!("`{format}`")));
        }
    }

    #[test]
    fn json_as_python_writes_it() {
        let environment = environment();
        let value: Value =
            serde_json::from_str(r#"{"b": [1, 2.0, {}, 1e-7], "a": "é\u0001\"<&'", "c": null}"#).unwrap();
        let render =
            |source: &str| environment.render_str(source, minijinja::context! { value => Serde(&value) }).unwrap();
        assert_eq!(
            render("{{ value | tojson }}"),
            "{\"b\": [1, 2.0, {}, 1e-07], \"a\": \"é\\u0001\\\"<&'\", \"c\": null}"
        );
        assert_eq!(render("{{ value.b | tojson(indent=2) }}"), "[\n  1,\n  2.0,\n  {},\n  1e-07\n]");
        assert_eq!(
            render("{{ value | tojson(sort_keys=true, separators=(',', ':')) }}"),
            "{\"a\":\"é\\u0001\\\"<&'\",\"b\":[1,2.0,{},1e-07],\"c\":null}"
        );
    }
}
