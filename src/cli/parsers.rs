//! How values are read that clap has no parsers for.

use std::ffi::OsStr;
use std::fmt::Display;
use std::marker::PhantomData;
use std::str::FromStr;

use axum::http::HeaderValue;
use clap::builder::TypedValueParser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, Command};
use url::Url;

/// Reads a value that no error may tell.
#[derive(Clone, Debug)]
pub(super) struct Hidden<T>(PhantomData<T>);

impl<T> Hidden<T> {
    pub(super) fn new() -> Self {
        Self(PhantomData)
    }
}

impl<T: FromStr<Err: Display> + Clone + Send + Sync + 'static> TypedValueParser for Hidden<T> {
    type Value = T;

    fn parse_ref(&self, command: &Command, arg: Option<&Arg>, value: &OsStr) -> Result<T, clap::Error> {
        value.to_string_lossy().parse().map_err(|expected: T::Err| {
            let name = arg.map(ToString::to_string).unwrap_or_default();
            let message = format!("invalid value for '{name}': {expected}\n");
            let mut error = clap::Error::raw(ErrorKind::ValueValidation, message).with_cmd(command);
            error.insert(ContextKind::InvalidArg, ContextValue::String(name));
            error
        })
    }
}

/// A page's origin, or `*` for all of them.
pub(super) fn origin(text: &str) -> Result<HeaderValue, String> {
    let is_origin = |url: Url| url.has_host() && url.origin().ascii_serialization() == text;
    if text == "*" || Url::parse(text).is_ok_and(is_origin) {
        return HeaderValue::from_str(text).map_err(|error| error.to_string());
    }
    Err("expected an origin as browsers tell it, such as https://example.org or http://localhost:3000, or *".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_what_browsers_tell() {
        let good = ["*", "https://example.org", "http://localhost:3000", "http://[::1]:8080"];
        let bad = ["", "https://example.org/", "https://example.org:443", "example.org", "HTTPS://example.org", "null"];
        assert!(good.iter().all(|text| origin(text).is_ok()) && bad.iter().all(|text| origin(text).is_err()));
    }
}
