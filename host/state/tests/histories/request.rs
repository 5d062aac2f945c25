//! A request with a key: a handler that runs until the request is answered, here or on another
//! host, alone or twice at once, and whose writes are to be applied once.

use std::{
    collections::BTreeSet,
    future::poll_fn,
    pin::pin,
    sync::Mutex,
    task::Poll,
    time::{Duration, Instant},
};

use fastrand::Rng;
use futures_util::future::join_all;
use tally_state::{Bucket, Digest, Handle, Scope};

use crate::{
    client::{Client, outcome},
    draw::{Call, KEYS, otherwise},
    history::{Answer, Clock, Event, Operation, Outcome},
};

/// Longest time until a request is answered. Only a broken test or program gets near it.
const PATIENCE: Duration = Duration::from_secs(120);

/// Longest pause of a client before it sends a request again.
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// Whoever runs handlers of requests, and serves clients without a key.
pub(crate) trait Host: Send + Sync {
    type Run: Run;

    /// Whether handlers make all their calls at once.
    const AT_ONCE: bool = false;

    /// Access without a key.
    fn plain(&self) -> &Handle;

    /// Begins a run of a handler for the request of this name.
    fn begin(&self, name: Digest, seed: u64) -> Self::Run;
}

/// One run of a handler.
pub(crate) trait Run: Send + Sync {
    /// An operation, or a batch of settings or of deletions.
    fn call(
        &self,
        bucket: &Bucket,
        parts: &[(usize, Operation)],
    ) -> impl Future<Output = Outcome> + Send;
}

impl Host for Handle {
    type Run = Self;

    fn plain(&self) -> &Handle {
        self
    }

    fn begin(&self, name: Digest, _: u64) -> Self {
        self.scoped(&Scope::new(name, [7; 16]))
    }
}

impl Run for Handle {
    async fn call(&self, bucket: &Bucket, parts: &[(usize, Operation)]) -> Outcome {
        if let [(key, operation)] = parts {
            return self.ask(bucket, KEYS[*key], operation).await;
        }
        let keys = || parts.iter().map(|(key, _)| KEYS[*key].to_owned());
        let values: Vec<_> = parts
            .iter()
            .filter_map(|(_, operation)| match operation {
                Operation::Set(value) => Some(value.clone()),
                _ => None,
            })
            .collect();
        let done = if values.is_empty() {
            self.delete_many(bucket, &keys().collect::<Vec<_>>()).await
        } else {
            self.set_many(bucket, keys().zip(values).collect()).await
        };
        outcome(done.map(|()| Answer::Done))
    }
}

/// A host whose handlers lose patience: by chance a call is dropped after it was asked once or a
/// few times whether it is done, in whatever state it is then. The handler knows nothing of it.
pub(crate) struct Impatient(pub(crate) Handle);

pub(crate) struct ImpatientRun {
    handle: Handle,
    random: Mutex<Rng>,
}

impl Host for Impatient {
    type Run = ImpatientRun;

    fn plain(&self) -> &Handle {
        &self.0
    }

    fn begin(&self, name: Digest, seed: u64) -> ImpatientRun {
        ImpatientRun::new(self.0.begin(name, seed), seed)
    }
}

/// The same for handlers that make all their calls at once, each time in another order.
pub(crate) struct AtOnce(pub(crate) Handle);

impl Host for AtOnce {
    type Run = ImpatientRun;

    const AT_ONCE: bool = true;

    fn plain(&self) -> &Handle {
        &self.0
    }

    fn begin(&self, name: Digest, seed: u64) -> ImpatientRun {
        ImpatientRun::new(self.0.begin(name, seed).concurrent(), seed)
    }
}

impl ImpatientRun {
    pub(crate) fn new(handle: Handle, seed: u64) -> Self {
        Self { handle, random: Mutex::new(Rng::with_seed(seed)) }
    }
}

impl Run for ImpatientRun {
    async fn call(&self, bucket: &Bucket, parts: &[(usize, Operation)]) -> Outcome {
        let (patience, pause) = {
            let mut random = self.random.lock().unwrap();
            (random.u8(..3), Duration::from_micros(random.u64(..1_500)))
        };
        let mut asked = pin!(self.handle.call(bucket, parts));
        if patience == 0 {
            spend().await;
            if let Poll::Ready(outcome) =
                poll_fn(|context| Poll::Ready(asked.as_mut().poll(context))).await
            {
                return outcome;
            }
            // Some are dropped in the queue, some while they are applied, and some after.
            tokio::time::sleep(pause).await;
            return Outcome::Unknown;
        }
        asked.await
    }
}

