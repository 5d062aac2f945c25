//! The operations, as one worker asks for them.

mod gathering;
mod scoped;

use std::{ops::RangeInclusive, sync::Arc, time::Duration};

use bytes::Bytes;

use self::gathering::{Gathering, Started};
use crate::{
    error::{Error, Rejection},
    idempotency::{Order, Scope, WriteId},
    lane::Owner,
    name::{Bucket, RESERVED, check_key},
    operation::{Action, Bounded, BucketPage, Outcome, Page, Step, Swapped, TimeToLive},
    state::{Asked, Options, Queues},
};

/// Keys of one call that are read at once, whatever their values' size: at their largest, a few
/// megabytes.
const FEWEST_READS: usize = 4;

/// Keys of one call that are read at once, however small their values.
const MOST_READS: usize = 250;

/// The shortest time to live: what all backends can tell.
const SHORTEST_TTL: Duration = Duration::from_millis(1);

/// The longest time to live, about 100 years: far below where the backends' clocks end.
const LONGEST_TTL: Duration = Duration::from_secs(100 * 31_557_600);

/// Keys in one page of a listing: one short command for the store.
const PAGE_KEYS: usize = 500;

/// Buckets in one page: a step through the index for each.
const PAGE_BUCKETS: usize = 200;

/// Where what concerns no bucket of anybody's is queued.
const OWN: &str = "tally.once";

/// One worker's access to the state. Cheap to clone.
///
/// # Cancel safety
/// Dropping the future of an operation before its batch is sealed withdraws it, certainly not
/// applied. After that it is applied, and its answer is thrown away. On `memory:` there are no batches,
/// and an operation is applied when it is asked for.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
    /// The request whose writes these are, where they are to be applied once.
    scope: Option<Scope>,
    /// Where a request has several operations on their way at a time: those that it is starting.
    gathering: Option<Arc<Gathering>>,
    owner: Owner,
}

/// What all handles of one worker share. Each worker has its own: a count of references that all
/// workers write would be slow.
struct Shared {
    queues: Arc<Queues>,
    options: Options,
}

/// What every operation may fail with: [`Error::Rejected`] for a key or value out of bounds, or
/// whatever became of the batch.
type Answer<T> = Result<T, Error>;

impl Handle {
    pub(crate) fn new(queues: Arc<Queues>, options: Options) -> Self {
        Self {
            shared: Arc::new(Shared { queues, options }),
            scope: None,
            gathering: None,
            owner: Owner::default(),
        }
    }

    /// A handle whose operations are an owner's: see [`Owner`].
    #[must_use]
    pub fn of(self, owner: Owner) -> Self {
        Self { owner, ..self }
    }

