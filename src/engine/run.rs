//! The inference loop for one request.

use super::request::GenerateRequest;
use super::sequence::{Event, Sequence};
use crate::error::Result;
use crate::metrics::STATE_BYTES;
use crate::model::Model;
use crate::text::Tokenizer;

/// Generates on the calling thread and hands every event to `emit`, the last being [`Event::Done`]. `is_cancelled`
/// is asked between the chunks of the prompt and between tokens.
///
/// # Errors
/// Those of `emit`, which end the generation, and failures of the model.
pub fn generate(
    model: &Model,
    tokenizer: &Tokenizer,
    request: GenerateRequest,
    is_cancelled: impl Fn() -> bool,
    mut emit: impl FnMut(Event) -> Result<()>,
) -> Result<()> {
    let mut sequence = Sequence::new(model, tokenizer, request)?;
    loop {
        let event = if is_cancelled() { Some(sequence.cancel()?) } else { sequence.advance()? };
        STATE_BYTES.set(sequence.state_bytes() as f64, Vec::new());
        let is_done = matches!(event, Some(Event::Done { .. }));
        event.map_or(Ok(()), &mut emit)?;
        if is_done {
            return Ok(());
        }
    }
}
