//! A setting of `blazr serve` has one name: the flag `--flag-name`, the variable `BLAZR_FLAG_NAME` and the key `flag_name`
//! of the configuration file. Flags win over variables, variables over the file, and the file over the defaults.
//!
//! clap knows the names, types, bounds and defaults of all of them, and what is in the file goes through its parsers.

use std::ffi::{OsStr, OsString};
use std::fmt::Write;
use std::io;
use std::path::{Path, PathBuf};

use clap::builder::{BoolishValueParser, ValueParser};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};

use super::file::{DEFAULT, Entry, File, Value};
use crate::error::{Error, Result};

/// The command whose flags are the settings.
const SERVER: &str = "serve";

/// The flag that names the file. It has a variable, too.
const CONFIG: &str = "config";

/// The flags of it that are none.
const NO_SETTINGS: [&str; 4] = [CONFIG, "print_config", "help", "version"];

/// What the names of all variables begin with.
const PREFIX: &str = "BLAZR_";

/// The setting that is never shown.
const SECRET: &str = "api_key";

/// The settings, as arguments of the server's command.
fn arguments(command: &Command) -> impl Iterator<Item = &Arg> {
    let all = command.find_subcommand(SERVER).into_iter().flat_map(Command::get_arguments);
    all.filter(|arg| !NO_SETTINGS.contains(&arg.get_id().as_str()))
}

fn argument<'a>(command: &'a Command, key: &str) -> Option<&'a Arg> {
    arguments(command).find(|arg| arg.get_id() == key)
}

fn is_switch(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::SetTrue)
}

fn variable(key: &str) -> String {
    format!("{PREFIX}{}", key.to_uppercase())
}

fn flag(key: &str) -> String {
    format!("--{}", key.replace('_', "-"))
}

/// Gives the settings their variables, in every subcommand that has them.
pub fn with_variables(command: &Command) -> Command {
    let add = |arg: Arg| {
        let key = arg.get_id().to_string();
        if argument(command, &key).is_none() && key != CONFIG {
            return arg;
        }
        // A variable without a value is as good as none, but for the one that locks the door.
        if key != SECRET && std::env::var_os(variable(&key)).is_some_and(|value| value.is_empty()) {
            return arg;
        }
        let arg = arg.env(variable(&key)).hide_env_values(true);
        if is_switch(&arg) { arg.value_parser(BoolishValueParser::new()) } else { arg }
    };
    command.clone().mut_subcommands(|subcommand| subcommand.mut_args(add))
}

/// What one run of the program was told, and by whom.
#[derive(Debug)]
pub struct Sources<'a> {
    command: &'a Command,
    name: &'a str,
    given: &'a ArgMatches,
    file: Option<File>,
}

impl<'a> Sources<'a> {
    /// Reads what the subcommand's `given` flags and variables do not say: the file that `--config` names, else
    /// `config/blazr.toml` where there is one. None where the subcommand has no such flag. `command` is without variables.
    ///
    /// # Errors
    /// The file can't be read, or has a key or a value that no setting has.
    pub fn read(command: &'a Command, name: &'a str, given: &'a ArgMatches) -> Result<Option<Self>> {
        let mut sources = Self { command, name, given, file: None };
        if !sources.has(CONFIG) {
            return Ok(None);
        }
        let default = || Some(PathBuf::from(DEFAULT)).filter(|path| !is_missing(path));
        if let Some(path) = given.get_one::<PathBuf>(CONFIG).cloned().or_else(default) {
            let file = File::read(&path)?;
            file.entries.iter().try_for_each(|entry| sources.check(&file, entry))?;
            sources.file = Some(file);
        }
        Ok(Some(sources))
    }

    /// The flags that say the same as the file does, where nobody else says anything.
    pub fn flags(&self) -> Vec<OsString> {
        let entries = self.file.iter().flat_map(|file| &file.entries);
        entries.filter(|entry| self.has(&entry.key) && !self.is_given(&entry.key)).flat_map(Entry::flags).collect()
    }

    /// Whether the subcommand has such an argument.
    fn has(&self, key: &str) -> bool {
        let own = self.command.find_subcommand(self.name);
        own.is_some_and(|own| own.get_arguments().any(|arg| arg.get_id() == key))
    }

    /// All settings of the server, which the subcommand must be, as a file that says the same, with where each comes from;
    /// the secret one is left out.
    pub fn to_toml(&self) -> String {
        arguments(self.command).fold(String::new(), |mut text, arg| {
            let key = arg.get_id().as_str();
            let (values, origin) = self.values(arg);
            let _ = match values.as_slice() {
                [] => writeln!(text, "# {key} is not set"),
                _ if key == SECRET => writeln!(text, "# {key} is set by {origin} and not shown"),
                _ if matches!(arg.get_action(), ArgAction::Append) => {
                    writeln!(text, "{key} = [{}] # {origin}", values.join(", "))
                }
                [one, ..] => writeln!(text, "{key} = {one} # {origin}"),
            };
            text
        })
    }