    /// The value of a key.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn get(&self, bucket: &Bucket, key: &str) -> Answer<Option<Bytes>> {
        match self.ask(bucket, key, Action::Get).await? {
            Outcome::Value(value) => Ok(value),
            other => Err(mismatch(&other)),
        }
    }

    /// Whether a key exists.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn exists(&self, bucket: &Bucket, key: &str) -> Answer<bool> {
        flag(self.ask(bucket, key, Action::Exists).await?)
    }

    /// Removes some of what has expired, up to a number of entries of each sort.
    pub(crate) async fn sweep(&self, limit: usize) -> Answer<Outcome> {
        self.ask(&Bucket::new(OWN)?, "sweep", Action::Sweep { limit }).await
    }

    /// Sets the value of a key, for ever.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn set(&self, bucket: &Bucket, key: &str, value: Bytes) -> Answer<()> {
        self.set_for(bucket, key, value, None).await
    }

    /// Sets the value of a key, for so long; `None` is for ever. Times are in milliseconds.
    ///
    /// # Errors
    /// [`Rejection::TimeToLive`] for a time out of bounds; else see [`Error`].
    pub async fn set_for(
        &self,
        bucket: &Bucket,
        key: &str,
        value: Bytes,
        ttl: Option<Duration>,
    ) -> Answer<()> {
        done(self.ask(bucket, key, Action::Set { value, ttl }).await?)
    }

    /// Sets the value of a key, and gives the one that it replaced: nobody's change gets lost
    /// between reading and setting.
    ///
    /// # Errors
    /// As [`Handle::set_for`].
    pub async fn get_and_set(
        &self,
        bucket: &Bucket,
        key: &str,
        value: Bytes,
        ttl: Option<Duration>,
    ) -> Answer<Option<Bytes>> {
        match self.ask(bucket, key, Action::GetAndSet { value, ttl }).await? {
            Outcome::Value(before) => Ok(before),
            other => Err(mismatch(&other)),
        }
    }

    /// Sets the value of a key that does not exist; whether it was set.
    ///
    /// # Errors
    /// As [`Handle::set_for`].
    pub async fn set_if_absent(
        &self,
        bucket: &Bucket,
        key: &str,
        value: Bytes,
        ttl: Option<Duration>,
    ) -> Answer<bool> {
        flag(self.ask(bucket, key, Action::SetIfAbsent { value, ttl }).await?)
    }

    /// Gives a key another time to live from now on, or all of it with `None`; whether there is
    /// such a key.
    ///
    /// # Errors
    /// As [`Handle::set_for`].
    pub async fn expire(&self, bucket: &Bucket, key: &str, ttl: Option<Duration>) -> Answer<bool> {
        flag(self.ask(bucket, key, Action::Expire(ttl)).await?)
    }

    /// How long a key is to live.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn time_to_live(&self, bucket: &Bucket, key: &str) -> Answer<TimeToLive> {
        match self.ask(bucket, key, Action::TimeToLive).await? {
            Outcome::TimeToLive(left) => Ok(left),
            other => Err(mismatch(&other)),
        }
    }

    /// Deletes a key; one that does not exist is no error.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn delete(&self, bucket: &Bucket, key: &str) -> Answer<()> {
        done(self.ask(bucket, key, Action::Delete).await?)
    }

    /// Adds to the number a key holds (a missing key counts as 0) and gives the number after.
    ///
    /// # Errors
    /// [`Rejection::NotANumber`] and [`Rejection::Overflow`], with nothing changed; else see
    /// [`Error`].
    pub async fn increment(&self, bucket: &Bucket, key: &str, delta: i64) -> Answer<i64> {
        self.increment_for(bucket, key, delta, None).await
    }

    /// Adds to the number a key holds, as [`Handle::increment`] does. A key that is created lives
    /// for `ttl` from then on, for ever with `None`; one that exists keeps its own time to live.
    ///
    /// # Errors
    /// [`Rejection::TimeToLive`] for a time out of bounds; else as [`Handle::increment`].
    pub async fn increment_for(
        &self,
        bucket: &Bucket,
        key: &str,
        delta: i64,
        ttl: Option<Duration>,
    ) -> Answer<i64> {
        match self.ask(bucket, key, Action::Increment { delta, ttl }).await? {
            Outcome::Count(count) => Ok(count),
            other => Err(mismatch(&other)),
        }
    }

    /// Adds to the number a key holds (a missing key counts as 0), if the number after it lies
    /// within the bounds, both included.
    ///
    /// # Errors
    /// [`Rejection::NotANumber`], with nothing changed; else see [`Error`].
    pub async fn increment_within(
        &self,
        bucket: &Bucket,
        key: &str,
        delta: i64,
        bounds: RangeInclusive<i64>,
    ) -> Answer<Bounded> {
        self.increment_within_for(bucket, key, delta, bounds, None).await
    }

    /// Adds within bounds, as [`Handle::increment_within`] does. A key that is created lives for
    /// `ttl` from then on, for ever with `None`; one that exists keeps its own time to live. An
    /// increment that is refused creates nothing.
    ///
    /// # Errors
    /// [`Rejection::TimeToLive`] for a time out of bounds; else as [`Handle::increment_within`].
    pub async fn increment_within_for(
        &self,
        bucket: &Bucket,
        key: &str,
        delta: i64,
        bounds: RangeInclusive<i64>,
        ttl: Option<Duration>,
    ) -> Answer<Bounded> {
        let (min, max) = bounds.into_inner();
        match self.ask(bucket, key, Action::IncrementWithin { delta, min, max, ttl }).await? {
            Outcome::Bounded(bounded) => Ok(bounded),
            other => Err(mismatch(&other)),
        }
    }

    /// Sets a value if the key still holds what was seen; `None` means it still does not exist.
    /// Values are compared, so a key that was changed and changed back counts as unchanged.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn swap(
        &self,
        bucket: &Bucket,
        key: &str,
        expected: Option<Bytes>,
        value: Bytes,
    ) -> Answer<Swapped> {
        match self.ask(bucket, key, Action::Swap { expected, value }).await? {
            Outcome::Swapped(swapped) => Ok(swapped),
            other => Err(mismatch(&other)),
        }
    }

    /// A page of the bucket's keys that begin with a prefix, after a cursor from the page before.
    ///
    /// # Errors
    /// [`Rejection::Cursor`] for a cursor that is not from this backend; else see [`Error`].
    pub async fn list(&self, bucket: &Bucket, prefix: &str, cursor: Option<&str>) -> Answer<Page> {
        check_cursor(cursor)?;
        if !prefix.is_empty() {
            check_key(prefix)?;
        }
        let (prefix, cursor) = (prefix.into(), cursor.map(Into::into));
        let action = Action::List { prefix, cursor, limit: PAGE_KEYS };
        match wait(self.push_now(bucket, action)?).await? {
            Outcome::Page(page) => Ok(page),
            other => Err(mismatch(&other)),
        }
    }

    /// A page of the names of the buckets that hold keys, after a cursor from the page before. The
    /// host's own buckets (see [`RESERVED`]) are left out. A page may be empty with more to follow.
    ///
    /// # Errors
    /// As [`Handle::list`].
    pub async fn buckets(&self, cursor: Option<&str>) -> Answer<BucketPage> {
        check_cursor(cursor)?;
        let action = Action::Buckets { cursor: cursor.map(Into::into), limit: PAGE_BUCKETS };
        match wait(self.push_now(&Bucket::new(OWN)?, action)?).await? {
            Outcome::Buckets(mut page) => {
                page.buckets.retain(|name| !name.starts_with(RESERVED));
                Ok(page)
            }
            other => Err(mismatch(&other)),
        }
    }

    /// The values of several keys, in the order asked for, up to `limit` bytes in all. Not a
    /// snapshot: each is read by itself.
    ///
    /// Keys are asked for some at a time, as many as fit if the others are like those before, so
    /// that large values are not all held before they are found to be too many.
    ///
    /// # Errors
    /// [`Rejection::ReadTooLarge`]; else see [`Error`], the first one of any key.
    pub async fn get_many(
        &self,
        bucket: &Bucket,
        keys: &[String],
        limit: usize,
    ) -> Answer<Vec<Option<Bytes>>> {
        self.check_keys(keys.len())?;
        let mut values: Vec<Option<Bytes>> = Vec::with_capacity(keys.len());
        let mut bytes = 0_usize;
        let mut rest = keys;
        while !rest.is_empty() {
            let mean =
                bytes.checked_div(values.len()).unwrap_or(self.shared.options.max_value_bytes);
            let fitting = limit.saturating_sub(bytes).checked_div(mean.max(1)).unwrap_or(0);
            let (some, others) =
                rest.split_at(fitting.clamp(FEWEST_READS, MOST_READS).min(rest.len()));
            rest = others;
            let actions = some.iter().map(|key| (key.as_str(), Action::Get)).collect();
            for outcome in self.ask_many(bucket, actions).await? {
                match outcome? {
                    Outcome::Value(value) => {
                        bytes = bytes.saturating_add(value.as_ref().map_or(0, Bytes::len));
                        values.push(value);
                    }
                    other => return Err(mismatch(&other)),
                }
            }
            if bytes > limit {
                return Err(Rejection::ReadTooLarge { limit }.into());
            }
        }
        Ok(values)
    }

    /// Sets several keys; not atomic.
    ///
    /// # Errors
    /// Not applied only when not one of them was; unknown when some were, or may have been.
    pub async fn set_many(&self, bucket: &Bucket, values: Vec<(String, Bytes)>) -> Answer<()> {
        let actions = values
            .iter()
            .map(|(key, value)| (key.as_str(), Action::Set { value: value.clone(), ttl: None }))
            .collect();
        all_done(self.ask_many(bucket, actions).await?)
    }

    /// Deletes several keys; not atomic.
    ///
    /// # Errors
    /// As [`Handle::set_many`].
    pub async fn delete_many(&self, bucket: &Bucket, keys: &[String]) -> Answer<()> {
        let actions = keys.iter().map(|key| (key.as_str(), Action::Delete)).collect();
        all_done(self.ask_many(bucket, actions).await?)
    }

    /// Checks an operation, and applies it.
    async fn ask(&self, bucket: &Bucket, key: &str, action: Action) -> Answer<Outcome> {
        self.check_operation(key, &action)?;
        match &self.scope {
            // In a box, as it would make every operation's future larger, and few have a scope.
            Some(scope) if !action.kind().is_read() => {
                Box::pin(async move {
                    let attempt = scope.begin(bucket, key, &action, self.order())?;
                    self.close_failed(scope, bucket, key, &attempt).await?;
                    let started = self.start().await;
                    let mut sent = self.send(attempt, bucket, key, action);
                    drop(started);
                    let reply = self.finish(scope, &mut sent).await;
                    sent.attempt.settle();
                    reply
                })
                .await
            }
            // In a box for the same reason.
            _ if self.gathering.is_some() => {
                Box::pin(async move {
                    let started = self.start().await;
                    let asked = self.push(bucket, key, action, None)?;
                    drop(started);
                    wait(asked).await
                })
                .await
            }
            _ => wait(self.push(bucket, key, action, None)?).await,
        }
    }

    /// Waits for the other operations that a request starts at the same time, if it may have several on their way.
    async fn start(&self) -> Option<Started> {
        match &self.gathering {
            Some(gathering) => Some(gathering.start().await),
            None => None,
        }
    }

    /// In which order the request begins its writes.
    fn order(&self) -> Order {
        if self.gathering.is_some() { Order::Any } else { Order::Fixed }
    }

    fn push(
        &self,
        bucket: &Bucket,
        key: &str,
        action: Action,
        write: Option<WriteId>,
    ) -> Answer<Asked> {
        let step = Step { bucket: bucket.clone(), key: key.into(), action, write };
        // One of several is put into its queue quietly: the last of them tells.
        self.shared.queues.push(self.owner, step, self.gathering.is_some())
    }

    /// Puts an operation that is on no key into its queue.
    fn push_now(&self, bucket: &Bucket, action: Action) -> Answer<Asked> {
        let step = Step { bucket: bucket.clone(), key: "".into(), action, write: None };
        self.shared.queues.push(self.owner, step, false)
    }

    /// Asks for several operations at once; all are checked before any is queued.
    async fn ask_many(
        &self,
        bucket: &Bucket,
        actions: Vec<(&str, Action)>,
    ) -> Answer<Vec<Answer<Outcome>>> {
        self.check_keys(actions.len())?;
        for (key, action) in &actions {
            self.check_operation(key, action)?;
        }
        let mut outcomes = Vec::with_capacity(actions.len());
        let writes = actions.iter().any(|(_, action)| !action.kind().is_read());
        if let Some(scope) = self.scope.as_ref().filter(|_| writes) {
            // All have their positions before the first may fail.
            let begin = |(key, action): &(&str, _)| scope.begin(bucket, key, action, self.order());
            let attempts = actions.iter().map(begin).collect::<Answer<Vec<_>>>()?;
            for (attempt, (key, _)) in attempts.iter().zip(&actions) {
                self.close_failed(scope, bucket, key, attempt).await?;
            }
            let started = self.start().await;
            let mut sent: Vec<_> = attempts
                .into_iter()
                .zip(actions)
                .map(|(attempt, (key, action))| self.send(attempt, bucket, key, action))
                .collect();
            drop(started);
            for sent in &mut sent {
                outcomes.push(self.finish(scope, sent).await);
            }
            // Where one fails the call does. Asked again, it is to be the same writes.
            if sent.iter().all(|sent| sent.attempt.is_recorded()) {
                sent.into_iter().for_each(|sent| sent.attempt.settle());
            }
            return Ok(outcomes);
        }
        let started = self.start().await;
        let asked: Vec<_> =
            actions.into_iter().map(|(key, action)| self.push(bucket, key, action, None)).collect();
        drop(started);
        for asked in asked {
            outcomes.push(match asked {
                Ok(asked) => wait(asked).await,
                Err(error) => Err(error),
            });
        }
        Ok(outcomes)
    }

    fn check_keys(&self, actual: usize) -> Result<(), Rejection> {
        let limit = self.shared.options.max_keys;
        if actual > limit { Err(Rejection::TooManyKeys { actual, limit }) } else { Ok(()) }
    }

    fn check_operation(&self, key: &str, action: &Action) -> Result<(), Rejection> {
        check_key(key)?;
        let limit = self.shared.options.max_value_bytes;
        if let Some(actual) = action.value().map(Bytes::len).filter(|actual| *actual > limit) {
            return Err(Rejection::ValueTooLarge { actual, limit });
        }
        let bounds = SHORTEST_TTL..=LONGEST_TTL;
        if action.ttl().is_some_and(|ttl| !bounds.contains(&ttl)) {
            return Err(Rejection::TimeToLive);
        }
        Ok(())
    }
}

