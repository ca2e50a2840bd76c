//! From a validated request to a stream of events.
//!
//! In reading order: [`request`] is what can be asked for and the only place that judges it, [`event`] what is told.
//! `prefill` takes a prompt in, chunk by chunk, `answer` generates from it, token by token, both by [`logits`];
//! `transcript` makes text of the tokens, and [`run`] is the loop that drives them. For a server, [`queue`] says who
//! waits, [`Engine`] takes work in and tells how things stand, and its one thread does the work.
//!
//! A request belongs to whoever holds its [`Generation`]: when that is dropped the request is given up, be it waiting
//! (it leaves the queue at once) or running (the loop looks before every chunk and token). The loop never waits for
//! anybody: a channel has room for all that a request can tell, up to a bound at which its reader is too slow.

mod answer;
pub mod event;
pub mod logits;
mod meter;
mod prefill;
pub mod queue;
pub mod request;
pub mod run;
mod transcript;
mod worker;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::error::{Error, Result, Timeout, Unavailable};
use crate::metrics as m;
use crate::model::Model;
use crate::text::Tokenizer;
use event::Event;
use meter::Meter;
use queue::{Full, Limits, Queue};
use request::{GenerateRequest, check_together};

/// A reader that is this many events behind is too slow.
const MOST_EVENTS_BEHIND: usize = 8192;

/// The bounds of the time after which a client that found the queue full is told to come back.
const RETRY_AFTER_SECONDS: (f64, f64) = (1.0, 120.0);

/// Takes requests in for one thread that works on them one after the other.
#[derive(Clone, Debug)]
pub struct Engine(Arc<Shared>);

/// How things stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// Work is taken in.
    Ready,
    /// The queue is full for now.
    Full,
    /// Nothing more is taken in.
    Closed,
    /// The loop has died or hangs.
    Stalled,
}

/// A request that was taken in. To drop it is to give it up.
#[derive(Debug)]
pub struct Generation {
    updates: mpsc::Receiver<Update>,
    ticket: Ticket,
}

/// Why a request is given up before its end. What comes first counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GivenUp {
    /// Whoever asked has gone.
    Gone,
    /// It takes longer than it may.
    TimedOut(Timeout),
    /// The server ends.
    CutOff,
}

/// What a request's loop tells its holder.
#[derive(Debug)]
pub enum Update {
    /// It waits no longer.
    Started,
    /// Of the answer with this index among all that were submitted together.
    Event(usize, Event),
    /// There will be no more.
    Failed(Error),
}

/// A place in the queue or the loop.
#[derive(Debug)]
struct Ticket {
    id: u64,
    given_up: Arc<OnceLock<GivenUp>>,
    shared: Arc<Shared>,
}

/// Requests that were submitted together, in order.
#[derive(Debug)]
struct Job {
    requests: Vec<GenerateRequest>,
    updates: mpsc::Sender<Update>,
    given_up: Arc<OnceLock<GivenUp>>,
    meter: Meter,
}

#[derive(Debug)]
struct Shared {
    waiting: Mutex<Waiting>,
    /// Told when something was put into the queue, or it was closed.
    arrival: Condvar,
    next_id: AtomicU64,
    pulse: Pulse,
}

#[derive(Debug)]
struct Waiting {
    queue: Queue<Job>,
    is_open: bool,
    is_running: bool,
    /// How long the last requests took, later ones weighing more; none before the first.
    seconds_per_request: Option<f64>,
}

/// Whether the loop turns, to be looked at without waiting for it.
#[derive(Debug)]
struct Pulse {
    began: Instant,
    /// Milliseconds from `began` to the last step; [`Pulse::IDLE`] where there is nothing to do.
    last_step: AtomicU64,
    is_dead: AtomicBool,
    /// A step that takes longer is a stall.
    longest_step: Duration,
}

impl Engine {
    /// Starts the thread, which computes with `threads` threads, and counts as stalled where a step takes longer than
    /// `longest_step`. A GPU is warm by then.
    ///
    /// # Errors
    /// The system has no more threads, or a GPU fails.
    pub fn start(
        model: Model,
        tokenizer: Arc<Tokenizer>,
        limits: Limits,
        threads: usize,
        longest_step: Duration,
    ) -> Result<(Self, JoinHandle<()>)> {
        if !model.device().is_cpu() {
            logits::warm_up(&model)?;
        }
        let waiting =
            Waiting { queue: Queue::new(limits), is_open: true, is_running: false, seconds_per_request: None };
        waiting.publish();
        m::STATE_BYTES.set(0.0, Vec::new());
        let shared = Arc::new(Shared {
            waiting: Mutex::new(waiting),
            arrival: Condvar::new(),
            next_id: AtomicU64::new(0),
            pulse: Pulse::new(longest_step),
        });
        let thread = worker::start(model, tokenizer, Arc::clone(&shared), threads)?;
        Ok((Self(shared), thread))
    }