    /// What a setting has, as TOML, and who says so.
    fn values(&self, arg: &Arg) -> (Vec<String>, String) {
        let key = arg.get_id().as_str();
        let in_file = self.file.as_ref().and_then(|file| Some((file, file.entries.iter().find(|it| it.key == key)?)));
        match (in_file, self.given.value_source(key)) {
            (Some((file, entry)), source) if !is_said(source) => (entry.value.to_toml(), file.place(entry)),
            (_, source) if is_switch(arg) => (vec![self.given.get_flag(key).to_string()], origin(key, source)),
            (_, source) => {
                let raw = self.given.get_raw(key).into_iter().flatten();
                (raw.map(|value| to_toml(&value.to_string_lossy())).collect(), origin(key, source))
            }
        }
    }

    fn is_given(&self, key: &str) -> bool {
        is_said(self.given.value_source(key))
    }

    fn check(&self, file: &File, entry: &Entry) -> Result<()> {
        let Some(arg) = argument(self.command, &entry.key) else {
            let known: Vec<_> = arguments(self.command).map(|arg| arg.get_id().as_str()).collect();
            return Err(file.refuse(entry, &format!("there is no such setting; there are {}", known.join(", "))));
        };
        match (&entry.value, is_switch(arg)) {
            (Value::Truth(_), false) => {
                return Err(file.refuse(entry, "expected a text or a number, found true or false"));
            }
            (Value::Texts(_), true) => return Err(file.refuse(entry, "expected true or false")),
            (Value::Texts(all), _) if all.is_empty() => return Err(file.refuse(entry, "expected a value, found none")),
            (Value::Texts(all), _) if arg.get_value_delimiter().is_some_and(|comma| all.concat().contains(comma)) => {
                return Err(file.refuse(entry, "expected a list of values without commas"));
            }
            (Value::Texts(all), _) if all.len() != 1 && !matches!(arg.get_action(), ArgAction::Append) => {
                return Err(file.refuse(entry, &format!("expected one value, found {}", all.len())));
            }
            _ => {}
        }
        let server = self.command.find_subcommand(SERVER).cloned().unwrap_or_default();
        match server.no_binary_name(true).try_get_matches_from(entry.flags()) {
            Ok(_) => Ok(()),
            Err(error) => Err(file.refuse(entry, &in_one_line(&error))),
        }
    }
}

impl Entry {
    fn flags(&self) -> Vec<OsString> {
        let flag = flag(&self.key);
        match &self.value {
            Value::Truth(true) => vec![flag.into()],
            Value::Truth(false) => Vec::new(),
            Value::Texts(all) => all.iter().map(|text| format!("{flag}={text}").into()).collect(),
        }
    }
}

impl Value {
    fn to_toml(&self) -> Vec<String> {
        match self {
            Self::Truth(truth) => vec![truth.to_string()],
            Self::Texts(all) => all.iter().map(|text| to_toml(text)).collect(),
        }
    }
}

/// A value as TOML: texts are quoted as in JSON.
fn to_toml(text: &str) -> String {
    let is_number = text.parse::<f64>().is_ok_and(|number| number.is_finite() && number.to_string() == text);
    if is_number { text.to_owned() } else { serde_json::Value::from(text).to_string().replace('\u{7f}', "\\u007F") }
}

/// Whether somebody said so.
fn is_said(source: Option<ValueSource>) -> bool {
    matches!(source, Some(ValueSource::CommandLine | ValueSource::EnvVariable))
}

fn origin(key: &str, source: Option<ValueSource>) -> String {
    match source {
        Some(ValueSource::CommandLine) => flag(key),
        Some(ValueSource::EnvVariable) => variable(key),
        _ => "default".into(),
    }
}

/// A message of clap's without the hints behind it.
fn in_one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let message = text.split("\n\n").next().unwrap_or_default();
    message.trim_start_matches("error: ").split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Whether there is nothing, not even something that can't be looked at.
fn is_missing(path: &Path) -> bool {
    matches!(path.symlink_metadata(), Err(error) if error.kind() == io::ErrorKind::NotFound)
}

/// Refuses variables that are no settings: a misspelt one may be one that was to ask for a key. Refuses values that are no
/// text, too, where no path is asked for.
///
/// # Errors
/// There is such a variable.
pub fn check_variables(command: &Command) -> Result<()> {
    std::env::vars_os().try_for_each(|(name, value)| check_variable(command, &name, &value))
}

