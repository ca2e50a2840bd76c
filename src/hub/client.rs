//! Asking the Hub: addresses, redirects, and what its refusals mean.

use std::io::Read;
use std::time::Duration;

use ureq::Agent;
use ureq::http::{HeaderMap, Response, StatusCode, header};
use url::Url;

use super::id::{ModelId, is_plain};
use crate::config::{HubSettings, Token};
use crate::error::{Error, Result};

/// A connection that is not there by then won't come.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Whoever sends nothing for so long won't go on.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// The list of a model's files is there by then, or the Hub is no good today.
const LIST_TIMEOUT: Duration = Duration::from_secs(60);

/// More redirects lead nowhere.
const MOST_REDIRECTS: usize = 8;

/// A longer list of files is not one of a model's.
const LONGEST_LIST: u64 = 64 << 20;

/// What is read of a refusal.
const LONGEST_REFUSAL: u64 = 4096;

/// Why a request was not answered.
#[derive(Debug)]
pub(super) enum Failure {
    /// It may be answered later: the connection broke, or the server is busy.
    Passing(Error),
    /// It will not be.
    Lasting(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Lasting(error)
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        let (Failure::Passing(error) | Failure::Lasting(error)) = failure;
        error
    }
}

/// Asks for one model's files.
pub(super) struct Client {
    agent: Agent,
    endpoint: Url,
    token: Option<Token>,
    id: ModelId,
}

/// The bytes of a file from some place on, and what the Hub says about it.
pub(super) struct Reply {
    /// The hash by which the cache knows it.
    pub(super) etag: String,
    /// The bytes of the whole file, if it was told.
    pub(super) size: Option<u64>,
    /// Where the bytes begin.
    pub(super) start: u64,
    /// The bytes.
    pub(super) body: Box<dyn Read>,
}

/// The files of a commit.
#[derive(Debug, serde::Deserialize)]
pub(super) struct Listing {
    /// The commit.
    #[serde(rename = "sha")]
    pub(super) commit: String,
    #[serde(rename = "siblings")]
    pub(super) files: Vec<Listed>,
}

/// A file of a commit.
#[derive(Clone, Debug, serde::Deserialize)]
pub(super) struct Listed {
    #[serde(rename = "rfilename")]
    pub(super) name: String,
    /// Its bytes, where the Hub tells.
    pub(super) size: Option<u64>,
}

impl Client {
    pub(super) fn new(settings: &HubSettings, id: &ModelId) -> Result<Self> {
        let wrong = |reason: &str| Error::Unsupported(format!("HF_ENDPOINT: expected an http address: {reason}"));
        let endpoint = Url::parse(&settings.endpoint).map_err(|error| wrong(&error.to_string()))?;
        if !matches!(endpoint.scheme(), "http" | "https") {
            return Err(wrong(&format!("found one of {}", endpoint.scheme())));
        }
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_per_read(Some(READ_TIMEOUT))
            .user_agent(concat!("blazr/", env!("CARGO_PKG_VERSION")))
            .build()
            .into();
        Ok(Self { agent, endpoint, token: settings.token()?, id: id.clone() })
    }

    /// The commit that the revision stands for, and its files.
    pub(super) fn list(&self) -> Result<Listing, Failure> {
        let mut url = self.url(&["api", "models"], &["revision", &self.id.revision]);
        url.set_query(Some("blobs=true"));
        let (_, response) = self.follow(url.clone(), None, Some(LIST_TIMEOUT))?;
        let mut body = self.accepted(&url, response)?.into_body();
        let json =
            body.with_config().limit(LONGEST_LIST).read_to_vec().map_err(|error| self.unanswered(&url, &error))?;
        let listing: Listing = serde_json::from_slice(&json).map_err(|error| {
            // Whatever stands between may answer in the Hub's place.
            Failure::Passing(self.failed(&url, format!("expected the list of a model's files: {error}")))
        })?;
        if !is_plain(&listing.commit) {
            return Err(self.failed(&url, format!("{:?} can't be a commit", listing.commit)).into());
        }
        Ok(listing)
    }

