//! `blazr serve`: the model behind the HTTP API.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::HeaderValue;
use clap::Args;
use clap::builder::{NonEmptyStringValueParser, RangedU64ValueParser};
use tokio::net::{TcpListener, TcpSocket};
use tokio::runtime::{Builder, Runtime};

use super::memory::Memory;
use super::parsers::{self, Hidden};
use super::progress::{bar, megabytes};
use super::{AddressArgs, ConfigArgs, ModelArgs, computing, plan, print};
use crate::api::app::{ApiKey, App, Served, Settings, now};
use crate::api::serve::{Listeners, serve};
use crate::engine::Engine;
use crate::engine::queue::Limits;
use crate::error::{Error, Result};
use crate::metrics::{Exposition, MEMORY_LIMIT, MODEL_INFO};
use crate::sampling::Params;
use crate::shutdown::Shutdown;
use crate::traces::Collector;

/// How often it is looked whether a signal has come.
const SIGNAL_POLL: Duration = Duration::from_millis(20);

/// A step that takes longer is unhealthy, where blazr is never to end for it.
const LONG_STEP: Duration = Duration::from_secs(60);

/// Longer than anybody waits, and short enough to be added to any time.
const LONGEST: Duration = Duration::from_secs(366 * 86_400);

/// Connections need little: what computes has threads of its own.
const CONNECTION_THREADS: usize = 2;

/// What takes its time, such as tokenizing and large bodies, is not done more often at once.
const SIDE_THREADS: usize = 4;

/// So many connections may come at once before the first of them is taken.
const BACKLOG: u32 = 4096;

#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    #[command(flatten)]
    _config: ConfigArgs,
    /// Print all settings, as a configuration file with where each comes from, and end.
    #[arg(long)]
    pub(super) print_config: bool,
    /// What that prints, where it is asked for.
    #[arg(skip)]
    pub(super) effective: Option<String>,
    #[command(flatten)]
    pub(super) model: ModelArgs,
    #[command(flatten)]
    address: AddressArgs,
    /// Serve /metrics on this port instead, to whoever can reach it.
    #[arg(long, value_name = "PORT")]
    metrics_port: Option<u16>,
    /// At most this many requests wait.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = at_least_one())]
    max_queue: usize,
    /// At most this many prompt tokens wait.
    #[arg(long, value_name = "N", default_value_t = 262_144, value_parser = at_least_one())]
    max_queue_tokens: usize,
    /// A request that has waited for so many seconds is turned away.
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = parse_seconds)]
    queue_timeout: Duration,
    /// A request may take so many seconds.
    #[arg(long, value_name = "SECONDS", default_value = "600", value_parser = parse_seconds)]
    request_timeout: Duration,
    /// After SIGTERM or SIGINT, what was taken in is finished within so many seconds.
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = parse_seconds)]
    drain_timeout: Duration,
    /// Where one step of the inference loop takes so many seconds, blazr ends with exit code 1, for its supervisor to start
    /// it anew; after half of them it is unhealthy; 0 never ends it.
    #[arg(long, value_name = "SECONDS", default_value = "120", value_parser = parse_seconds)]
    stall_timeout: Duration,
    /// A larger request body is refused.
    #[arg(long, value_name = "BYTES", default_value_t = 4 << 20)]
    body_limit: usize,
    /// Ask for this key; may be given several times.
    #[arg(long, value_name = "KEY", value_parser = Hidden::<ApiKey>::new())]
    api_key: Vec<ApiKey>,
    /// Ask for one of the keys in this file, one a line.
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// Let pages from this origin ask, or from any with `*`; may be given several times.
    #[arg(long, value_name = "ORIGIN", value_delimiter = ',', value_parser = parsers::origin)]
    cors_origin: Vec<HeaderValue>,
    /// Answer to this model name too; may be given several times.
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = NonEmptyStringValueParser::new())]
    alias: Vec<String>,
    /// Write conversations as this Jinja template says, instead of the checkpoint's.
    #[arg(long, value_name = "FILE")]
    chat_template: Option<PathBuf>,
    /// Where a request doesn't say how tokens are drawn, do as the checkpoint's generation_config.json says.
    #[arg(long)]
    generation_config: bool,
    /// Tell of each request and its phases to this OpenTelemetry collector, in OTLP over HTTP: http://HOST:4318.
    #[arg(long, value_name = "URL", value_parser = Hidden::<Collector>::new())]
    pub(super) otlp_endpoint: Option<Collector>,
    /// Write what is asked into the log.
    #[arg(long)]
    log_prompts: bool,
}

