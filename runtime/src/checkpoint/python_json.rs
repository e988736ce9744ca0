//! JSON as Python's `json.dumps` writes it, so that files equal those of the libraries that they replace.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::Value;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

/// `json.dumps(value, indent=2, sort_keys=True)`.
pub fn sorted(mut value: Value) -> String {
    value.sort_all_objects();
    pretty(&value)
}

/// `json.dumps(value, indent=2)`.
pub fn pretty(value: &Value) -> String {
    let mut bytes = Vec::new();
    let mut serializer = Serializer::with_formatter(&mut bytes, Python(PrettyFormatter::new()));
    // A `Value` has only text keys and a `Vec` takes every byte, so there is nothing that can fail.
    match value.serialize(&mut serializer) {
        Ok(()) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(_) => value.to_string(),
    }
}

/// `repr` of a float: the shortest digits that give the same number, with an exponent below 1e-4 and from 1e16 on.
pub fn float(v: f64) -> String {
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

/// serde_json's indentation with Python's floats and with everything beyond ASCII escaped.
struct Python(PrettyFormatter<'static>);

/// Methods that are the inner formatter's.
macro_rules! forward {
    ($($name:ident($($arg:ident: $t:ty),*);)*) => {
        $(fn $name<W: ?Sized + Write>(&mut self, w: &mut W $(, $arg: $t)*) -> io::Result<()> {
            self.0.$name(w $(, $arg)*)
        })*
    };
}

impl Formatter for Python {
    forward! {
        begin_array(); end_array(); begin_array_value(first: bool); end_array_value();
        begin_object(); end_object(); begin_object_key(first: bool); begin_object_value(); end_object_value();
    }

    fn write_f64<W: ?Sized + Write>(&mut self, w: &mut W, value: f64) -> io::Result<()> {
        w.write_all(float(value).as_bytes())
    }

    fn write_string_fragment<W: ?Sized + Write>(&mut self, w: &mut W, text: &str) -> io::Result<()> {
        for c in text.chars() {
            if c.is_ascii() && c != '\x7f' {
                write!(w, "{c}")?;
            } else {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    write!(w, "\\u{unit:04x}")?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::float;

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
}