    /// The bytes of a commit's file from `start` on, or from another place if the server has it so.
    pub(super) fn open(&self, commit: &str, name: &str, start: u64) -> Result<Reply, Failure> {
        let names: Vec<&str> = ["resolve", commit].into_iter().chain(name.split('/')).collect();
        let url = self.url(&[], &names);
        let (described, response) = self.follow(url.clone(), (start > 0).then_some(start), None)?;
        if response.status() == StatusCode::RANGE_NOT_SATISFIABLE && start > 0 {
            return self.open(commit, name, 0);
        }
        let response = self.accepted(&url, response)?;
        let encoding = text(response.headers(), header::CONTENT_ENCODING.as_str()).filter(|name| *name != "identity");
        if let Some(encoding) = encoding {
            return Err(self
                .failed(&url, format!("expected the file as it is, found it encoded as {encoding}"))
                .into());
        }
        let extent =
            extent(&response).ok_or_else(|| self.failed(&url, "Content-Range: expected bytes START-END/SIZE"))?;
        let found = described.etag.unwrap_or_default();
        let etag = Some(found.clone()).filter(|etag| is_plain(etag)).ok_or_else(|| {
            self.failed(&url, format!("expected the file's hash in the header ETag, found {found:?}"))
        })?;
        let body = Box::new(response.into_body().into_reader());
        Ok(Reply { etag, size: described.size.or(extent.size), start: extent.start, body })
    }

    /// An address with the model's name between other parts.
    fn url(&self, before: &[&str], behind: &[&str]) -> Url {
        let mut url = self.endpoint.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(before).extend(self.id.repo.split('/')).extend(behind);
        }
        url
    }

    /// The first answer that is no redirect, and what those on the way told of the file. The token goes to nobody but the
    /// endpoint.
    fn follow(
        &self,
        mut url: Url,
        start: Option<u64>,
        timeout: Option<Duration>,
    ) -> Result<(Description, Response<ureq::Body>), Failure> {
        let mut description = Description::default();
        for _ in 0..MOST_REDIRECTS {
            if !matches!(url.scheme(), "http" | "https") {
                return Err(self.failed(&url, "redirected there, which is no http address").into());
            }
            let request = self.agent.get(url.as_str()).config().timeout_global(timeout).build();
            let mut request = request.header(header::ACCEPT_ENCODING, "identity");
            if let Some(token) = self.token.as_ref().filter(|_| url.origin() == self.endpoint.origin()) {
                request = request.header(header::AUTHORIZATION, format!("Bearer {}", token.expose()));
            }
            if let Some(start) = start {
                request = request.header(header::RANGE, format!("bytes={start}-"));
            }
            let response = request.call().map_err(|error| self.unanswered(&url, &error))?;
            description.hear(response.headers());
            let target =
                text(response.headers(), header::LOCATION.as_str()).filter(|_| response.status().is_redirection());
            let Some(target) = target else { return Ok((description, response)) };
            url = url.join(target).map_err(|error| self.failed(&url, format!("redirected to no address: {error}")))?;
        }
        Err(Failure::Passing(self.failed(&url, format!("redirected more than {MOST_REDIRECTS} times"))))
    }

    fn accepted(&self, url: &Url, response: Response<ureq::Body>) -> Result<Response<ureq::Body>, Failure> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let code = text(response.headers(), "x-error-code").unwrap_or_default().to_owned();
        let said = text(response.headers(), "x-error-message").map(str::to_owned);
        let said = said.or_else(|| refusal(response)).map(|said| format!(" ({said})")).unwrap_or_default();
        let message = format!("{} answers {status}{said}: {}", shown(url), self.advice(status, &code));
        let error = self.error(message);
        let is_passing =
            status.is_server_error() || matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT);
        Err(if is_passing { Failure::Passing(error) } else { Failure::Lasting(error) })
    }

    /// What to do about a refusal.
    fn advice(&self, status: StatusCode, code: &str) -> String {
        let ModelId { repo, revision, .. } = &self.id;
        let has_token = self.token.is_some();
        match (status, code) {
            (_, "GatedRepo") | (StatusCode::FORBIDDEN, _) => format!(
                "the model is gated, or the token may not read it: agree to its terms at {}/{repo}, and set HF_TOKEN to a token of the account that did",
                shown(&self.endpoint).trim_end_matches('/'),
            ),
            (StatusCode::UNAUTHORIZED, _) if has_token => {
                "there is no such model, or the token in HF_TOKEN is not valid for it: check both".into()
            }
            (StatusCode::UNAUTHORIZED, _) => {
                "there is no such model, or it is private: check its name, or set HF_TOKEN to a token that may read it"
                    .into()
            }
            (_, "RevisionNotFound") => format!("there is no revision {revision}: check what stands behind the @"),
            (StatusCode::NOT_FOUND, _) => "there is no such model, revision or file: check the name".into(),
            _ => "try again later".into(),
        }
    }

    /// What a request ended with that had no answer.
    fn unanswered(&self, url: &Url, error: &ureq::Error) -> Failure {
        use ureq::Error::{ConnectionFailed, HostNotFound, Io, Protocol, Timeout};
        let host = url.host_str().unwrap_or_default();
        match error {
            Io(_) | Timeout(_) | HostNotFound | ConnectionFailed | Protocol(_) => {
                Failure::Passing(self.error(format!("{host} can't be reached: {error}")))
            }
            other => Failure::Lasting(self.error(format!("{host} can't be asked: {other}"))),
        }
    }

    /// An error about the model.
    pub(super) fn error(&self, message: impl Into<String>) -> Error {
        Error::hub(&self.id, message)
    }

    fn failed(&self, url: &Url, message: impl std::fmt::Display) -> Error {
        self.error(format!("{}: {message}", shown(url)))
    }
}

