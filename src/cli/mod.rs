//! The commands: wiring only. Each file is one command with its flags.

mod bench;
mod generate;
mod healthcheck;
mod info;
mod list;
mod memory;
mod parsers;
mod plan;
mod progress;
mod pull;
mod serve;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use candle_core::Device;
use clap::builder::NonEmptyStringValueParser;
use clap::error::{ContextKind, ContextValue};
use clap::{Args, Command, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use serde::Serialize;

use crate::checkpoint::Checkpoint;
use crate::config;
use crate::error::{Error, Result};
use crate::hub::id::ModelId;
use crate::kernels::blocks::Format;
use crate::kernels::matrix::{Precision, WeightType};
use crate::kernels::pool::Pool;
use crate::model::device::{self, Place};
use crate::model::weights::Settings;
use crate::nano;
use crate::traces::Collector;

/// Serves hybrid language models: Mamba2, latent attention, mixture of experts and grouped-query attention in any mix.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Continue a prompt: the text goes to standard output as it is made, figures and logs to standard error.
    Generate(generate::GenerateArgs),
    /// Serve a model behind the OpenAI-compatible HTTP API.
    Serve(serve::ServeArgs),
    /// Tell whether a server answers: for the health checks of containers.
    Healthcheck(healthcheck::HealthcheckArgs),
    /// Tell how much memory a model needs, and whether there is as much.
    Plan(plan::PlanArgs),
    /// Describe a checkpoint as JSON: its configuration, where each value came from, and its sizes.
    Info(info::InfoArgs),
    /// Measure how fast a model is, and how near to what the machine's memory allows.
    Bench(bench::BenchArgs),
    /// Download a model of the Hugging Face Hub, and print where it is.
    Pull(pull::PullArgs),
    /// List the models in the cache of the Hugging Face Hub.
    List(list::ListArgs),
}

/// The flags of every command that computes.
#[derive(Clone, Debug, Args)]
struct ModelArgs {
    /// The checkpoint: a directory, a safetensors or GGUF file, or a model of the Hugging Face Hub as OWNER/NAME[@REVISION]
    /// [default: nano, which is embedded].
    #[arg(long, value_name = "MODEL", value_parser = NonEmptyStringValueParser::new())]
    model: Option<String>,
    /// Where to run: cpu, cuda or cuda:N [default: the first GPU where there is one, else the CPU].
    #[arg(long, value_name = "DEVICE")]
    device: Option<Place>,
    /// Run on the CPU even where there is a GPU, whatever --device says.
    #[arg(long)]
    cpu: bool,
    /// How many threads compute [default: one for each physical core that it may use].
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// How matrices of weights are held: as stored, or converted while loading.
    #[arg(long, value_enum, default_value_t)]
    dtype: DtypeArg,
    /// Whether activations may be rounded where they meet matrices of 16 bits and fewer.
    #[arg(long, value_enum, default_value_t)]
    precision: PrecisionArg,
}

/// Where settings are read from besides flags and variables.
#[derive(Debug, Args)]
struct ConfigArgs {
    /// Read settings from this file [default: config/blazr.toml, where there is one].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Where a server listens.
#[derive(Debug, Args)]
struct AddressArgs {
    /// The address that the server listens on.
    #[arg(long, default_value = "127.0.0.1", value_parser = NonEmptyStringValueParser::new())]
    host: String,
    /// The port that it listens on; a server takes one that is free for 0.
    #[arg(long, default_value_t = 8080)]
    port: u16,
}

/// How matrices of weights are held.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
#[value(rename_all = "snake_case")]
enum DtypeArg {
    /// As stored.
    #[default]
    Auto,
    F32,
    Bf16,
    F16,
    /// 8.5 bits a weight.
    #[value(name = "q8_0")]
    Q8_0,
    /// 4.6 bits a weight; embedding and head as q6_k.
    #[value(name = "q4_k")]
    Q4K,
    /// 5.6 bits a weight; embedding and head as q6_k.
    #[value(name = "q5_k")]
    Q5K,
    /// 6.6 bits a weight.
    #[value(name = "q6_k")]
    Q6K,
}

/// How exactly activations meet weights.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum PrecisionArg {
    /// Rounded; states, norms, softmax, routers and logits stay f32.
    #[default]
    Fast,
    /// Never rounded: f32 everywhere.
    Exact,
}

impl ModelArgs {
    /// Where the model runs.
    fn device(&self) -> Result<Device> {
        device::choose(if self.cpu { Some(Place::Cpu) } else { self.device })
    }

    /// How the weights are held and multiplied.
    fn settings(&self) -> Settings {
        let dtype = match self.dtype {
            DtypeArg::Auto => None,
            DtypeArg::F32 => Some(WeightType::F32),
            DtypeArg::Bf16 => Some(WeightType::Bf16),
            DtypeArg::F16 => Some(WeightType::F16),
            DtypeArg::Q8_0 => Some(WeightType::Blocks(Format::Q8_0)),
            DtypeArg::Q4K => Some(WeightType::Blocks(Format::Q4K)),
            DtypeArg::Q5K => Some(WeightType::Blocks(Format::Q5K)),
            DtypeArg::Q6K => Some(WeightType::Blocks(Format::Q6K)),
        };
        let precision = match self.precision {
            PrecisionArg::Fast => Precision::Fast,
            PrecisionArg::Exact => Precision::Exact,
        };
        Settings { dtype, precision }
    }

