//! The commands: wiring only. Each file is one command with its flags.

mod generate;
mod info;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::error::{Error, Result};

/// Serves hybrid language models: Mamba2, latent attention, mixture of experts and grouped-query attention in any mix.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Continue a prompt: the text goes to standard output as it is made, figures and logs to standard error.
    Generate(generate::GenerateArgs),
    /// Describe a checkpoint as JSON: its configuration, where each value came from, and its sizes.
    Info(info::InfoArgs),
}

/// The flags of every command that computes.
#[derive(Debug, Args)]
struct ModelArgs {
    /// The checkpoint: a directory, or a safetensors file.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Run on the CPU even where there is a GPU.
    #[arg(long)]
    cpu: bool,
    /// How many threads compute [default: one for each physical core].
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
}

impl Cli {
    /// Runs the command.
    ///
    /// # Errors
    /// Whatever the command could not do; nothing was printed about it yet.
    pub fn run(self) -> Result<ExitCode> {
        let result = match self.command {
            Command::Generate(args) => args.model.pool()?.install(|| generate::run(&args)),
            Command::Info(args) => args.model.pool()?.install(|| info::run(&args)),
        };
        match result {
            // Whoever read the output has seen enough of it.
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
            result => result,
        }
    }
}

/// Writes to standard output at once.
fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.map_err(|error| Error::io(Path::new("standard output"), error))
}

impl ModelArgs {
    /// The threads that compute. A command runs on one of them, so that small parallel loops don't change threads.
    fn pool(&self) -> Result<rayon::ThreadPool> {
        // A container may be given fewer cores than the machine has.
        let usable = || num_cpus::get_physical().min(num_cpus::get());
        let threads = self.threads.map_or_else(usable, usize::from);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        pool.map_err(|error| Error::Unsupported(format!("--threads {threads}: {error}")))
    }
}