/// An address without what may be secret in it: a name, a password, and a query, which signs addresses of storage.
fn shown(url: &Url) -> String {
    let path = if url.path() == "/" { "" } else { url.path() };
    format!("{}{path}", url.origin().ascii_serialization())
}

/// What the Hub's headers tell of a file; those of the first answer that tells it count, as later ones are the storage's.
#[derive(Default)]
struct Description {
    etag: Option<String>,
    size: Option<u64>,
}

impl Description {
    fn hear(&mut self, headers: &HeaderMap) {
        let etag = text(headers, "x-linked-etag").or_else(|| text(headers, header::ETAG.as_str()));
        let etag = etag.map(|etag| etag.trim_start_matches("W/").trim_matches('"').to_owned());
        self.etag = self.etag.take().or(etag);
        self.size = self.size.or_else(|| text(headers, "x-linked-size")?.parse().ok());
    }
}

/// Where an answer's bytes begin, and how many the whole file has.
struct Extent {
    start: u64,
    size: Option<u64>,
}

/// None where a part of a file doesn't say which.
fn extent(response: &Response<ureq::Body>) -> Option<Extent> {
    let headers = response.headers();
    if response.status() != StatusCode::PARTIAL_CONTENT {
        let size = text(headers, header::CONTENT_LENGTH.as_str()).and_then(|length| length.parse().ok());
        return Some(Extent { start: 0, size });
    }
    let (unit, range) = text(headers, header::CONTENT_RANGE.as_str())?.split_once(' ')?;
    let (bytes, size) = range.split_once('/').filter(|_| unit.eq_ignore_ascii_case("bytes"))?;
    Some(Extent { start: bytes.split_once('-')?.0.parse().ok()?, size: size.parse().ok() })
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// What the body of a refusal says, if it is JSON.
fn refusal(response: Response<ureq::Body>) -> Option<String> {
    let mut body = String::new();
    response.into_body().into_reader().take(LONGEST_REFUSAL).read_to_string(&mut body).ok()?;
    let json: serde_json::Value = serde_json::from_str(&body).ok()?;
    json.get("error")?.as_str().map(str::to_owned)
}
