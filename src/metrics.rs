//! Every metric: its name, what it counts, and its buckets. Prometheus reads them from [`Exposition::render`].
//!
//! Histogram buckets are [vLLM's](https://docs.vllm.ai/en/latest/design/metrics.html), so that dashboards carry over.

use std::sync::{Mutex, PoisonError};

use metrics::Unit;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use metrics_process::Collector;

use crate::error::{Error, Result};

const FIRST_TOKEN_BUCKETS: &[f64] = &[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
    160.0, 640.0, 2560.0,
];
const TOKEN_BUCKETS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0,
];
const REQUEST_BUCKETS: &[f64] = &[
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0,
    1920.0, 7680.0,
];
const COUNT_BUCKETS: &[f64] = &[
    1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10000.0, 20000.0, 50000.0, 100000.0,
];

/// One metric.
#[derive(Debug)]
pub struct Metric {
    /// The name under which it is scraped.
    pub name: &'static str,
    /// What it says.
    pub help: &'static str,
    /// How it is counted.
    pub kind: Kind,
    /// The label that tells its series apart, and what it can say.
    pub label: Label,
}

/// The label of a metric, and its values where all of them are known.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Label {
    /// There is one series without a label.
    None,
    /// One of these.
    Known(&'static str, &'static [&'static str]),
    /// What comes is not known before.
    Open,
}

/// How a metric is counted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
    /// How values are spread over these buckets.
    Histogram(&'static [f64]),
}

/// Labels and their values.
pub type Labels = Vec<(&'static str, String)>;

macro_rules! metrics {
    ($($constant:ident, $kind:expr, $label:expr, $name:literal, $help:literal;)*) => {
        $(
            #[doc = $help]
            pub static $constant: Metric = Metric { name: $name, help: $help, kind: $kind, label: $label };
        )*
        /// All of them, in the order of the table in docs/server.md.
        pub static ALL: &[&Metric] = &[$(&$constant),*];
    };
}

metrics! {
    HTTP_REQUESTS, Kind::Counter, Label::Open, "blazr_http_requests_total", "Answers by route, method and status; status 499 where the client had gone before there was one.";
    FINISHED, Kind::Counter, Label::Known("finish_reason", &["stop", "length"]), "blazr_finished_total", "Generations that ended, by finish_reason.";
    CANCELLED, Kind::Counter, Label::Known("phase", &["queued", "prefill", "decode"]), "blazr_cancelled_total", "Requests whose client went away before their end, by phase: queued, prefill or decode.";
    REJECTED, Kind::Counter, Label::Known("reason", &["queue_full", "queue_timeout", "unavailable"]), "blazr_rejected_total", "Requests that were not begun, by reason.";
    FAILED, Kind::Counter, Label::Known("reason", &["error", "panic", "request_timeout", "slow_reader", "drain_timeout"]), "blazr_failed_total", "Requests that were begun and not finished though their client was there, by reason.";
    PROMPT_TOKENS, Kind::Counter, Label::Known("source", &["computed", "cached"]), "blazr_prompt_tokens_total", "Prompt tokens of finished generations, by source: computed or cached.";
    GENERATION_TOKENS, Kind::Counter, Label::None, "blazr_generation_tokens_total", "Generated tokens of finished generations.";
    FIRST_TOKEN_SECONDS, Kind::Histogram(FIRST_TOKEN_BUCKETS), Label::None, "blazr_time_to_first_token_seconds", "From a request's arrival to its first token.";
    BETWEEN_TOKENS_SECONDS, Kind::Histogram(TOKEN_BUCKETS), Label::None, "blazr_time_between_tokens_seconds", "From one token to the next.";
    QUEUE_SECONDS, Kind::Histogram(REQUEST_BUCKETS), Label::None, "blazr_queue_time_seconds", "From a request's arrival to its first step.";
    PREFILL_SECONDS, Kind::Histogram(REQUEST_BUCKETS), Label::None, "blazr_prefill_time_seconds", "From a prompt's first step to its first token, or to its end where none is generated.";
    DECODE_SECONDS, Kind::Histogram(REQUEST_BUCKETS), Label::None, "blazr_decode_time_seconds", "From a prompt's first token to the end of its answers.";
    REQUEST_SECONDS, Kind::Histogram(REQUEST_BUCKETS), Label::None, "blazr_request_time_seconds", "From a request's arrival to its end.";
    REQUEST_PROMPT_TOKENS, Kind::Histogram(COUNT_BUCKETS), Label::None, "blazr_request_prompt_tokens", "Prompt tokens of each generation.";
    REQUEST_GENERATION_TOKENS, Kind::Histogram(COUNT_BUCKETS), Label::None, "blazr_request_generation_tokens", "Generated tokens of each generation.";
    QUEUE_REQUESTS, Kind::Gauge, Label::None, "blazr_queue_requests", "Requests that wait.";
    QUEUE_TOKENS, Kind::Gauge, Label::None, "blazr_queue_tokens", "Prompt tokens of the requests that wait.";
    RUNNING, Kind::Gauge, Label::None, "blazr_running_requests", "Requests that are being worked on.";
    STATE_BYTES, Kind::Gauge, Label::None, "blazr_state_bytes", "Bytes of the running sequence's state and caches.";
    MEMORY_LIMIT, Kind::Gauge, Label::None, "blazr_memory_limit_bytes", "Bytes of memory that blazr may have: those of the machine, or the bound on its control group.";
    LOOP_BUSY_SECONDS, Kind::Histogram(REQUEST_BUCKETS), Label::None, "blazr_loop_busy_seconds", "How long the inference loop worked on each request; the sum is its busy time.";
    STEP_AGE, Kind::Gauge, Label::None, "blazr_loop_step_age_seconds", "How long the inference loop has been in its present step; 0 while there is nothing to do.";
    IGNORED_FIELDS, Kind::Counter, Label::None, "blazr_ignored_fields_total", "Fields of requests that blazr does not know and ignored.";
    BUILD_INFO, Kind::Gauge, Label::Open, "blazr_build_info", "Always 1; the label says which version runs.";
    MODEL_INFO, Kind::Gauge, Label::Open, "blazr_model_info", "Always 1; the label says which model is served.";
}

impl Metric {
    /// Adds to a counter.
    pub fn add(&self, count: u64, labels: Labels) {
        metrics::counter!(self.name, to_labels(labels)).increment(count);
    }

    /// Sets a gauge.
    pub fn set(&self, value: f64, labels: Labels) {
        metrics::gauge!(self.name, to_labels(labels)).set(value);
    }

    /// Adds a value to a histogram.
    pub fn observe(&self, value: f64) {
        metrics::histogram!(self.name).record(value);
    }

    /// Tells of every series that is known before anything happens, so that its first change is seen as one.
    fn begin(&self) {
        let series: Vec<Labels> = match self.label {
            Label::None => vec![Vec::new()],
            Label::Known(label, values) => values.iter().map(|value| vec![(label, (*value).to_owned())]).collect(),
            Label::Open => Vec::new(),
        };
        for labels in series {
            match self.kind {
                Kind::Counter => self.add(0, labels),
                Kind::Gauge => self.set(0.0, labels),
                Kind::Histogram(_) => drop(metrics::histogram!(self.name)),
            }
        }
    }

    fn describe(&self) {
        let unit = if self.name.contains("_seconds") { Unit::Seconds } else { Unit::Count };
        match self.kind {
            Kind::Counter => metrics::describe_counter!(self.name, unit, self.help),
            Kind::Gauge => metrics::describe_gauge!(self.name, unit, self.help),
            Kind::Histogram(_) => metrics::describe_histogram!(self.name, unit, self.help),
        }
    }
}

fn to_labels(labels: Labels) -> Vec<metrics::Label> {
    labels.into_iter().map(|(key, value)| metrics::Label::new(key, value)).collect()
}

/// What Prometheus reads.
#[derive(Clone, Debug)]
pub struct Exposition(PrometheusHandle);

/// There is one recorder in a process, whoever asks for it.
static INSTALLED: Mutex<Option<Exposition>> = Mutex::new(None);

impl Exposition {
    /// That of this process: from the first call on, metrics are counted.
    ///
    /// # Errors
    /// Another recorder was installed before.
    pub fn install() -> Result<Self> {
        let mut installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(exposition) = &*installed {
            return Ok(exposition.clone());
        }
        let failed = |error: &dyn std::fmt::Display| Error::Internal(format!("metrics can't be counted: {error}"));
        let mut builder = PrometheusBuilder::new();
        for metric in ALL {
            if let Kind::Histogram(buckets) = metric.kind {
                let matcher = Matcher::Full(metric.name.into());
                builder = builder.set_buckets_for_metric(matcher, buckets).map_err(|error| failed(&error))?;
            }
        }
        let recorder = builder.build_recorder();
        let exposition = Self(recorder.handle());
        metrics::set_global_recorder(recorder).map_err(|error| failed(&error))?;
        for metric in ALL {
            metric.describe();
            metric.begin();
        }
        Collector::default().describe(); // process_*
        BUILD_INFO.set(1.0, vec![("version", env!("CARGO_PKG_VERSION").into())]);
        Ok(installed.insert(exposition).clone())
    }

    /// All metrics as [Prometheus text](https://prometheus.io/docs/instrumenting/exposition_formats/).
    pub fn render(&self) -> String {
        Collector::default().collect();
        self.0.render()
    }

    /// Sorts what was observed into buckets: to be called every few seconds, as it would pile up where nobody scrapes.
    pub fn tidy_up(&self) {
        self.0.run_upkeep();
    }
}
