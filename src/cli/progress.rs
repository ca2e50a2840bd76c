//! How far something is that takes its time, shown on a terminal.

use std::io::{self, IsTerminal};
use std::path::PathBuf;

use indicatif::{DecimalBytes, ProgressBar, ProgressStyle};

use crate::config::HubSettings;
use crate::error::Result;
use crate::hub::id::ModelId;
use crate::hub::{self, Told};

/// Finds the files of a model of the Hub, and shows how far the download is: on a terminal as a bar, else in the log.
pub(super) fn find(id: &ModelId) -> Result<PathBuf> {
    let bar = bar(0);
    let path = hub::find(&HubSettings::from_env()?, id, &|told| match told {
        Told::Needed(name, bytes) => {
            bar.inc_length(bytes);
            tracing::debug!("{id} needs {name}, {bytes} bytes");
        }
        Told::Begun(name, bytes) if bar.is_hidden() => {
            tracing::info!("downloading {name} of {id}, {}", DecimalBytes(bytes));
        }
        Told::Begun(name, _) => bar.set_message(name.to_owned()),
        Told::Gained(bytes) => bar.inc(bytes),
        Told::Lost(bytes) => bar.set_position(bar.position().saturating_sub(bytes)),
    });
    bar.finish_and_clear();
    path
}

/// Shows on a terminal how many of the bytes are there, and nothing elsewhere.
pub(super) fn bar(bytes: u64) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(bytes);
    let style = ProgressStyle::with_template("{bar:40} {bytes} of {total_bytes}, {eta} left {msg}");
    style.map_or_else(|_| ProgressBar::hidden(), |style| bar.with_style(style))
}

/// Rounded up.
pub(super) fn megabytes(bytes: u64) -> u64 {
    bytes.div_ceil(1_000_000)
}
