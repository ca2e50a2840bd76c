//! The `blazr` binary: parse, run, and turn an error into a message and an exit code (2 for usage, 1 for anything else).

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

/// What is logged unless RUST_LOG says otherwise.
const DEFAULT_LOG: &str = "blazr=info";

/// Gives memory back soon, and threads that come and go don't each keep some.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = blazr::cli::Cli::parse();
    limit_candle(cli.threads());
    log_to_stderr();
    match cli.run() {
        Ok(code) => code,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Holds candle's own threads to the same number: it reads this variable once, and has no other setting.
#[allow(unsafe_code)]
fn limit_candle(threads: usize) {
    // SAFETY: no other thread was started yet that could read the environment.
    unsafe { std::env::set_var("RAYON_NUM_THREADS", threads.to_string()) };
}

/// Logs go to standard error, at the levels that RUST_LOG asks for (`blazr=info` without it).
fn log_to_stderr() {
    let wanted = std::env::var("RUST_LOG").unwrap_or_default();
    let filter = EnvFilter::try_new(if wanted.is_empty() { DEFAULT_LOG } else { &wanted });
    let refused = filter.as_ref().err().map(ToString::to_string);
    tracing_subscriber::fmt()
        .with_env_filter(filter.unwrap_or_else(|_| EnvFilter::new(DEFAULT_LOG)))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .log_internal_errors(false) // they would go where logs can't be written
        .init();
    if let Some(reason) = refused {
        tracing::warn!("RUST_LOG={wanted:?} is not understood, logging {DEFAULT_LOG}: {reason}");
    }
}