    /// Puts requests that belong together at the end of the queue, as one entry.
    ///
    /// # Errors
    /// [`Error::Invalid`] where they ask for more than an answer can hold, [`Error::Overloaded`] where there is no room,
    /// [`Error::Unavailable`] where nothing is taken in any more.
    pub fn submit(&self, requests: Vec<GenerateRequest>) -> Result<Generation> {
        check_together(&requests)?;
        let tokens = requests.iter().map(GenerateRequest::prompt_tokens).sum();
        let most_events = requests.iter().map(GenerateRequest::most_events).sum::<usize>() + 1;
        let (sender, updates) = mpsc::channel(most_events.clamp(1, MOST_EVENTS_BEHIND));
        let given_up = Arc::new(OnceLock::new());
        let id = self.0.next_id.fetch_add(1, Ordering::Relaxed);
        let meter = Meter::new(Arc::clone(&given_up));
        let job = Job { requests, updates: sender, given_up: Arc::clone(&given_up), meter };
        self.0.push(id, tokens, job)?;
        Ok(Generation { updates, ticket: Ticket { id, given_up, shared: Arc::clone(&self.0) } })
    }

    /// From now on nothing is taken in; what waits is still worked on, then the thread ends.
    pub fn close(&self) {
        self.0.lock().is_open = false;
        self.0.arrival.notify_all();
    }

    /// Whether nothing waits and nothing runs.
    pub fn is_idle(&self) -> bool {
        let waiting = self.0.lock();
        waiting.queue.is_empty() && !waiting.is_running
    }

    /// Whether the loop has died: nothing that was taken in will be done any more.
    pub fn is_dead(&self) -> bool {
        self.0.pulse.is_dead()
    }

    /// How long the loop has been in its present step; none while there is nothing to do.
    pub fn step_age(&self) -> Option<Duration> {
        self.0.pulse.step_age()
    }

    /// How things stand. Never waits for the loop.
    pub fn health(&self) -> Health {
        if self.0.pulse.is_stalled() {
            return Health::Stalled;
        }
        let waiting = self.0.lock();
        match (waiting.is_open, waiting.queue.is_full()) {
            (false, _) => Health::Closed,
            (true, true) => Health::Full,
            (true, false) => Health::Ready,
        }
    }
}

impl Generation {
    /// What comes next.
    pub async fn next(&mut self) -> Update {
        self.updates.recv().await.unwrap_or_else(|| Update::Failed(self.broken_off()))
    }

    /// Gives the request up for a reason other than that nobody waits for it.
    pub fn give_up(&self, reason: GivenUp) {
        let _ = self.ticket.given_up.set(reason);
    }

    /// Why there is nothing more to come.
    fn broken_off(&self) -> Error {
        match self.ticket.given_up.get() {
            Some(GivenUp::TimedOut(timeout)) => Error::Timeout(*timeout),
            _ => Error::Unavailable(Unavailable::Dead),
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let _ = self.given_up.set(GivenUp::Gone);
        let removed = {
            let mut waiting = self.shared.lock();
            let removed = waiting.queue.remove(self.id);
            waiting.publish();
            removed
        };
        drop(removed); // outside of the lock: it is counted then
    }
}

impl Shared {
    /// The lock is held for a few instructions that can't panic.
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, id: u64, tokens: usize, job: Job) -> Result<()> {
        let mut waiting = self.lock();
        let mut job = job;
        let refused = if self.pulse.is_dead() {
            Error::Unavailable(Unavailable::Dead)
        } else if self.pulse.is_stalled() {
            Error::Unavailable(Unavailable::Stalled)
        } else if !waiting.is_open {
            Error::Unavailable(Unavailable::Draining)
        } else {
            match waiting.queue.push(id, tokens, job) {
                Ok(()) => {
                    waiting.publish();
                    self.arrival.notify_one();
                    return Ok(());
                }
                Err((full, back)) => {
                    job = back;
                    waiting.overloaded(full)
                }
            }
        };
        drop(waiting);
        job.meter.refuse();
        Err(refused)
    }

