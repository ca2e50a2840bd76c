//! `blazr list`: what is in the cache of the Hub.

use std::process::ExitCode;

use clap::Args;
use indicatif::DecimalBytes;
use serde::Serialize;

use super::{print, print_json};
use crate::checkpoint::Checkpoint;
use crate::config::HubSettings;
use crate::error::Result;
use crate::hub::cache::{Snapshot, snapshots};

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// A model in the cache.
#[derive(Serialize)]
struct Found {
    #[serde(flatten)]
    snapshot: Snapshot,
    /// What it is, if it can be served.
    family: Option<&'static str>,
    /// Why it can't.
    error: Option<String>,
}

impl Found {
    fn new(snapshot: Snapshot) -> Self {
        match Checkpoint::open(&snapshot.path) {
            Ok(checkpoint) => Self { snapshot, family: Some(checkpoint.family()), error: None },
            Err(error) => Self { snapshot, family: None, error: Some(error.to_string()) },
        }
    }

    fn row(&self) -> [String; 4] {
        let Snapshot { repo, commit, revisions, bytes, .. } = &self.snapshot;
        let short = commit.get(..8).unwrap_or(commit);
        let revision = if revisions.is_empty() { short.to_owned() } else { revisions.join(", ") };
        let family = self.family.unwrap_or("can't be served").to_owned();
        [repo.clone(), revision, DecimalBytes(*bytes).to_string(), family]
    }
}

pub(super) fn run(args: &ListArgs) -> Result<ExitCode> {
    let listed: Vec<Found> = snapshots(&HubSettings::from_env()?.cache)?.into_iter().map(Found::new).collect();
    if args.json {
        print_json(&listed)?;
    } else {
        print(&table(&listed))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Columns as wide as what is in them, under their names.
fn table(listed: &[Found]) -> String {
    let head = ["MODEL", "REVISION", "SIZE", "FAMILY"].map(str::to_owned);
    let rows: Vec<_> = std::iter::once(head).chain(listed.iter().map(Found::row)).collect();
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths = [0, 1, 2].map(|column| width(column).unwrap_or(0));
    let line = |[model, revision, size, family]: &[String; 4]| {
        let [first, second, third] = widths;
        format!("{model:first$}  {revision:second$}  {size:>third$}  {family}\n")
    };
    rows.iter().map(line).collect()
}
