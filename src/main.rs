//! The `blazr` binary: parse, run, and turn an error into a message and an exit code (2 for usage, 1 for anything else).

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use blazr::cli::Cli;
use blazr::error::{Error, Result};
use blazr::traces::Traces;
use tracing::Level;
use tracing_subscriber::filter::{EnvFilter, Targets};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

/// What is logged unless RUST_LOG says otherwise.
const DEFAULT_LOG: &str = "blazr=info,opentelemetry_sdk=warn";

/// The exit code of clap's errors, and of those that are like them.
const WRONG_USAGE: u8 = 2;

/// Gives memory back soon, and threads that come and go don't each keep some.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {error}");
            if matches!(error, Error::Setting { .. }) { ExitCode::from(WRONG_USAGE) } else { ExitCode::FAILURE }
        }
    }
}

fn run() -> Result<ExitCode> {
    let cli = Cli::read()?;
    limit_candle(cli.threads());
    let traces = cli.otlp_endpoint().map(Traces::told_to).transpose()?;
    log_to_stderr(traces.as_ref());
    cli.run()
}

/// Holds candle's own threads to the same number: it reads this variable once, and has no other setting.
#[allow(unsafe_code)]
fn limit_candle(threads: usize) {
    // SAFETY: no other thread was started yet that could read the environment.
    unsafe { std::env::set_var("RAYON_NUM_THREADS", threads.to_string()) };
}

/// Logs go to standard error, at the levels that RUST_LOG asks for ([`DEFAULT_LOG`] without it), and spans to `traces`.
fn log_to_stderr(traces: Option<&Traces>) {
    let wanted = std::env::var("RUST_LOG").unwrap_or_default();
    let filter = EnvFilter::try_new(if wanted.is_empty() { DEFAULT_LOG } else { &wanted });
    let refused = filter.as_ref().err().map(ToString::to_string);
    let logs = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .log_internal_errors(false) // they would go where logs can't be written
        .with_filter(filter.unwrap_or_else(|_| EnvFilter::new(DEFAULT_LOG)));
    let spans = traces.map(|traces| traces.layer().with_filter(Targets::new().with_target("blazr", Level::INFO)));
    tracing_subscriber::registry().with(logs).with(spans).init();
    if let Some(reason) = refused {
        tracing::warn!("RUST_LOG={wanted:?} is not understood, logging {DEFAULT_LOG}: {reason}");
    }
}