    /// Waits for work; none when there will be no more.
    fn next(&self) -> Option<Job> {
        let mut waiting = self.lock();
        loop {
            if let Some(job) = waiting.queue.pop() {
                waiting.is_running = true;
                waiting.publish();
                return Some(job);
            }
            if !waiting.is_open {
                return None;
            }
            waiting = self.arrival.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// A job is over, and took so long unless it was given up before.
    fn done(&self, took: Option<Duration>) {
        self.pulse.rest();
        m::STATE_BYTES.set(0.0, Vec::new());
        let mut waiting = self.lock();
        waiting.is_running = false;
        if let Some(seconds) = took.map(|took| took.as_secs_f64()) {
            let mean = waiting.seconds_per_request.map_or(seconds, |mean| 0.8 * mean + 0.2 * seconds);
            waiting.seconds_per_request = Some(mean);
        }
        waiting.publish();
    }

    /// There is nobody left to work: what waits is told so, and nothing more is taken in.
    fn die(&self) {
        self.pulse.is_dead.store(true, Ordering::Relaxed);
        let mut waiting = self.lock();
        waiting.is_running = false;
        let jobs: Vec<Job> = std::iter::from_fn(|| waiting.queue.pop()).collect();
        waiting.publish();
        drop(waiting);
        for job in jobs {
            job.refuse(Error::Unavailable(Unavailable::Dead));
        }
    }
}

impl Waiting {
    fn publish(&self) {
        m::QUEUE_REQUESTS.set(self.queue.len() as f64, Vec::new());
        m::QUEUE_TOKENS.set(self.queue.tokens() as f64, Vec::new());
        m::RUNNING.set(f64::from(u8::from(self.is_running)), Vec::new());
    }

    /// The error of a request that found no room. One request leaves the queue in the time that one takes.
    fn overloaded(&self, full: Full) -> Error {
        let Limits { requests, tokens } = self.queue.limits();
        let message = match full {
            Full::Requests => format!("{} of at most {requests} requests wait", self.queue.len()),
            Full::Tokens => format!("{} of at most {tokens} prompt tokens wait", self.queue.tokens()),
        };
        let (least, most) = RETRY_AFTER_SECONDS;
        let seconds = self.seconds_per_request.unwrap_or(least).ceil().clamp(least, most);
        Error::Overloaded { message, retry_after_seconds: seconds as u64 }
    }
}

impl Pulse {
    const IDLE: u64 = u64::MAX;

    fn new(longest_step: Duration) -> Self {
        let (last_step, is_dead) = (AtomicU64::new(Self::IDLE), AtomicBool::new(false));
        Self { began: Instant::now(), last_step, is_dead, longest_step }
    }

    fn now(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }

    fn beat(&self) {
        self.last_step.store(self.now(), Ordering::Relaxed);
    }

    fn rest(&self) {
        self.last_step.store(Self::IDLE, Ordering::Relaxed);
    }

    fn is_dead(&self) -> bool {
        self.is_dead.load(Ordering::Relaxed)
    }

    fn is_stalled(&self) -> bool {
        self.is_dead() || self.step_age().is_some_and(|age| age > self.longest_step)
    }

    fn step_age(&self) -> Option<Duration> {
        let last = self.last_step.load(Ordering::Relaxed);
        (last != Self::IDLE).then(|| Duration::from_millis(self.now().saturating_sub(last)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whoever_waits_for_a_loop_that_dies_is_told() {
        let queue = Queue::new(Limits { requests: 4, tokens: 4 });
        let waiting = Waiting { queue, is_open: true, is_running: false, seconds_per_request: None };
        let shared = Shared {
            waiting: Mutex::new(waiting),
            arrival: Condvar::new(),
            next_id: AtomicU64::new(0),
            pulse: Pulse::new(Duration::from_secs(1)),
        };
        let engine = Engine(Arc::new(shared));
        let mut generation = engine.submit(Vec::new()).unwrap();
        engine.0.die();
        assert!(matches!(generation.next().await, Update::Failed(Error::Unavailable(Unavailable::Dead))));
        assert!(matches!(engine.submit(Vec::new()), Err(Error::Unavailable(Unavailable::Dead))));
        assert!(engine.is_dead() && engine.is_idle() && engine.health() == Health::Stalled);
    }

    #[test]
    fn a_loop_that_takes_no_step_for_long_or_has_died_is_stalled() {
        let longest = Duration::from_secs(60);
        let pulse = Pulse { began: Instant::now() - longest - Duration::from_secs(1), ..Pulse::new(longest) };
        assert!(!pulse.is_stalled());
        pulse.last_step.store(0, Ordering::Relaxed);
        assert!(pulse.is_stalled() && pulse.step_age() > Some(longest));
        pulse.beat();
        assert!(!pulse.is_stalled());
        pulse.rest();
        pulse.is_dead.store(true, Ordering::Relaxed);
        assert!(pulse.is_stalled());
    }
}
