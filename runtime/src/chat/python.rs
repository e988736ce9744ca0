//! Jinja as Python's transformers sets it up.

use std::time::{SystemTime, UNIX_EPOCH};

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
    environment.add_function("strftime_now", |format: String| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        strftime(&format, now)
    });
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

/// The time `seconds` after 1970 in UTC, by the directives of Python's `strftime` that templates use.
fn strftime(format: &str, seconds: u64) -> Result<String, Error> {
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    const DAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil_date(days);
    let (month_name, day_name) = (MONTHS[month as usize - 1], DAYS[(days % 7) as usize]);
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let directive = chars.next();
        out += &match directive {
            Some('Y') => format!("{year}"),
            Some('y') => format!("{:02}", year % 100),
            Some('m') => format!("{month:02}"),
            Some('d') => format!("{day:02}"),
            Some('e') => format!("{day:2}"),
            Some('B') => month_name.into(),
            Some('b') => month_name[..3].into(),
            Some('A') => day_name.into(),
            Some('a') => day_name[..3].into(),
            Some('H') => format!("{:02}", second / 3600),
            Some('I') => format!("{:02}", (second / 3600 + 11) % 12 + 1),
            Some('p') => if second < 43_200 { "AM" } else { "PM" }.into(),
            Some('M') => format!("{:02}", second / 60 % 60),
            Some('S') => format!("{:02}", second % 60),
            Some('F') => format!("{year}-{month:02}-{day:02}"),
            Some('T') => format!("{:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60),
            Some('%') => "%".into(),
            _ => {
                let directive = directive.map_or(String::new(), String::from);
                let reason = format!("strftime_now does not know %{directive}");
                return Err(Error::new(ErrorKind::InvalidOperation, reason));
            }
        };
    }
    Ok(out)
}

/// Year, month and day of the Gregorian calendar, `days` after 1970-01-01.
fn civil_date(days: u64) -> (u64, u64, u64) {
    let leap = |year: u64| year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
    let mut days = days;
    let mut year = 1970;
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let february = 28 + u64::from(leap(year));
    let lengths = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while days >= lengths[month] {
        days -= lengths[month];
        month += 1;
    }
    (year, month as u64 + 1, days + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use minijinja::value::Serde;
    use serde_json::Value;

    #[test]
    fn dates_as_python_writes_them() {
        // datetime.fromtimestamp(1709210096, UTC), a leap day
        let now = 1_709_210_096;
        let cases = [
            ("%d %b %Y", "29 Feb 2024"),
            ("%A, %B %e %H:%M:%S", "Thursday, February 29 12:34:56"),
            ("%I %p %y %F %T %%", "12 PM 24 2024-02-29 12:34:56 %"),
        ];
        for (format, want) in cases {
            assert_eq!(strftime(format, now).unwrap(), want);
        }
        assert!(strftime("%Q", now).unwrap_err().to_string().contains("%Q"));
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
