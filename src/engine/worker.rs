//! The one thread that owns the model.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::Instant;

use tokio::sync::mpsc::error::TrySendError;

use super::event::{Event, FinishReason};
use super::run::generate;
use super::{GivenUp, Job, Shared, Update};
use crate::config::Fault;
use crate::error::{Error, Result, Timeout};
use crate::kernels::pool::Pool;
use crate::model::Model;
use crate::text::Tokenizer;

/// Starts the thread. It ends when the engine is closed and nothing waits.
pub(super) fn start(
    model: Model,
    tokenizer: Arc<Tokenizer>,
    shared: Arc<Shared>,
    threads: usize,
) -> Result<JoinHandle<()>> {
    let failed = |what: &dyn std::fmt::Display| Error::Unsupported(format!("can't start {threads} threads: {what}"));
    let pool = Pool::new(threads).map_err(|error| failed(&error))?;
    let work = move || {
        let _alive = Alive(Arc::clone(&shared));
        let fault = Cell::new(Fault::asked());
        pool.install(|| Worker { model: &model, tokenizer: &tokenizer, shared: &shared, fault }.run());
    };
    Builder::new().name("inference".into()).spawn(work).map_err(|error| failed(&error))
}

/// Says that the loop has died, unless it ended as it should, and gives up what waits for it.
struct Alive(Arc<Shared>);

impl Drop for Alive {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.die();
        }
    }
}

struct Worker<'a> {
    model: &'a Model,
    tokenizer: &'a Tokenizer,
    shared: &'a Shared,
    fault: Cell<Option<Fault>>,
}

/// Goes wrong as a test has asked for.
#[allow(clippy::panic)]
fn strike(fault: Fault) {
    match fault {
        Fault::Panic | Fault::Death => panic!("FAULT asks for it"),
        Fault::Stall => loop {
            std::thread::park();
        },
    }
}

impl Worker<'_> {
    fn run(&self) {
        while let Some(job) = self.shared.next() {
            let started = Instant::now();
            let has_worked = self.work(job);
            let lost = self.loss();
            self.shared.done(has_worked.then(|| started.elapsed()));
            if let Some(error) = lost {
                tracing::error!("the device is lost: {error}");
                return self.shared.die();
            }
        }
    }

    /// Why the device is of no more use: a GPU's context that is broken stays so, and another process gets another one. The
    /// first answer may be of something that failed before, the second is not.
    fn loss(&self) -> Option<candle_core::Error> {
        let device = self.model.device();
        device.synchronize().or_else(|_| device.synchronize()).err()
    }

    /// Whether there was anything to do: not for a job that was given up before.
    fn work(&self, mut job: Job) -> bool {
        if job.is_given_up() {
            return false;
        }
        self.shared.pulse.beat();
        job.meter.start();
        let _ = job.updates.try_send(Update::Started);
        let fault = self.fault.take();
        if fault == Some(Fault::Death) {
            strike(Fault::Death); // not within the job, which would settle it
        }
        job.settle(|job| {
            if let Some(fault) = fault {
                strike(fault);
            }
            self.generate_all(job)
        });
        true
    }

    /// Whether all requests came to their end: false where they were given up.
    fn generate_all(&self, job: &mut Job) -> Result<bool, Failure> {
        let mut first = 0;
        for request in std::mem::take(&mut job.requests) {
            if first > 0 {
                job.meter.next_prompt();
            }
            let given_up = Arc::clone(&job.given_up);
            let is_given_up = || {
                self.shared.pulse.beat();
                given_up.get().is_some()
            };
            let (mut reader, mut is_complete) = (Ok(()), false);
            let generated = generate(self.model, self.tokenizer, &request, is_given_up, |index, event| {
                is_complete = matches!(&event, Event::Done { reason, .. } if *reason != FinishReason::Cancelled);
                job.meter.event(index, &event);
                reader = job.tell(first + index, event);
                if reader.is_err() { Err(Error::Internal("nobody reads".into())) } else { Ok(()) }
            });
            reader?;
            generated.map_err(Failure::Of)?;
            if !is_complete {
                return Ok(false);
            }
            first += request.n_answers();
        }
        Ok(true)
    }
}

/// Why a job ended before its end.
enum Failure {
    SlowReader,
    Of(Error),
}

impl Job {
    fn is_given_up(&self) -> bool {
        self.given_up.get().is_some() || self.updates.is_closed()
    }

    fn tell(&self, index: usize, event: Event) -> Result<(), Failure> {
        match self.updates.try_send(Update::Event(index, event)) {
            Err(TrySendError::Full(_)) => Err(Failure::SlowReader),
            Ok(()) | Err(TrySendError::Closed(_)) => Ok(()), // closed: seen before the next step
        }
    }

    /// Ends with what comes of `work`. Whatever goes wrong in it, even a panic, is this job's own.
    fn settle(mut self, work: impl FnOnce(&mut Self) -> Result<bool, Failure>) {
        match catch_unwind(AssertUnwindSafe(|| work(&mut self))) {
            Ok(Ok(true)) => self.meter.finish(),
            Ok(Ok(false)) => {}
            Ok(Err(Failure::SlowReader)) => {
                let _ = self.given_up.set(GivenUp::TimedOut(Timeout::Reader));
                tracing::warn!("a client that reads too slowly was dropped");
            }
            Ok(Err(Failure::Of(error))) => self.fail("error", error),
            Err(_) => self.fail("panic", Error::Internal("the inference loop panicked on this request".into())),
        }
    }

    fn fail(mut self, reason: &'static str, error: Error) {
        self.meter.fail(reason);
        tracing::error!("a request failed: {error}");
        let _ = self.updates.try_send(Update::Failed(error));
    }

    /// It was taken in and can't be begun.
    pub(super) fn refuse(mut self, error: Error) {
        self.meter.refuse();
        tracing::error!("a request can't be begun: {error}");
        let _ = self.updates.try_send(Update::Failed(error));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;

    use tokio::sync::mpsc;

    use super::*;
    use crate::engine::meter::Meter;

    #[test]
    fn a_panic_fails_its_own_request_alone() {
        let (updates, mut told) = mpsc::channel(4);
        let given_up = Arc::new(OnceLock::new());
        let meter = Meter::new(Arc::clone(&given_up));
        Job { requests: Vec::new(), updates, given_up, meter }.settle(|_| panic!("for this test"));
        assert!(matches!(told.try_recv(), Ok(Update::Failed(Error::Internal(_)))));
    }
}
