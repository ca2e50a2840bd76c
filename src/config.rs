//! Settings from the environment: the one place that reads it.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Where models come from unless `HF_ENDPOINT` says otherwise.
const ENDPOINT: &str = "https://huggingface.co";

/// How the Hub is reached and where its files are kept, as
/// [huggingface_hub](https://huggingface.co/docs/huggingface_hub/package_reference/environment_variables) has it.
#[derive(Clone, Debug)]
pub struct HubSettings {
    /// The root of all addresses, without a slash at its end: `HF_ENDPOINT`.
    pub endpoint: String,
    /// Who asks: `HF_TOKEN`, else what is in the file `HF_TOKEN_PATH` (`token` in `HF_HOME`).
    pub token: Option<Token>,
    /// The directory of all models: `HF_HUB_CACHE`, else `hub` in `HF_HOME` (`huggingface` in `XDG_CACHE_HOME`).
    pub cache: PathBuf,
    /// Nothing may be downloaded: `HF_HUB_OFFLINE`.
    pub is_offline: bool,
}

/// What proves who asks. It is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// The token, unless `text` is blank.
    pub fn new(text: &str) -> Option<Self> {
        Some(text.trim()).filter(|text| !text.is_empty()).map(|text| Self(text.to_owned()))
    }

    /// What is sent.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl HubSettings {
    /// The settings in this process's environment.
    ///
    /// # Errors
    /// There is no directory for the cache, or the token's file can't be read.
    pub fn from_env() -> Result<Self> {
        Self::from_variables(&|name| std::env::var(name).ok(), std::env::home_dir().as_deref())
    }

    /// The settings in these variables, where those that are empty count as not there.
    fn from_variables(variable: &dyn Fn(&str) -> Option<String>, home: Option<&Path>) -> Result<Self> {
        let given = |name: &str| variable(name).filter(|value| !value.is_empty());
        let directory = |name: &str| given(name).map(|value| expand(&value, home));
        let caches = directory("XDG_CACHE_HOME").or_else(|| Some(home?.join(".cache")));
        let hf_home = directory("HF_HOME").or_else(|| Some(caches?.join("huggingface")));
        let cache = directory("HF_HUB_CACHE").or_else(|| Some(hf_home.clone()?.join("hub")));
        let cache = cache.ok_or_else(|| {
            Error::Unsupported("no place to keep models of the Hub: set HF_HOME, as there is no home directory".into())
        })?;
        let token_file = directory("HF_TOKEN_PATH").or_else(|| Some(hf_home?.join("token")));
        let token = match given("HF_TOKEN") {
            Some(token) => Token::new(&token),
            None => token_file.map(|path| read_token(&path)).transpose()?.flatten(),
        };
        let endpoint = given("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.to_owned());
        Ok(Self {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            token,
            cache,
            is_offline: given("HF_HUB_OFFLINE").is_some_and(|value| is_true(&value)),
        })
    }
}

/// `~` is the home directory.
fn expand(path: &str, home: Option<&Path>) -> PathBuf {
    match (path.strip_prefix("~/"), home) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => path.into(),
    }
}

fn is_true(value: &str) -> bool {
    ["1", "ON", "YES", "TRUE"].contains(&value.to_ascii_uppercase().as_str())
}

fn read_token(path: &Path) -> Result<Option<Token>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Token::new(&text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(path, error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)]) -> HubSettings {
        let find = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        HubSettings::from_variables(&find, Some(Path::new("/home/me"))).unwrap()
    }

    #[test]
    fn the_cache_is_where_other_tools_have_it() {
        let cache = |variables: &[(&str, &str)]| settings(variables).cache;
        assert_eq!(cache(&[]), Path::new("/home/me/.cache/huggingface/hub"));
        assert_eq!(cache(&[("XDG_CACHE_HOME", "/x")]), Path::new("/x/huggingface/hub"));
        assert_eq!(cache(&[("XDG_CACHE_HOME", "/x"), ("HF_HOME", "~/hf")]), Path::new("/home/me/hf/hub"));
        assert_eq!(cache(&[("HF_HOME", "/hf"), ("HF_HUB_CACHE", "/models")]), Path::new("/models"));
        assert_eq!(cache(&[("HF_HOME", "")]), Path::new("/home/me/.cache/huggingface/hub"));
        let nowhere = HubSettings::from_variables(&|_| None, None).unwrap_err().to_string();
        assert!(nowhere.contains("set HF_HOME"), "{nowhere}");
    }

    #[test]
    fn tokens_come_from_the_environment_or_a_file_and_are_not_printed() {
        let directory = tempfile::tempdir().unwrap();
        let home = directory.path().to_str().unwrap();
        assert_eq!(settings(&[("HF_HOME", home)]).token, None);
        std::fs::write(directory.path().join("token"), "hf_file\n").unwrap();
        assert_eq!(settings(&[("HF_HOME", home)]).token, Token::new("hf_file"));
        let given = settings(&[("HF_HOME", home), ("HF_TOKEN", "hf_given")]);
        assert_eq!(given.token, Token::new("hf_given"));
        assert!(!format!("{given:?}").contains("hf_given"));
        let unreadable = HubSettings::from_variables(&|name| (name == "HF_TOKEN_PATH").then(|| home.into()), None);
        assert!(unreadable.is_err());
    }

    #[test]
    fn the_endpoint_and_being_offline_are_asked_for() {
        assert_eq!(settings(&[]).endpoint, "https://huggingface.co");
        assert_eq!(settings(&[("HF_ENDPOINT", "http://127.0.0.1:1/")]).endpoint, "http://127.0.0.1:1");
        let is_offline = |value| settings(&[("HF_HUB_OFFLINE", value)]).is_offline;
        assert_eq!(["1", "true", "Yes", "0", "", "no"].map(is_offline), [true, true, true, false, false, false]);
    }
}