/// A cursor is a key, a bucket's name or a number: what could be none of them goes to no backend.
fn check_cursor(cursor: Option<&str>) -> Result<(), Rejection> {
    match cursor.map(check_key) {
        Some(Err(_)) => Err(Rejection::Cursor),
        _ => Ok(()),
    }
}

async fn wait(asked: Asked) -> Answer<Outcome> {
    match asked {
        Asked::Answered(reply) => {
            // A guest that asks without end lets others on its worker go on, as if it had waited.
            tokio::task::consume_budget().await;
            reply
        }
        // The sender is dropped without an answer only if the lane's loop died in the middle of it.
        Asked::Queued(answer) => answer
            .await
            .unwrap_or_else(|_| Err(Error::unknown("the store's connection task ended"))),
    }
}

fn done(outcome: Outcome) -> Answer<()> {
    match outcome {
        Outcome::Done => Ok(()),
        other => Err(mismatch(&other)),
    }
}

fn flag(outcome: Outcome) -> Answer<bool> {
    match outcome {
        Outcome::Flag(flag) => Ok(flag),
        other => Err(mismatch(&other)),
    }
}

fn all_done(outcomes: Vec<Answer<Outcome>>) -> Answer<()> {
    let total = outcomes.len();
    let mut applied = 0_usize;
    let mut failure = None;
    for outcome in outcomes {
        match outcome.and_then(done) {
            Ok(()) => applied = applied.saturating_add(1),
            Err(error @ Error::Unknown(_)) => failure = Some(error),
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    match failure {
        None => Ok(()),
        Some(error) if applied == 0 => Err(error),
        Some(error) => Err(Error::unknown(format!(
            "{applied} of {total} keys were written; the rest: {error}"
        ))),
    }
}

/// A backend answered something that is no answer to what was asked: a bug, and its effect is
/// unknown.
fn mismatch(outcome: &Outcome) -> Error {
    Error::unknown(format!("the backend answered something else: {outcome:?}"))
}