fn at_least_one() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..)
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let seconds = seconds.filter(|seconds| *seconds <= LONGEST);
    seconds.ok_or_else(|| format!("expected a number of seconds from 0 to {}", LONGEST.as_secs()))
}

pub(super) fn run(args: &ServeArgs, threads: usize) -> Result<ExitCode> {
    if let Some(settings) = &args.effective {
        return print(settings).map(|()| ExitCode::SUCCESS);
    }
    // A connection takes two file descriptors. Where no more can be had, there are fewer connections.
    let _ = rlimit::increase_nofile_limit(u64::MAX);
    let app = App::new(args.settings()?, Exposition::install()?);
    if let Some(bytes) = Memory::read().limit() {
        MEMORY_LIMIT.set(bytes as f64, Vec::new());
    }
    let runtime = start_runtime()?;
    let (api, address) = runtime.block_on(args.listen(args.address.port))?;
    tracing::info!("listening on http://{address}, the model is loading");
    let metrics = args.metrics_port.map(|port| runtime.block_on(args.listen(port))).transpose()?;
    if let Some((_, address)) = &metrics {
        tracing::info!("metrics are on http://{address}/metrics");
    }
    let listeners = Listeners { api, metrics: metrics.map(|(listener, _)| listener) };
    let shutdown = Shutdown::on_signals()?;
    let loading = runtime.spawn_blocking({
        let (app, args) = (app.clone(), args.loading(threads, address));
        move || args.load(&app)
    });
    let stop = async {
        let signal = async {
            while !shutdown.is_asked() {
                tokio::time::sleep(SIGNAL_POLL).await;
            }
        };
        tokio::pin!(signal);
        let loaded = tokio::select! {
            loaded = loading => loaded,
            () = &mut signal => return None,
        };
        match loaded {
            Ok(Err(error)) => return Some(error),
            Err(panic) => return Some(Error::Internal(format!("loading the model panicked: {panic}"))),
            Ok(Ok(())) => {}
        }
        let failure = async {
            loop {
                if let Some(failure) = args.failure(&app) {
                    return failure;
                }
                tokio::time::sleep(SIGNAL_POLL).await;
            }
        };
        tokio::select! {
            () = signal => None,
            failure = failure => {
                app.cut_off();
                Some(failure)
            }
        }
    };
    let (told, mut failure) = tokio::sync::oneshot::channel();
    let until = async {
        let _ = told.send(stop.await);
    };
    let is_clean = runtime.block_on(serve(listeners, app.clone(), until, args.drain_timeout));
    runtime.shutdown_background();
    match failure.try_recv() {
        Ok(Some(error)) => Err(error),
        _ if is_clean => Ok(ExitCode::SUCCESS),
        _ => {
            tracing::warn!("not everything was finished within --drain-timeout");
            Ok(ExitCode::FAILURE)
        }
    }
}

fn start_runtime() -> Result<Runtime> {
    let mut builder = Builder::new_multi_thread();
    let builder = builder.worker_threads(CONNECTION_THREADS).max_blocking_threads(SIDE_THREADS).enable_all();
    builder.build().map_err(|error| Error::Unsupported(format!("can't start threads for connections: {error}")))
}

impl ServeArgs {
    fn settings(&self) -> Result<Settings> {
        let in_file = self.api_key_file.as_deref().map(read_keys).transpose()?.unwrap_or_default();
        Ok(Settings {
            api_keys: [self.api_key.clone(), in_file].concat(),
            cors_origins: self.cors_origin.clone(),
            has_metrics_port: self.metrics_port.is_some(),
            logs_prompts: self.log_prompts,
            body_limit: self.body_limit,
            queue_timeout: self.queue_timeout,
            request_timeout: self.request_timeout,
        })
    }

    /// Why there is nothing more to expect from the inference loop.
    fn failure(&self, app: &App) -> Option<Error> {
        let is_stuck = |age: Duration| !self.stall_timeout.is_zero() && age > self.stall_timeout;
        match app.step_age() {
            _ if app.is_dead() => Some(Error::Internal("the inference loop has died: start blazr anew".into())),
            Some(age) if is_stuck(age) => {
                let seconds = self.stall_timeout.as_secs_f64();
                let message = format!("a step of the inference loop takes longer than --stall-timeout, {seconds} s");
                Some(Error::Internal(format!("{message}: start blazr anew")))
            }
            _ => None,
        }
    }

    async fn listen(&self, port: u16) -> Result<(TcpListener, SocketAddr)> {
        let asked = format!("{}:{port}", self.address.host);
        let failed = |error: io::Error| Error::io(Path::new(&asked), error);
        let listener = bind(&self.address.host, port).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok((listener, address))
    }

