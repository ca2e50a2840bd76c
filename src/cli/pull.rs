//! `blazr pull`: a model of the Hub into the cache.

use std::process::ExitCode;

use clap::Args;

use super::{print, progress};
use crate::error::{Error, Result};
use crate::hub::id::ModelId;

#[derive(Debug, Args)]
pub(super) struct PullArgs {
    /// The model: OWNER/NAME, with @ and a branch, tag or commit, and with / and the name of a file where several have
    /// weights.
    #[arg(value_name = "MODEL", value_parser = parse_id)]
    model: ModelId,
}

fn parse_id(text: &str) -> Result<ModelId, String> {
    ModelId::parse(text).ok_or_else(|| "expected OWNER/NAME, OWNER/NAME@REVISION or OWNER/NAME/FILE.gguf".into())
}

pub(super) fn run(args: &PullArgs) -> Result<ExitCode> {
    let path = progress::find(&args.model)?;
    let text = path.to_str().ok_or_else(|| Error::Unsupported(format!("the path {path:?} is no text")))?;
    print(&format!("{text}\n"))?;
    Ok(ExitCode::SUCCESS)
}