/// Spends what this task may do before it lets others go on. What is answered at once is then done
/// without its answer being given.
async fn spend() {
    while tokio::task::coop::has_budget_remaining() {
        tokio::task::consume_budget().await;
    }
}

/// What requests came to, to see that a test tests something.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Course {
    pub(crate) requests: usize,
    /// Runs of handlers.
    pub(crate) runs: usize,
    /// Runs beside another of the same request.
    pub(crate) beside: usize,
    /// Calls that a handler made again after a failure.
    pub(crate) again: usize,
    /// Calls that a handler went past after a failure.
    pub(crate) passed: usize,
    /// Operations that nobody was ever told of.
    pub(crate) untold: usize,
}

/// What is known of a call.
#[derive(Clone, Default)]
struct Known {
    /// When it was first tried.
    start: Option<u64>,
    /// The first answer, and when it came.
    answer: Option<(Answer, u64)>,
}

/// A client who sends requests with a key, one after the other.
pub(crate) struct Requester<'a, H> {
    pub(crate) hosts: &'a [H],
    pub(crate) bucket: &'a Bucket,
    pub(crate) clock: &'a Clock,
    pub(crate) client: usize,
    pub(crate) course: &'a Mutex<Course>,
}

impl<H: Host> Requester<'_, H> {
    /// Sends a request until it is answered; gives what there is to be known of each operation, by
    /// its key.
    ///
    /// An operation lasts from when it is first tried to its first answer: it has happened then,
    /// and no later run may change that.
    pub(crate) async fn send(
        &self,
        program: &[Call],
        random: &mut Rng,
    ) -> Result<Vec<(usize, Event)>, String> {
        let request = random.u64(..);
        let name = (u128::from(request) << 64 | u128::from(random.u64(..))).to_be_bytes();
        let known = Mutex::new(vec![Known::default(); program.len()]);
        let began = Instant::now();
        let mut pause = Duration::from_millis(1);
        self.note(|course| course.requests += 1);
        loop {
            let runs = 1 + usize::from(random.u8(..4) == 0);
            self.note(|course| {
                course.runs += runs;
                course.beside += runs - 1;
            });
            let runs = (0..runs).map(|_| {
                let host = &self.hosts[random.usize(..self.hosts.len())];
                let (run, random) = (host.begin(name, random.u64(..)), random.fork());
                let known = &known;
                async move {
                    match H::AT_ONCE {
                        false => self.run(run, program, known, random).await,
                        true => self.run_at_once(run, program, known, random).await,
                    }
                }
            });
            let runs: Vec<_> = runs.collect();
            let mut is_answered = false;
            for ended in join_all(runs).await {
                is_answered |= ended?;
            }
            // What a client is never told it asks for again.
            let is_lost = random.u8(..3) == 0;
            if is_answered && !is_lost {
                break;
            }
            if began.elapsed() > PATIENCE {
                let known: Vec<_> =
                    known.lock().unwrap().iter().map(|known| known.answer.clone()).collect();
                return Err(format!("no answer within {PATIENCE:?} to {program:?}: {known:?}"));
            }
            if !is_answered {
                pause = (pause * 2).min(LONGEST_PAUSE);
                tokio::time::sleep(pause).await;
            }
        }
        let known = known.into_inner().unwrap();
        Ok(self.events(request, program, &known))
    }

    fn events(&self, request: u64, program: &[Call], known: &[Known]) -> Vec<(usize, Event)> {
        let mut events = Vec::new();
        for (call, known) in program.iter().zip(known) {
            let start = known.start.expect("each call of an answered request was tried");
            let (outcome, end) = match &known.answer {
                Some((answer, end)) => (Outcome::Answered(answer.clone()), *end),
                None => (Outcome::Unknown, self.clock.now()),
            };
            if known.answer.is_none() {
                self.note(|course| course.untold += call.len());
            }
            for (key, operation) in call {
                let (operation, outcome) = (operation.clone(), outcome.clone());
                // What a request makes at once happens in any order.
                let request = (!H::AT_ONCE).then_some(request);
                let client = self.client;
                events.push((*key, Event { client, request, operation, outcome, start, end }));
            }
        }
        events
    }

    /// Runs the handler once; gives whether it comes to its end knowing of each call what became of
    /// it, or having gone past it for good.
    async fn run<R: Run>(
        &self,
        run: R,
        program: &[Call],
        known: &Mutex<Vec<Known>>,
        mut random: Rng,
    ) -> Result<bool, String> {
        let mut failed = Vec::new();
        // Keys that were written, and by which call: what failed before on them is closed.
        let mut closed = BTreeSet::new();
        for (place, call) in program.iter().enumerate() {
            // What is recorded is what counts, whatever is asked for then.
            let is_known = known.lock().unwrap()[place].answer.is_some();
            let varied = is_known && random.u8(..3) == 0;
            let asked = if varied { otherwise(call, place) } else { call.clone() };
            loop {
                known.lock().unwrap()[place].start.get_or_insert_with(|| self.clock.now());
                let outcome = run.call(self.bucket, &asked).await;
                if let Outcome::Answered(answer) = outcome {
                    self.take(&mut known.lock().unwrap()[place], answer, call)?;
                    closed.extend(call.iter().map(|(key, _)| (*key, place)));
                    break;
                }
                // A store that cannot be reached refuses at once.
                tokio::time::sleep(Duration::from_millis(random.u64(..8))).await;
                match random.u8(..8) {
                    0..4 => self.note(|course| course.again += 1),
                    4..7 => {
                        self.note(|course| course.passed += 1);
                        failed.push(place);
                        break;
                    }
                    _ => return Ok(false),
                }
            }
        }
        Ok(failed.into_iter().rev().all(|place| {
            let call = &program[place];
            let is_closed = |(key, _): &(usize, Operation)| {
                closed.range((*key, place)..=(*key, usize::MAX)).next().is_some()
            };
            // One of several keys may be closed for good: then the call can only fail.
            let is_past = call.iter().any(is_closed);
            if is_past {
                closed.extend(call.iter().map(|(key, _)| (*key, place)));
            }
            is_past
        }))
    }

    /// Runs the handler once, all its calls at once and in any order; gives whether it knows what became of each.
    async fn run_at_once<R: Run>(
        &self,
        run: R,
        program: &[Call],
        known: &Mutex<Vec<Known>>,
        mut random: Rng,
    ) -> Result<bool, String> {
        let mut places: Vec<usize> = (0..program.len()).collect();
        random.shuffle(&mut places);
        let calls: Vec<_> = places
            .into_iter()
            .map(|place| self.call_again(&run, place, &program[place], known, random.fork()))
            .collect();
        let running = join_all(calls);
        // Some runs end in the middle of all of it.
        let longest = Duration::from_micros(random.u64(..3_000));
        if random.u8(..4) == 0 {
            return match tokio::time::timeout(longest, running).await {
                Ok(ended) => all(ended),
                Err(_) => Ok(false),
            };
        }
        all(running.await)
    }

    /// Makes one of many calls until it is answered; gives whether it was.
    async fn call_again<R: Run>(
        &self,
        run: &R,
        place: usize,
        call: &Call,
        known: &Mutex<Vec<Known>>,
        mut random: Rng,
    ) -> Result<bool, String> {
        loop {
            let is_known = {
                let known = &mut known.lock().unwrap()[place];
                known.start.get_or_insert_with(|| self.clock.now());
                known.answer.is_some()
            };
            // What is recorded is what counts, whatever value is set then.
            let varied = is_known && !call.iter().any(|(_, part)| part.adds());
            let asked = if varied { otherwise(call, place) } else { call.clone() };
            if let Outcome::Answered(answer) = run.call(self.bucket, &asked).await {
                self.take(&mut known.lock().unwrap()[place], answer, call)?;
                return Ok(true);
            }
            tokio::time::sleep(Duration::from_millis(random.u64(..8))).await;
            if random.u8(..8) == 0 {
                return Ok(false);
            }
            self.note(|course| course.again += 1);
        }
    }

    /// Takes note of an answer, which is that of every run that gets one.
    fn take(&self, known: &mut Known, answer: Answer, call: &Call) -> Result<(), String> {
        match &known.answer {
            None => known.answer = Some((answer, self.clock.now())),
            Some((before, _)) if *before == answer => {}
            Some((before, _)) => {
                let client = self.client;
                return Err(format!(
                    "client {client} asked for {call:?} and was answered {before:?}, then {answer:?}"
                ));
            }
        }
        Ok(())
    }

    fn note(&self, note: impl FnOnce(&mut Course)) {
        note(&mut self.course.lock().unwrap());
    }
}

/// Whether all calls were answered.
fn all(ended: Vec<Result<bool, String>>) -> Result<bool, String> {
    ended.into_iter().try_fold(true, |all, one| one.map(|one| all && one))
}