fn check_variable(command: &Command, name: &OsStr, value: &OsStr) -> Result<()> {
    let Some(name) = name.to_str().filter(|name| name.starts_with(PREFIX)) else { return Ok(()) };
    let setting = arguments(command).find(|arg| variable(arg.get_id().as_str()) == name);
    if setting.is_none() && name != variable(CONFIG) {
        let hint = "expected BLAZR_ and the name of a setting (blazr serve --help lists them); Kubernetes sets such variables \
                    for a Service of the name blazr, unless the Pod has enableServiceLinks: false";
        return Err(Error::setting(name, hint));
    }
    let is_text = |arg: &Arg| arg.get_value_parser().type_id() != ValueParser::path_buf().type_id();
    if setting.is_some_and(is_text) && value.to_str().is_none() {
        return Err(Error::setting(name, "expected text in UTF-8, found other bytes"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command() -> Command {
        let server = Command::new("serve")
            .arg(Arg::new("config").long("config").value_parser(clap::value_parser!(PathBuf)))
            .arg(Arg::new("port").long("port").value_parser(clap::value_parser!(u16)).default_value("8080"))
            .arg(Arg::new("log_prompts").long("log-prompts").action(ArgAction::SetTrue))
            .arg(Arg::new("alias").long("alias").action(ArgAction::Append))
            .arg(Arg::new("api_key").long("api-key").action(ArgAction::Append));
        Command::new("blazr").subcommand(server)
    }

    /// What comes of a file with this text beside these flags: the settings, or the error.
    fn with_file(text: &str, flags: &[&str]) -> std::result::Result<String, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("blazr.toml");
        std::fs::write(&path, text).unwrap();
        let all = ["blazr", "serve", "--config", path.to_str().unwrap()].into_iter().chain(flags.iter().copied());
        let (command, matches) = (command(), with_variables(&command()).get_matches_from(all));
        let sources = Sources::read(&command, "serve", matches.subcommand().unwrap().1);
        let shown = |text: String| text.replace(path.to_str().unwrap(), "FILE");
        sources.map(|sources| shown(sources.unwrap().to_toml())).map_err(|error| shown(error.to_string()))
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let file = "# a comment\nport = 9000\nalias = [\"a\", \"b\"]\nlog_prompts = true\napi_key = \"secret\"\n";
        let told = "port = 9000 # FILE:2\nlog_prompts = true # FILE:4\nalias = [\"a\", \"b\"] # FILE:3\n\
                    # api_key is set by FILE:5 and not shown\n";
        assert_eq!(with_file(file, &[]).unwrap(), told);
        let told =
            "port = 1 # --port\nlog_prompts = false # default\nalias = [\"c\"] # --alias\n# api_key is not set\n";
        assert_eq!(with_file("port = 9000\nalias = \"a\"", &["--port", "1", "--alias", "c"]).unwrap(), told);
    }

    #[test]
    fn what_no_setting_has_is_refused_with_its_line() {
        for (file, told) in [
            ("\nprot = 1", "FILE:2: prot: there is no such setting; there are port, log_prompts, alias, api_key"),
            ("port = 70000", "FILE:1: port: invalid value '70000' for '--port <port>': 70000 is not in 0..=65535"),
            (
                "port = 99999999999999999999",
                "FILE:1: port: invalid value '99999999999999999999' for '--port <port>': number too large to fit in target type",
            ),
            ("port = true", "FILE:1: port: expected a text or a number, found true or false"),
            ("port = [1, 2]", "FILE:1: port: expected one value, found 2"),
            ("api_key = []", "FILE:1: api_key: expected a value, found none"),
            ("log_prompts = \"yes\"", "FILE:1: log_prompts: expected true or false"),
            ("[http]\nport = 1", "FILE:1: http: expected a text, a number, true or false, or a list of texts"),
        ] {
            assert_eq!(with_file(file, &[]).unwrap_err(), told);
        }
        let broken = with_file("port = 1\nport 2", &[]).unwrap_err();
        assert!(broken.starts_with("FILE:2: "), "{broken}");
    }

    #[test]
    fn a_variable_that_is_no_setting_is_refused() {
        let check = |name: &str| check_variable(&command(), name.as_ref(), "1".as_ref());
        assert!(["BLAZR_PORT", "BLAZR_CONFIG", "PATH"].into_iter().all(|name| check(name).is_ok()));
        assert!(check("BLAZR_API_KEYS").unwrap_err().to_string().starts_with("BLAZR_API_KEYS: expected BLAZR_ and"));
    }

    #[test]
    #[cfg(unix)]
    fn only_a_path_may_be_no_text() {
        use std::os::unix::ffi::OsStrExt;

        let file = Arg::new("api_key_file").long("api-key-file").value_parser(clap::value_parser!(PathBuf));
        let command = command().mut_subcommand(SERVER, |server| server.arg(file));
        let check = |name: &str| check_variable(&command, name.as_ref(), OsStr::from_bytes(b"/\xff"));
        assert!(["BLAZR_API_KEY_FILE", "BLAZR_CONFIG", "PATH"].into_iter().all(|name| check(name).is_ok()));
        let told = check("BLAZR_API_KEY").unwrap_err().to_string();
        assert_eq!(told, "BLAZR_API_KEY: expected text in UTF-8, found other bytes");
    }
}
