//! From a validated request to a stream of events.
//!
//! In reading order: [`request`] is what can be asked for and the only place that judges it, [`sequence`] one
//! generation in progress, chunk by chunk and token by token, and [`run`] the loop that drives it.

pub mod request;
pub mod run;
pub mod sequence;
