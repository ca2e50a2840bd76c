//! The inference loop for one request.

use super::event::{Event, FinishReason};
use super::prefill::Prefill;
use super::request::GenerateRequest;
use crate::error::Result;
use crate::metrics::STATE_BYTES;
use crate::model::Model;
use crate::text::Tokenizer;

/// Generates on the calling thread and hands every event to `emit` with the index of its answer, the last of each being
/// [`Event::Done`]. `is_cancelled` is asked between the chunks of the prompt and between tokens; then the answer at hand
/// is the last one.
///
/// # Errors
/// Those of `emit`, which end the generation, and failures of the model.
pub fn generate(
    model: &Model,
    tokenizer: &Tokenizer,
    request: &GenerateRequest,
    is_cancelled: impl Fn() -> bool,
    mut emit: impl FnMut(usize, Event) -> Result<()>,
) -> Result<()> {
    let mut prefill = Prefill::new(model, tokenizer, request)?;
    while !prefill.is_complete() {
        if is_cancelled() {
            return emit(0, prefill.cancel());
        }
        let echoed = prefill.advance()?;
        STATE_BYTES.set(prefill.state_bytes() as f64, Vec::new());
        echoed.map_or(Ok(()), |event| emit(0, event))?;
    }
    for index in 0..request.n {
        if index > 0 {
            prefill.echoed().map_or(Ok(()), |event| emit(index, event))?;
        }
        let mut answer = prefill.answer(index)?;
        loop {
            let event = if is_cancelled() { answer.cancel() } else { answer.advance()? };
            STATE_BYTES.set(answer.state_bytes() as f64, Vec::new());
            let ended = if let Event::Done { reason, .. } = &event { Some(*reason) } else { None };
            emit(index, event)?;
            match ended {
                None => {}
                Some(FinishReason::Cancelled) => return Ok(()),
                Some(_) => break,
            }
        }
    }
    Ok(())
}
