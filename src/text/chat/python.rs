//! What templates find around them: Jinja as transformers sets it up, and the methods of Python's strings.

use std::borrow::Cow;
use std::fmt;

use jiff::ZonedDateTime;
use jiff::fmt::strtime;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Rest, Tuple, Value, ValueKind, from_args};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State};
use minijinja_contrib::pycompat;

use super::json;

/// An environment without templates.
pub(super) fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.unwrap_or_default()); // what can fail are delimiters, which stay
    environment.set_debug(false); // errors would keep values that are not to leave the stack of their rendering
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_unknown_method_callback(method);
    environment.add_filter("tojson", |state: &State<'_, '_>, value: &Value, Rest(args): Rest<Value>, named: Kwargs| {
        json::dumps(state, value, args, &named)
    });
    environment.add_filter("trim", trim);
    environment.add_test("sequence", is_sequence);
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", |format: String| strftime(&ZonedDateTime::now(), &format));
    environment.remove_global("debug"); // prints all variables
    environment
}

/// What a template gave to `raise_exception`.
#[derive(Debug)]
pub(super) struct Raised(pub(super) String);

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

fn raise_exception(message: &Value) -> Result<Value, Error> {
    let message = message.to_string();
    Err(Error::new(ErrorKind::InvalidOperation, message.clone()).with_source(Raised(message)))
}

/// What was raised, if that is why `error` came about: errors in macros come in others.
pub(super) fn raised(error: &Error) -> Option<&Raised> {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(raised) = error.downcast_ref() {
            return Some(raised);
        }
        next = error.source();
    }
    None
}

/// The local time `now`, as Python's `strftime` has it for a time without a zone.
fn strftime(now: &ZonedDateTime, format: &str) -> Result<String, Error> {
    let failed = |error| Error::new(ErrorKind::InvalidOperation, format!("strftime_now({format:?}): {error}"));
    strtime::format(translated(format), now).map_err(failed)
}

/// `format` with what jiff means by Python's directives. Those that are unknown stand for themselves.
fn translated(format: &str) -> String {
    let mut parts = format.split('%');
    let mut out = parts.next().unwrap_or_default().to_owned();
    while let Some(part) = parts.next() {
        let flags = part.chars().take_while(|char| matches!(char, '-' | '_' | '0' | '^' | '#')).count();
        let (flags, rest) = part.split_at(flags);
        let mut chars = rest.chars();
        match chars.next() {
            // A second percent sign, and what is behind it.
            None if flags.is_empty() => {
                out += "%%";
                out += parts.next().unwrap_or_default();
                continue;
            }
            Some('f') => out += "%6f",
            Some('c') => out += "%a %b %e %H:%M:%S %Y",
            Some('x') => out += "%m/%d/%y",
            Some('X') => out += "%H:%M:%S",
            Some('r') => out += "%I:%M:%S %p",
            Some('z' | 'Z') => {}
            Some(directive) if "aAbBCdDeFgGhHIjklmMnpPRsStTuUVwWyY".contains(directive) => {
                out.push('%');
                out += flags;
                out.push(directive);
            }
            other => {
                out += "%%";
                out += flags;
                out.extend(other);
            }
        }
        out += chars.as_str();
    }
    out
}

/// Whether Python calls `char` a space: Rust does not count four separators.
fn is_space(char: char) -> bool {
    char.is_whitespace() || matches!(char, '\u{1c}'..='\u{1f}')
}

fn strip<'a>(text: &'a str, chars: Option<&str>, at_start: bool, at_end: bool) -> &'a str {
    let is_stripped = |char| chars.map_or_else(|| is_space(char), |chars| chars.contains(char));
    let text = if at_start { text.trim_start_matches(is_stripped) } else { text };
    if at_end { text.trim_end_matches(is_stripped) } else { text }
}

fn trim(value: &Value, chars: Option<&str>) -> String {
    let text = value.as_str().map_or_else(|| Cow::from(value.to_string()), Cow::from);
    strip(&text, chars, true, true).to_owned()
}

/// Python's strings and dictionaries count as sequences too.
fn is_sequence(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Undefined | ValueKind::Seq | ValueKind::String | ValueKind::Map)
}

/// The methods of Python's types that minijinja's own do not have, or have otherwise.
fn method(state: &mut State<'_, '_>, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    match value.as_str() {
        Some(text) => match string_method(text, name, args)? {
            Some(result) => Ok(result),
            None => pycompat::unknown_method_callback(state, value, name, &positional(name, args)?),
        },
        None => pycompat::unknown_method_callback(state, value, name, args),
    }
}