    fn loading(&self, threads: usize, address: SocketAddr) -> Loading {
        Loading {
            model: self.model.clone(),
            chat_template: self.chat_template.clone(),
            generation_config: self.generation_config,
            aliases: self.alias.clone(),
            limits: Limits { requests: self.max_queue, tokens: self.max_queue_tokens },
            longest_step: if self.stall_timeout.is_zero() { LONG_STEP } else { self.stall_timeout / 2 },
            threads,
            address,
        }
    }
}

/// Listens on the first of the host's addresses that can be had.
async fn bind(host: &str, port: u16) -> io::Result<TcpListener> {
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    for address in tokio::net::lookup_host((host, port)).await? {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        match socket.bind(address).and_then(|()| socket.listen(BACKLOG)) {
            Ok(listener) => return Ok(listener),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// The keys in a file, one a line.
fn read_keys(path: &Path) -> Result<Vec<ApiKey>> {
    let text = std::fs::read_to_string(path).map_err(|error| Error::io(path, error))?;
    let key = |(line, key): (usize, &str)| {
        key.parse().map_err(|expected| {
            Error::setting(format!("{}:{}", path.display(), line + 1), format!("a key: {expected}"))
        })
    };
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let keys: Vec<ApiKey> = lines.map(key).collect::<Result<_>>()?;
    if keys.is_empty() {
        return Err(Error::not_found(path, "expected a key on each line, found none"));
    }
    Ok(keys)
}

/// What it takes to load the model.
struct Loading {
    model: ModelArgs,
    chat_template: Option<PathBuf>,
    generation_config: bool,
    aliases: Vec<String>,
    limits: Limits,
    longest_step: Duration,
    threads: usize,
    address: SocketAddr,
}

impl Loading {
    fn load(self, app: &App) -> Result<()> {
        let began = Instant::now();
        let checkpoint = self.model.open()?;
        let (id, config, size) = (checkpoint.id().to_owned(), checkpoint.config().clone(), checkpoint.size());
        let tokenizer = Arc::new(checkpoint.tokenizer()?);
        let template = checkpoint.chat_template(self.chat_template.as_deref(), &tokenizer)?;
        let sampling = if self.generation_config { checkpoint.sampling()? } else { Params::default() };
        let device = self.model.device()?;
        plan::check_served(&checkpoint, &self.model, &device)?;
        let kind = if device.is_cpu() { "cpu" } else { "gpu" };
        let fingerprint = format!("blazr-{}-{kind}-{:016x}", env!("CARGO_PKG_VERSION"), checkpoint.fingerprint());
        tracing::info!("loading {id}: {} MB of weights", megabytes(size.bytes as u64));
        let progress = bar(size.bytes as u64);
        let settings = self.model.settings();
        let load = || checkpoint.load_telling(&device, settings, &|bytes| progress.inc(bytes as u64));
        let model = computing(self.threads, load)?;
        progress.finish_and_clear();
        let (engine, _) = Engine::start(model, Arc::clone(&tokenizer), self.limits, self.threads, self.longest_step)?;
        MODEL_INFO.set(1.0, vec![("model", id.clone())]);
        let sequence = config.state_bytes().saturating_add(config.cache_bytes(config.max_seq_len));
        let ready = format!(
            "serving {id} on http://{} after {:.3} s: {} parameters, a context of {} tokens, {} MB of weights and at most \
             {} MB of state; {}",
            self.address,
            began.elapsed().as_secs_f64(),
            size.parameters,
            config.max_seq_len,
            megabytes(size.bytes as u64),
            megabytes(sequence as u64),
            command_to_try(self.address, !app.settings().api_keys.is_empty()),
        );
        let aliases = self.aliases;
        app.serve(Served { id, aliases, config, tokenizer, template, sampling, engine, fingerprint, created: now() });
        tracing::info!("{ready}");
        Ok(())
    }
}

/// A request that works when it is pasted into a shell, which must have the key where one is asked for.
fn command_to_try(address: SocketAddr, asks_for_key: bool) -> String {
    let (try_it, key) = if asks_for_key {
        ("with a key in BLAZR_API_KEY try", r#" -H "Authorization: Bearer $BLAZR_API_KEY""#)
    } else {
        ("try", "")
    };
    let body = r#"{"prompt": "Once upon a time"}"#;
    format!("{try_it}: curl http://{address}/v1/completions{key} -H 'Content-Type: application/json' -d '{body}'")
}
