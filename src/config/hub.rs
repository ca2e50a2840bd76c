//! How the Hugging Face Hub is reached, which other tools' variables say.

use std::env::VarError;
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
    given_token: Option<Token>,
    token_file: Option<PathBuf>,
    /// The directory of all models: `HF_HUB_CACHE` (`HUGGINGFACE_HUB_CACHE`), else `hub` in `HF_HOME` (`huggingface` in `XDG_CACHE_HOME`).
    pub cache: PathBuf,
    /// Nothing may be downloaded: `HF_HUB_OFFLINE`, or `TRANSFORMERS_OFFLINE`.
    pub is_offline: bool,
}

/// What proves who asks. It is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// The token that `origin` has, unless it is blank.
    ///
    /// # Errors
    /// It can't be sent.
    pub fn new(text: &str, origin: &str) -> Result<Option<Self>> {
        let text = text.trim();
        if text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Ok((!text.is_empty()).then(|| Self(text.to_owned())));
        }
        Err(Error::Unsupported(format!("{origin}: expected a token of visible ASCII characters, found others")))
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
        let variable = |name: &str| match std::env::var(name) {
            Ok(value) => Ok(Some(value)),
            Err(VarError::NotPresent) => Ok(None),
            Err(VarError::NotUnicode(_)) => Err(Error::Unsupported(format!("{name}: expected text in UTF-8"))),
        };
        Self::from_variables(&variable, std::env::home_dir().as_deref())
    }

    /// Who asks: `HF_TOKEN`, else what is in the file `HF_TOKEN_PATH` (`token` in `HF_HOME`).
    ///
    /// # Errors
    /// The file can't be read.
    pub fn token(&self) -> Result<Option<Token>> {
        match (&self.given_token, &self.token_file) {
            (None, Some(path)) => read_token(path),
            (given, _) => Ok(given.clone()),
        }
    }

    /// The settings in these variables, where those that are empty count as not there.
    fn from_variables(variable: &dyn Fn(&str) -> Result<Option<String>>, home: Option<&Path>) -> Result<Self> {
        let given = |name: &str| Ok::<_, Error>(variable(name)?.filter(|value| !value.trim().is_empty()));
        let directory = |name: &str| Ok::<_, Error>(given(name)?.map(|value| expand(&value, home)));
        let caches = directory("XDG_CACHE_HOME")?.or_else(|| Some(home?.join(".cache")));
        let hf_home = directory("HF_HOME")?.or_else(|| Some(caches?.join("huggingface")));
        let cache = directory("HF_HUB_CACHE")?.or(directory("HUGGINGFACE_HUB_CACHE")?);
        let cache = cache.or_else(|| Some(hf_home.clone()?.join("hub")));
        let cache = cache.ok_or_else(|| {
            Error::Unsupported("no place to keep models of the Hub: set HF_HOME, as there is no home directory".into())
        })?;
        let name = "HF_TOKEN";
        let given_token = given(name)?.map_or(Ok(None), |token| Token::new(&token, name))?;
        let token_file = directory("HF_TOKEN_PATH")?.or_else(|| Some(hf_home?.join("token")));
        let endpoint = given("HF_ENDPOINT")?.unwrap_or_else(|| ENDPOINT.to_owned());
        let is_asked = |name: &str| Ok::<_, Error>(given(name)?.is_some_and(|value| is_true(&value)));
        Ok(Self {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            given_token,
            token_file,
            cache,
            is_offline: is_asked("HF_HUB_OFFLINE")? || is_asked("TRANSFORMERS_OFFLINE")?,
        })
    }
}

/// `~` is the home directory.
fn expand(path: &str, home: Option<&Path>) -> PathBuf {
    match (path.strip_prefix('~'), home) {
        (Some(""), Some(home)) => home.to_owned(),
        (Some(rest), Some(home)) if rest.starts_with('/') => home.join(rest.trim_start_matches('/')),
        _ => path.into(),
    }
}

fn is_true(value: &str) -> bool {
    ["1", "ON", "YES", "TRUE"].contains(&value.to_ascii_uppercase().as_str())
}

fn read_token(path: &Path) -> Result<Option<Token>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Token::new(&text, &path.display().to_string()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(path, error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)]) -> HubSettings {
        let find = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        HubSettings::from_variables(&|name| Ok(find(name)), Some(Path::new("/home/me"))).unwrap()
    }

    #[test]
    fn the_cache_is_where_other_tools_have_it() {
        let cache = |variables: &[(&str, &str)]| settings(variables).cache;
        assert_eq!(cache(&[]), Path::new("/home/me/.cache/huggingface/hub"));
        assert_eq!(cache(&[("XDG_CACHE_HOME", "/x")]), Path::new("/x/huggingface/hub"));
        assert_eq!(cache(&[("XDG_CACHE_HOME", "/x"), ("HF_HOME", "~/hf")]), Path::new("/home/me/hf/hub"));
        assert_eq!(cache(&[("HF_HOME", "/hf"), ("HF_HUB_CACHE", "/models")]), Path::new("/models"));
        assert_eq!(cache(&[("HUGGINGFACE_HUB_CACHE", "~")]), Path::new("/home/me"));
        assert_eq!(cache(&[("HF_HOME", "")]), Path::new("/home/me/.cache/huggingface/hub"));
        let nowhere = HubSettings::from_variables(&|_| Ok(None), None).unwrap_err().to_string();
        assert!(nowhere.contains("set HF_HOME"), "{nowhere}");
    }

    #[test]
    fn tokens_come_from_the_environment_or_a_file_and_are_not_printed() {
        let directory = tempfile::tempdir().unwrap();
        let home = directory.path().to_str().unwrap();
        let token = |variables: &[(&str, &str)]| settings(variables).token().unwrap().map(|token| token.0);
        assert_eq!(token(&[("HF_HOME", home)]), None);
        std::fs::write(directory.path().join("token"), "hf_file\n").unwrap();
        assert_eq!(token(&[("HF_HOME", home), ("HF_TOKEN", " ")]), Some("hf_file".into()));
        let given = [("HF_HOME", home), ("HF_TOKEN", "hf_given")];
        assert_eq!(token(&given), Some("hf_given".into()));
        assert!(!format!("{:?}", settings(&given)).contains("hf_given"));
        assert!(settings(&[("HF_TOKEN_PATH", home)]).token().is_err(), "a directory is no token");
        let unsendable = Token::new("a\nb", "HF_TOKEN").unwrap_err().to_string();
        assert!(unsendable.starts_with("HF_TOKEN: expected a token of visible ASCII"), "{unsendable}");
    }

    #[test]
    fn the_endpoint_and_being_offline_are_asked_for() {
        assert_eq!(settings(&[]).endpoint, "https://huggingface.co");
        assert_eq!(settings(&[("HF_ENDPOINT", "http://127.0.0.1:1/")]).endpoint, "http://127.0.0.1:1");
        let is_offline = |value| settings(&[("HF_HUB_OFFLINE", value)]).is_offline;
        assert_eq!(["1", "true", "Yes", "0", "", "no"].map(is_offline), [true, true, true, false, false, false]);
    }
}