    /// Opens the checkpoint that was named, else the embedded one. What is no path here is the embedded one, by its name, or
    /// looked for at the Hub.
    fn open(&self) -> Result<Checkpoint> {
        let Some(model) = self.model.as_deref() else { return Checkpoint::embedded(&nano::MODEL) };
        let is_missing = matches!(Path::new(model).try_exists(), Ok(false));
        match ModelId::parse(model) {
            _ if is_missing && model == nano::ID => Checkpoint::embedded(&nano::MODEL),
            Some(id) if is_missing => Ok(Checkpoint::open(&progress::find(&id).map_err(not_here)?)?.named(&id.repo)),
            _ => Checkpoint::open(Path::new(model)),
        }
    }
}

/// An error about a model of the Hub, which may have been meant to be a path.
fn not_here(error: Error) -> Error {
    match error {
        Error::Hub { id, message } => {
            Error::hub(&id, format!("{message}; and there is no file or directory of this name"))
        }
        other => other,
    }
}

impl Cli {
    /// What this process was asked for, by its arguments, the environment and the configuration file. Ends the process
    /// where the arguments are wrong, or ask for help.
    ///
    /// # Errors
    /// The file or the environment has what no setting has.
    pub fn read() -> Result<Self> {
        let bare = <Self as CommandFactory>::command();
        config::check_variables(&bare)?;
        let command = config::with_variables(&bare);
        let mut args: Vec<_> = std::env::args_os().collect();
        let parse = |args: &[OsString]| {
            let parsed = command.clone().try_get_matches_from(args);
            parsed.unwrap_or_else(|error| end(&error, &command, args))
        };
        let given = parse(&args);
        let sources = match given.subcommand() {
            Some((name, given)) => config::Sources::read(&bare, name, given)?,
            None => None,
        };
        // Right behind the program and the command, so that what follows stays behind its own flags.
        let behind = args.len().min(2);
        args.splice(behind..behind, sources.iter().flat_map(config::Sources::flags));
        let mut cli = Self::from_arg_matches(&parse(&args)).unwrap_or_else(|error| error.exit());
        if let (Task::Serve(args), Some(sources)) = (&mut cli.task, sources) {
            args.effective = args.print_config.then(|| sources.to_toml());
        }
        Ok(cli)
    }

    /// How many threads compute: `--threads`, else one for each physical core that it may use.
    pub fn threads(&self) -> usize {
        let model = match &self.task {
            Task::Generate(args) => Some(&args.model),
            Task::Serve(args) => Some(&args.model),
            Task::Info(args) => Some(&args.model),
            Task::Bench(args) => Some(&args.model),
            Task::Healthcheck(_) | Task::Plan(_) | Task::Pull(_) | Task::List(_) => None,
        };
        // A container may be given fewer cores than the machine has.
        let usable = || num_cpus::get_physical().min(num_cpus::get());
        model.and_then(|model| model.threads).map_or_else(usable, usize::from)
    }

    /// Who is told of each request, in traces.
    pub fn otlp_endpoint(&self) -> Option<&Collector> {
        match &self.task {
            Task::Serve(args) => args.otlp_endpoint.as_ref(),
            _ => None,
        }
    }

    /// Runs the command.
    ///
    /// # Errors
    /// Whatever the command could not do; nothing was printed about it yet.
    pub fn run(self) -> Result<ExitCode> {
        let threads = self.threads();
        let result = match &self.task {
            Task::Generate(args) => computing(threads, || generate::run(args)),
            Task::Info(args) => computing(threads, || info::run(args)),
            Task::Bench(args) => computing(threads, || bench::run(args, threads)),
            Task::Serve(args) => serve::run(args, threads),
            Task::Healthcheck(args) => healthcheck::run(args),
            Task::Plan(args) => plan::run(args),
            Task::Pull(args) => pull::run(args),
            Task::List(args) => list::run(args),
        };
        match result {
            // Whoever read the output has seen enough of it.
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
            result => result,
        }
    }
}

/// Ends the process with clap's message; where a variable is at fault, its name stands behind it.
fn end(error: &clap::Error, command: &Command, args: &[OsString]) -> ! {
    let _ = error.print();
    if let Some(ContextValue::String(shown)) = error.get(ContextKind::InvalidArg) {
        let flag = shown.split([' ', '=']).next().unwrap_or_default();
        let is_of_flag = |arg: &&clap::Arg| arg.get_long().is_some_and(|long| flag == format!("--{long}"));
        let is_typed = args.iter().any(|arg| arg.to_string_lossy().split('=').next() == Some(flag));
        let arg = command.get_subcommands().flat_map(Command::get_arguments).find(is_of_flag);
        if let Some(variable) = arg.and_then(clap::Arg::get_env).filter(|_| !is_typed) {
            let _ = writeln!(io::stderr(), "{flag} has the value of {}.", variable.to_string_lossy());
        }
    }
    std::process::exit(error.exit_code());
}

/// Runs a command that computes with so many threads.
fn computing<T>(threads: usize, command: impl FnOnce() -> Result<T>) -> Result<T> {
    let pool =
        Pool::new(threads).map_err(|error| Error::Unsupported(format!("can't start {threads} threads: {error}")))?;
    pool.install(command)
}

/// Writes a value as JSON to standard output.
fn print_json(value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Error::Internal(error.to_string()))?;
    print(&format!("{text}\n"))
}

/// Writes to standard output at once.
fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.map_err(|error| Error::io(Path::new("standard output"), error))
}
