//! The `tojson` filter as transformers has it: Python's `json.dumps`, with its spaces, escapes and floats.

use std::fmt::Write;

use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Error, ErrorKind, State};

use crate::text::control::is_reserved;

/// The deepest nesting that is written; a request's values are no deeper than 128.
const MAX_DEPTH: usize = 160;

/// The widest indentation of a level; more would only cost memory.
const MAX_INDENT: usize = 64;

/// Bytes of JSON for one step of fuel: a third of what other text costs.
const BYTES_PER_FUEL: usize = 24;

/// `json.dumps(value, ensure_ascii, indent, separators, sort_keys)`, by place or by name.
pub(super) fn dumps(state: &State<'_, '_>, value: &Value, args: Vec<Value>, named: &Kwargs) -> Result<String, Error> {
    let mut args = args.into_iter();
    let mut arg = |name: &str| -> Result<Option<Value>, Error> {
        let value = args.next().map_or_else(|| named.get(name), |value| Ok(Some(value)))?;
        Ok(value.filter(|value| !value.is_none() && !value.is_undefined()))
    };
    let ensure_ascii = arg("ensure_ascii")?.is_some_and(|value| value.is_true());
    let indent = arg("indent")?.map(|value| indent(&value)).transpose()?;
    let (between, after_key) = separators(arg("separators")?, indent.is_some())?;
    let sort_keys = arg("sort_keys")?.is_some_and(|value| value.is_true());
    if args.next().is_some() {
        return Err(Error::from(ErrorKind::TooManyArguments));
    }
    named.assert_all_used()?;
    let mut writer = Writer { state, out: String::new(), paid: 0, ensure_ascii, indent, between, after_key, sort_keys };
    writer.value(value, 0)?;
    Ok(writer.out)
}

/// One level of indentation: a number of spaces, or itself.
fn indent(value: &Value) -> Result<String, Error> {
    match value.as_str() {
        Some(text) => Ok(text.chars().take(MAX_INDENT).collect()),
        // As in Python, True is 1.
        None => Ok(" ".repeat(usize::try_from(i64::try_from(value.clone())?).unwrap_or(0).min(MAX_INDENT))),
    }
}

/// What stands between items, and behind a key.
fn separators(value: Option<Value>, is_indented: bool) -> Result<(String, String), Error> {
    let Some(value) = value else {
        return Ok((if is_indented { "," } else { ", " }.into(), ": ".into()));
    };
    let texts: Vec<String> = value.try_iter()?.map(|text| text.to_string()).collect();
    <[String; 2]>::try_from(texts).map(|[between, after_key]| (between, after_key)).map_err(|texts| {
        Error::new(ErrorKind::InvalidOperation, format!("tojson: expected two separators, found {}", texts.len()))
    })
}

struct Writer<'a> {
    state: &'a State<'a, 'a>,
    out: String,
    /// The bytes of `out` that fuel was spent on.
    paid: usize,
    ensure_ascii: bool,
    indent: Option<String>,
    between: String,
    after_key: String,
    sort_keys: bool,
}

impl Writer<'_> {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        self.pay()?;
        if depth > MAX_DEPTH {
            return Err(Error::new(ErrorKind::InvalidOperation, format!("tojson: nested deeper than {MAX_DEPTH}")));
        }
        match value.kind() {
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                let items = value.try_iter()?;
                self.container(['[', ']'], items, depth, |this, item| this.value(&item, depth + 1))?;
            }
            ValueKind::Map => {
                let entries = self.entries(value)?;
                self.container(['{', '}'], entries.into_iter(), depth, |this, (key, value)| {
                    this.string(&key);
                    let after_key = this.after_key.clone();
                    this.out += &after_key;
                    this.value(&value, depth + 1)
                })?;
            }
            _ => self.out += &scalar(value)?,
        }
        Ok(())
    }

    /// Keys and values of a dictionary, in order.
    fn entries(&self, map: &Value) -> Result<Vec<(String, Value)>, Error> {
        let entry = |key: Value| {
            let text = key.as_str().map_or_else(|| scalar(&key), |text| Ok(text.to_owned()))?;
            Ok((text, map.get_item(&key)?))
        };
        let mut entries = map.try_iter()?.map(entry).collect::<Result<Vec<_>, Error>>()?;
        if self.sort_keys {
            entries.sort_by(|(a, _), (b, _)| a.cmp(b));
        }
        Ok(entries)
    }

    /// `items` in brackets, each on a line of its own if there is an indent.
    fn container<T>(
        &mut self,
        [open, close]: [char; 2],
        items: impl Iterator<Item = T>,
        depth: usize,
        mut write: impl FnMut(&mut Self, T) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.out.push(open);
        let mut is_empty = true;
        for item in items {
            if !is_empty {
                let between = self.between.clone();
                self.out += &between;
            }
            is_empty = false;
            self.new_line(depth + 1);
            write(self, item)?;
        }
        if !is_empty {
            self.new_line(depth);
        }
        self.out.push(close);
        Ok(())
    }

    fn new_line(&mut self, depth: usize) {
        if let Some(indent) = &self.indent {
            self.out.push('\n');
            self.out.extend(std::iter::repeat_n(indent.as_str(), depth));
        }
    }

    fn string(&mut self, text: &str) {
        self.out.push('"');
        for char in text.chars() {
            match char {
                '"' => self.out += "\\\"",
                '\\' => self.out += "\\\\",
                '\n' => self.out += "\\n",
                '\r' => self.out += "\\r",
                '\t' => self.out += "\\t",
                '\u{8}' => self.out += "\\b",
                '\u{c}' => self.out += "\\f",
                char if char < ' ' || (self.ensure_ascii && char > '~' && !is_reserved(char)) => self.escape(char),
                char => self.out.push(char),
            }
        }
        self.out.push('"');
    }

    fn escape(&mut self, char: char) {
        for unit in char.encode_utf16(&mut [0; 2]) {
            let _ = write!(self.out, "\\u{unit:04x}"); // a string takes everything
        }
    }

    /// Spends fuel on what was written since the last time.
    fn pay(&mut self) -> Result<(), Error> {
        let steps = (self.out.len() - self.paid) / BYTES_PER_FUEL;
        self.paid += steps * BYTES_PER_FUEL;
        self.state.consume_fuel(steps as u64)
    }
}

/// What is no container and no string.
fn scalar(value: &Value) -> Result<String, Error> {
    match value.kind() {
        ValueKind::None => Ok("null".into()),
        ValueKind::Bool => Ok(if value.is_true() { "true" } else { "false" }.into()),
        ValueKind::Number if value.is_integer() => Ok(value.to_string()),
        ValueKind::Number => f64::try_from(value.clone()).map(float),
        kind => Err(Error::new(ErrorKind::InvalidOperation, format!("tojson: {kind} is no JSON"))),
    }
}

/// A float as Python writes it: the shortest digits, with an exponent where it is below -4 or above 15.
fn float(value: f64) -> String {
    if value.is_nan() {
        return "NaN".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "Infinity" } else { "-Infinity" }.into();
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    if (-4..16).contains(&exponent) {
        format!("{value:?}")
    } else {
        format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_written_as_python_writes_them() {
        // repr(...) of Python 3.11.
        let cases = [
            (1.0, "1.0"),
            (-0.0, "-0.0"),
            (0.1, "0.1"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (-1.5e-7, "-1.5e-07"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.2345678901234567e17, "1.2345678901234566e+17"),
            (1e300, "1e+300"),
            (f64::INFINITY, "Infinity"),
        ];
        for (value, expected) in cases {
            assert_eq!(float(value), expected);
        }
    }
}
