//! What handlers share.

use std::str::FromStr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::http::HeaderValue;
use subtle::ConstantTimeEq;
use tokio::sync::{Mutex, watch};

use super::error::ApiError;
use super::extract::Named;
use crate::engine::{Engine, Health};
use crate::error::{Error, Unavailable};
use crate::metrics::{Exposition, STEP_AGE};
use crate::model::config::ModelConfig;
use crate::sampling::Params;
use crate::text::{ChatTemplate, Tokenizer};

/// Requests on their way into the queue have so many bodies' bytes together at most, each as large as one may be.
const MOST_BODIES_IN_FLIGHT: usize = 16;

/// How the server behaves.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Whoever has none of these is turned away; none: nobody is.
    pub api_keys: Vec<ApiKey>,
    /// Pages from these origins may ask; `*` means any.
    pub cors_origins: Vec<HeaderValue>,
    /// Metrics are served on a port of their own.
    pub has_metrics_port: bool,
    /// The log has what is asked, which it has not otherwise.
    pub logs_prompts: bool,
    /// A larger body is refused.
    pub body_limit: usize,
    /// How long a request may wait for those before it.
    pub queue_timeout: Duration,
    /// How long a request may take.
    pub request_timeout: Duration,
}

/// A secret: it is compared in constant time and never printed.
#[derive(Clone)]
pub struct ApiKey(String);

/// What is served, once it is loaded.
pub struct Served {
    /// The model's id.
    pub id: String,
    /// Other names for it.
    pub aliases: Vec<String>,
    /// What the model is made of.
    pub config: ModelConfig,
    /// The model's tokenizer.
    pub tokenizer: Arc<Tokenizer>,
    /// How conversations are written, if the model has a way.
    pub template: Option<ChatTemplate>,
    /// How tokens are drawn where a request says nothing.
    pub sampling: Params,
    /// What works on requests.
    pub engine: Engine,
    /// The same seed, prompt and parameters give the same tokens wherever this is the same.
    pub fingerprint: String,
    /// Seconds since 1970.
    pub created: u64,
}

/// The state of all handlers.
#[derive(Clone)]
pub struct App(Arc<Inner>);

struct Inner {
    settings: Settings,
    exposition: Exposition,
    served: OnceLock<Served>,
    is_draining: AtomicBool,
    named: Named,
    /// How many bytes the bodies have of requests that are not in the queue yet.
    in_flight: Arc<AtomicUsize>,
    /// Held by whoever is on the way into the queue, and by whoever has a text tokenized for itself.
    admission: Mutex<()>,
    tokenizing: Mutex<()>,
    /// Set when whatever still runs is to end at once.
    cut_off: watch::Sender<bool>,
}

/// The bytes of one request's body, from their arrival to the request's place in the queue.
#[derive(Debug)]
pub(super) struct InFlight {
    bytes: usize,
    all: Arc<AtomicUsize>,
    most: usize,
}

impl InFlight {
    /// Counts more of them.
    ///
    /// # Errors
    /// Too many requests are on their way.
    pub(super) fn grow(&mut self, bytes: usize) -> Result<(), Error> {
        self.bytes += bytes;
        if self.all.fetch_add(bytes, Ordering::Relaxed) + bytes <= self.most {
            return Ok(());
        }
        let message = format!("requests of more than {} bytes are on their way into it", self.most);
        Err(Error::Overloaded { message, retry_after_seconds: 1 })
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Whether requests are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Yes.
    Ready,
    /// The queue is full for now.
    Busy,
    /// Not yet.
    Loading,
    /// Not any more.
    Draining,
    /// The loop has died or hangs.
    Stalled,
}

impl App {
    /// One that says that its model is loading.
    pub fn new(settings: Settings, exposition: Exposition) -> Self {
        let (served, is_draining) = (OnceLock::new(), AtomicBool::new(false));
        let (named, cut_off) = (Named::default(), watch::Sender::new(false));
        let (admission, tokenizing, in_flight) = (Mutex::new(()), Mutex::new(()), Arc::default());
        Self(Arc::new(Inner {
            settings,
            exposition,
            served,
            is_draining,
            named,
            in_flight,
            admission,
            tokenizing,
            cut_off,
        }))
    }

    /// From now on requests are answered. What was served before stays.
    pub fn serve(&self, served: Served) {
        let _ = self.0.served.set(served);
    }

