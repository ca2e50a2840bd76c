//! Settings, wherever they come from: the one place that reads the environment, but for RUST_LOG.

mod fault;
mod file;
mod hub;
mod sources;

pub use self::fault::Fault;
pub use self::hub::{HubSettings, Token};
pub use self::sources::{Sources, check_variables, with_variables};