fn string_method(text: &str, name: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    let stripped = |at_start, at_end| {
        let (chars,): (Option<&str>,) = from_args(args)?;
        Ok(Some(strip(text, chars, at_start, at_end).into()))
    };
    let arg = || from_args::<(&str,)>(args).map(|(arg,)| arg);
    match name {
        "strip" => stripped(true, true),
        "lstrip" => stripped(true, false),
        "rstrip" => stripped(false, true),
        "removeprefix" => Ok(Some(text.strip_prefix(arg()?).unwrap_or(text).into())),
        "removesuffix" => Ok(Some(text.strip_suffix(arg()?).unwrap_or(text).into())),
        "title" => from_args::<()>(args).map(|()| Some(title(text).into())),
        "partition" => {
            let separator = arg()?;
            let parts = text.split_once(separator).map_or([text, "", ""], |(head, tail)| [head, separator, tail]);
            Ok(Some(Tuple::from(parts.map(Value::from)).into()))
        }
        "rpartition" => {
            let separator = arg()?;
            let parts = text.rsplit_once(separator).map_or(["", "", text], |(head, tail)| [head, separator, tail]);
            Ok(Some(Tuple::from(parts.map(Value::from)).into()))
        }
        "rsplit" => rsplit(text, &positional(name, args)?),
        _ => Ok(None),
    }
}

/// Python's `title`: each letter behind anything but a letter is a capital, unlike in the filter of that name.
fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut is_within = false;
    for char in text.chars() {
        if is_within {
            out.extend(char.to_lowercase());
        } else {
            out.extend(char.to_uppercase());
        }
        is_within = char.is_lowercase() || char.is_uppercase();
    }
    out
}

/// Python's `rsplit`, whose parts are counted from the end.
fn rsplit(text: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    let (separator, limit): (Option<&str>, Option<i64>) = from_args(args)?;
    let Some(separator) = separator.filter(|separator| !separator.is_empty()) else {
        return Err(Error::new(ErrorKind::InvalidOperation, "rsplit is known with a separator alone"));
    };
    let mut parts: Vec<&str> = match limit.and_then(|limit| usize::try_from(limit).ok()) {
        Some(limit) => text.rsplitn(limit.saturating_add(1), separator).collect(),
        None => text.rsplit(separator).collect(),
    };
    parts.reverse();
    Ok(Some(parts.into_iter().collect()))
}

/// `args` with the named ones of the methods that split in their places.
fn positional(method: &str, args: &[Value]) -> Result<Vec<Value>, Error> {
    let names: &[&str] = match method {
        "split" | "rsplit" => &["sep", "maxsplit"],
        "splitlines" => &["keepends"],
        _ => return Ok(args.to_vec()),
    };
    let (Rest(mut values), named): (Rest<Value>, Kwargs) = from_args(args)?;
    for name in names.iter().skip(values.len()) {
        values.push(named.get::<Option<Value>>(name)?.unwrap_or_else(|| Value::from(())));
    }
    named.assert_all_used()?;
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_python_writes_them() {
        // datetime(2024, 7, 6, 5, 4, 3, 21).strftime(...) of Python 3.11 on Linux.
        let cases = [
            ("%d %b %Y", "06 Jul 2024"),
            ("%Y-%m-%d", "2024-07-06"),
            ("%B %d, %Y", "July 06, 2024"),
            ("%A, %-d. %B", "Saturday, 6. July"),
            ("%H:%M:%S.%f|%p", "05:04:03.000021|AM"),
            ("%c|%x|%X", "Sat Jul  6 05:04:03 2024|07/06/24|05:04:03"),
            ("%r|%e|%j|%U|%W|%w|%u", "05:04:03 AM| 6|188|26|27|6|6"),
            ("%z%Z|%%d|%%|100%", "|%d|%|100%"),
            ("%G-%V %y %C %h %D %F %T %R", "2024-27 24 20 Jul 07/06/24 2024-07-06 05:04:03 05:04"),
            ("%Q é %-Q", "%Q é %-Q"),
            ("", ""),
        ];
        let now =
            jiff::civil::datetime(2024, 7, 6, 5, 4, 3, 21_000).to_zoned_datetime(jiff::tz::TimeZone::UTC).unwrap();
        for (format, expected) in cases {
            assert_eq!(strftime(&now, format).unwrap(), expected, "{format}");
        }
    }

    #[test]
    fn a_format_of_any_kind_is_no_panic() {
        let now = ZonedDateTime::now();
        proptest::proptest!(|(format in "[%a-zA-Z0-9é:.^#_-]{0,12}")| {
            let _ = strftime(&now, &format);
        });
    }
}