    /// From now on nothing new is taken in.
    pub fn drain(&self) {
        self.0.is_draining.store(true, Ordering::Relaxed);
        if let Some(served) = self.0.served.get() {
            served.engine.close();
        }
    }

    /// Ends all that still runs: answers that have begun end with an error.
    pub fn cut_off(&self) {
        self.0.cut_off.send_replace(true);
    }

    /// Whether that was done.
    pub fn is_cut_off(&self) -> bool {
        *self.0.cut_off.borrow()
    }

    /// Tells when that happens.
    pub fn watch_cut_off(&self) -> watch::Receiver<bool> {
        self.0.cut_off.subscribe()
    }

    /// How the server behaves.
    pub fn settings(&self) -> &Settings {
        &self.0.settings
    }

    /// Counts the bytes of a body that is about to be read.
    pub(super) fn body_in_flight(&self) -> InFlight {
        let most = MOST_BODIES_IN_FLIGHT.saturating_mul(self.settings().body_limit);
        InFlight { bytes: 0, all: Arc::clone(&self.0.in_flight), most }
    }

    /// Requests go one by one from here into the queue, so that none overtakes another while its prompt is read.
    pub(super) fn admission(&self) -> &Mutex<()> {
        &self.0.admission
    }

    /// Texts that are to be tokenized for themselves go one by one: a large one takes much memory for a moment.
    pub(super) fn tokenizing(&self) -> &Mutex<()> {
        &self.0.tokenizing
    }

    /// Which unknown fields were named in the log.
    pub(super) fn named(&self) -> &Named {
        &self.0.named
    }

    /// Keeps metrics small where nobody reads them.
    pub(super) fn tidy_up(&self) {
        self.0.exposition.tidy_up();
    }

    /// All metrics, as they are now.
    pub(super) fn metrics(&self) -> String {
        STEP_AGE.set(self.step_age().unwrap_or_default().as_secs_f64(), Vec::new());
        self.0.exposition.render()
    }

    /// What is served.
    ///
    /// # Errors
    /// It is not there yet, or any more.
    pub fn served(&self) -> Result<&Served, ApiError> {
        if self.0.is_draining.load(Ordering::Relaxed) {
            return Err(Error::Unavailable(Unavailable::Draining).into());
        }
        self.0.served.get().ok_or_else(|| Error::Unavailable(Unavailable::Loading).into())
    }

    /// Whether requests are answered. Never waits for the loop.
    pub fn status(&self) -> Status {
        if self.0.is_draining.load(Ordering::Relaxed) {
            return Status::Draining;
        }
        match self.0.served.get().map(|served| served.engine.health()) {
            None => Status::Loading,
            Some(Health::Ready) => Status::Ready,
            Some(Health::Full) => Status::Busy,
            Some(Health::Closed) => Status::Draining,
            Some(Health::Stalled) => Status::Stalled,
        }
    }

    /// Whether nothing that was taken in will be done any more.
    pub fn is_dead(&self) -> bool {
        self.0.served.get().is_some_and(|served| served.engine.is_dead())
    }

    /// How long the inference loop has been in its present step; none while there is nothing to do.
    pub fn step_age(&self) -> Option<Duration> {
        self.0.served.get()?.engine.step_age()
    }

    /// Whether no request is left.
    pub fn is_idle(&self) -> bool {
        self.0.served.get().is_none_or(|served| served.engine.is_idle())
    }
}

impl Served {
    /// Refuses a request for another model.
    pub fn check_model(&self, asked: Option<&str>) -> Result<(), ApiError> {
        match asked {
            Some(asked) if asked != self.id && !self.aliases.iter().any(|alias| alias == asked) => {
                Err(ApiError::unknown_model(asked, &self.id))
            }
            _ => Ok(()),
        }
    }
}

impl FromStr for ApiKey {
    type Err = &'static str;

    /// # Errors
    /// It is empty, or has characters that no header can carry.
    fn from_str(key: &str) -> Result<Self, Self::Err> {
        let key = key.trim();
        if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("expected printable ASCII characters without spaces");
        }
        Ok(Self(key.to_owned()))
    }
}

impl ApiKey {
    /// Whether this is the key, in a time that depends on nothing but its length.
    pub fn is(&self, other: &[u8]) -> bool {
        self.0.as_bytes().ct_eq(other).into()
    }
}

impl std::fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |elapsed| elapsed.as_secs().max(1))
}
