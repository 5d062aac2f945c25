//! `postgres://`: one table in a PostgreSQL database.
//!
//! Steps of one kind on different keys are one statement from arrays, in a transaction of its own;
//! the statements of a batch travel together. A hot counter so costs one round trip and one commit
//! per batch.
//!
//! What keeps it exact: each statement either commits or certainly does not; an error of the
//! connection itself leaves only the statements unknown that had been sent and not answered.
//! Statements take row locks in one global order of keys, so that hosts sharing a database do not
//! deadlock. Time limits are set in the session, as dropping a future does not stop the server.
//!
//! Steps that no single statement does share a transaction with all others on their keys, and so do
//! several steps on one key: it locks the keys' rows, applies the steps here, and writes the result.
//!
//! `statement`, `records`, `buckets` and `transaction` hold the SQL and `target` connects; here is what is sent when, and
//! what an answer means.

mod buckets;
mod failure;
mod records;
mod session;
mod setup;
mod statement;
mod target;
mod transaction;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use futures_util::future::join_all;
use tokio_postgres::Client;

use self::{failure::Failure, session::Guard, statement::Statements, target::Target};
use crate::{
    backend::{Connection, Description, Role, all_failed},
    error::{Error, OpenError, Unconnected},
    operation::{Action, Kind, Outcome, Step},
    plan::Reply,
    state::Options,
};

/// How often a statement is tried that PostgreSQL rolled back for a deadlock or a serialization
/// failure. Each rollback is certain, so trying again cannot count twice.
const TRIES: u32 = 4;

/// The longest random pause before trying again; long enough for the other side to commit.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// A PostgreSQL database.
#[derive(Clone)]
pub(crate) struct Postgres {
    target: Arc<Target>,
    /// How long records of requests are kept.
    window: Duration,
    /// How often what has expired is removed.
    sweep_every: Duration,
}

impl Postgres {
    /// Reads the URL, connects once, creates the table, and asks the server what it guarantees.
    pub(crate) async fn open(
        url: &str,
        options: &Options,
    ) -> Result<(Self, Description), OpenError> {
        let target = Target::parse(url, options)?;
        let location = target.location();
        let explain = |reason| format!("cannot use PostgreSQL at {location}: {reason}");
        // Some connections and a dozen exchanges.
        let limit = options.connect_timeout.saturating_mul(4);
        let preparing = setup::prepare(&target, options.read_only);
        let prepared = tokio::time::timeout(limit, preparing).await.unwrap_or_else(|_| {
            Err(Unconnected::passing(format!("it did not answer within {limit:?}")))
        });
        let client = prepared.map_err(|unconnected| unconnected.explain(explain))?;
        let warning = statement::durability_warning(&client)
            .await
            .map_err(|error| setup::refused(&error).explain(explain))?;
        let description = Description {
            backend: "postgres",
            location: location.clone(),
            guarantee: String::from(
                "every acknowledged write is committed (synchronous_commit on)",
            ),
            warning,
        };
        let postgres = Self {
            target: Arc::new(target),
            window: options.idempotency_window,
            sweep_every: options.sweep_every,
        };
        Ok((postgres, description))
    }

    /// A connection for one lane, made when first used.
    pub(crate) fn connection(&self, role: Role) -> PostgresConnection {
        let Self { target, window, sweep_every } = self;
        let (target, window, sweep_every) = (Arc::clone(target), *window, *sweep_every);
        PostgresConnection { target, role, window, sweep_every, live: None }
    }
}

/// One lane's connection.
pub(crate) struct PostgresConnection {
    target: Arc<Target>,
    role: Role,
    window: Duration,
    sweep_every: Duration,
    /// Taken while a batch is on its way: if that is given up, so is the connection.
    live: Option<Live>,
}

struct Live {
    client: Client,
    statements: Statements,
    /// Ends a time in which rows are hardly waited for.
    patience: String,
    guard: Guard,
}

impl Connection for PostgresConnection {
    fn is_ready(&self) -> bool {
        self.live.as_ref().is_some_and(|live| !live.client.is_closed())
    }

    async fn connect(&mut self) -> Result<(), Error> {
        self.live = None;
        let connected = self.target.connect(self.role).await.map_err(|unconnected| {
            Error::not_applied(format!("cannot connect to PostgreSQL: {}", unconnected.reason))
        });
        self.live = Some(connected?);
        Ok(())
    }

    async fn check(&mut self) -> Result<(), Error> {
        let Some(mut live) = self.live.take() else { return Ok(()) };
        live.guard.is_busy = true;
        let checked = session::check(&live.client, self.target.checked_as(self.role)).await;
        live.guard.is_busy = false;
        if !checked.as_ref().is_err_and(Failure::ends_session) {
            self.live = Some(live);
        }
        checked.map_err(Failure::into_error)
    }

    async fn apply(&mut self, steps: &[Step]) -> Vec<Reply> {
        let unsent = Error::not_applied("the connection to PostgreSQL ended before it was sent");
        let Some(mut live) = self.live.take().filter(|live| !live.client.is_closed()) else {
            return all_failed(steps, &unsent);
        };
        live.guard.is_busy = true;
        let mut replies: Vec<Option<Reply>> = vec![None; steps.len()];
        let mut usable = true;
        for round in rounds(steps) {
            let answers = live.round(round, self.window, self.sweep_every).await;
            let unread = answers.iter().find_map(|(_, answer)| match answer {
                Err(Failure::Unread(error)) => Some(error.clone()),
                _ => None,
            });
            for (index, answer) in answers {
                let reply = match (answer, &unread) {
                    (Err(Failure::Broken(Error::Unknown(_))), Some(unread)) => Err(unread.clone()),
                    (answer, _) => answer.map_err(|failure| {
                        usable &= !failure.ends_session();
                        failure.into_error()
                    }),
                };
                if let Some(place) = replies.get_mut(index) {
                    *place = Some(reply);
                }
            }
            usable &= !live.client.is_closed();
            if !usable {
                break;
            }
        }
        live.guard.is_busy = false;
        if usable {
            self.live = Some(live);
        }
        replies.into_iter().map(|reply| reply.unwrap_or_else(|| Err(unsent.clone()))).collect()
    }
}

/// A step and its place in the batch.
type Placed<'a> = (usize, &'a Step);

/// Steps that are sent together.
#[derive(Debug, PartialEq, Eq)]
enum Round<'a> {
    /// Each key occurs once, so order means nothing. Sorted by bucket and key, the global order in
    /// which locks are taken.
    Statements(Vec<Placed<'a>>),
    /// In order.
    Transaction(Vec<Placed<'a>>),
}

/// Splits a batch into rounds that keep the order of each key. Nearly always there is one. Keys with
/// a step that takes a transaction, or with several steps of which one writes, have all their steps in
/// one transaction, and so one commit.
fn rounds(steps: &[Step]) -> Vec<Round<'_>> {
    let mut keys: HashMap<(&str, &str), (usize, bool)> = HashMap::with_capacity(steps.len());
    for step in steps {
        let (count, takes) = keys.entry(statement::name(step)).or_default();
        *count = count.saturating_add(1);
        *takes |= takes_transaction(step) || (*count > 1 && !step.action.kind().is_read());
    }
    // A write before a read of its key.
    let mut written: HashSet<(&str, &str)> = HashSet::new();
    for step in steps {
        let name = statement::name(step);
        if !step.action.kind().is_read() {
            written.insert(name);
        } else if written.contains(&name)
            && let Some((_, takes)) = keys.get_mut(&name)
        {
            *takes = true;
        }
    }
    let mut rounds: Vec<Vec<Placed<'_>>> = Vec::new();
    let mut transaction = Vec::new();
    let mut seen: HashMap<(&str, &str), usize> = HashMap::new();
    for (index, step) in steps.iter().enumerate() {
        let name = statement::name(step);
        if keys.get(&name).is_some_and(|(_, takes)| *takes) && is_of_key(step) {
            transaction.push((index, step));
            continue;
        }
        let round = seen.entry(name).or_insert(0);
        match rounds.get_mut(*round) {
            Some(places) => places.push((index, step)),
            None => rounds.push(vec![(index, step)]),
        }
        *round = round.saturating_add(1);
    }
    for round in &mut rounds {
        round.sort_unstable_by_key(|(_, step)| statement::name(step));
    }
    let transaction = (!transaction.is_empty()).then_some(Round::Transaction(transaction));
    rounds.into_iter().map(Round::Statements).chain(transaction).collect()
}

/// Whether a step concerns a key's value.
fn is_of_key(step: &Step) -> bool {
    !matches!(
        step.action.kind(),
        Kind::List | Kind::Buckets | Kind::LoadResponse | Kind::StoreResponse | Kind::Sweep
    )
}

/// Whether a step takes more than a statement of its kind.
fn takes_transaction(step: &Step) -> bool {
    match &step.action {
        Action::GetAndSet { .. }
        | Action::SetIfAbsent { .. }
        | Action::IncrementWithin { .. }
        | Action::Swap { .. }
        | Action::Expire(_)
        | Action::Forgo => true,
        Action::Set { .. } | Action::Delete | Action::Increment { .. } => step.write.is_some(),
        // What they add up to says whether each of them stays within the range if all have one sign.
        Action::Increments(increments) => {
            let mut deltas = increments.members.iter().map(|member| member.delta);
            !deltas.clone().all(|delta| delta >= 0) && !deltas.all(|delta| delta <= 0)
        }
        _ => false,
    }
}

type Answer = Result<Outcome, Failure>;

/// Answers, with the places of their steps.
type Answers = Vec<(usize, Answer)>;

impl Live {
    async fn round(&self, round: Round<'_>, window: Duration, sweep_every: Duration) -> Answers {
        let steps = match round {
            Round::Statements(steps) => steps,
            Round::Transaction(steps) => return self.transaction(steps, window).await,
        };
        let of = |kinds: &[Kind]| -> Vec<Placed<'_>> {
            steps.iter().filter(|(_, step)| kinds.contains(&step.action.kind())).copied().collect()
        };
        let (once, increments): (Vec<_>, Vec<_>) = of(&[Kind::Increment])
            .into_iter()
            .partition(|(_, step)| matches!(step.action, Action::Increments(_)));
        let mut groups = vec![
            of(&[Kind::Get, Kind::Exists, Kind::TimeToLive]),
            increments,
            once,
            of(&[Kind::Set]),
            of(&[Kind::Delete]),
            of(&[Kind::LoadResponse]),
            of(&[Kind::StoreResponse]),
        ];
        let alone = of(&[Kind::List, Kind::Buckets, Kind::Sweep]);
        groups.extend(alone.into_iter().map(|step| vec![step]));
        groups.retain(|group| !group.is_empty());
        let (mut answers, mut left) = (Vec::new(), Vec::new());
        let groups = groups.into_iter().map(|group| self.group(group, window, sweep_every));
        for group in join_all(groups).await {
            for (placed, done) in group {
                match done {
                    Done::All(answer) => answers.push((placed.0, answer)),
                    // Its row holds no number, has no room for the sum, or has expired, or the writes
                    // are recorded: a transaction finds out, and does what is to be done.
                    Done::Nothing => left.push((placed, Vec::new())),
                    Done::Some(counts) => left.push((placed, counts)),
                }
            }
        }
        if !left.is_empty() {
            answers.extend(self.rest(left, window).await);
        }
        answers
    }

    /// Does in a transaction what statements have left of steps.
    async fn rest(&self, left: Vec<(Placed<'_>, Vec<Option<i64>>)>, window: Duration) -> Answers {
        let (placed, counts): (Vec<Placed<'_>>, Vec<_>) = left.into_iter().unzip();
        let steps: Vec<Step> =
            placed.iter().zip(&counts).map(|((_, step), counts)| without(step, counts)).collect();
        let steps = steps.iter().enumerate().collect();
        let mut rest = HashMap::new();
        rest.extend(self.transaction(steps, window).await);
        let placed = placed.into_iter().zip(counts).enumerate();
        placed
            .map(|(place, ((index, _), counts))| {
                let gone = || Err(Failure::Final(Error::unknown("the transaction lost a step")));
                (index, with(counts, rest.remove(&place).unwrap_or_else(gone)))
            })
            .collect()
    }

    /// Runs the statement of steps of one kind; a failure of the statement is the failure of each.
    async fn group<'a>(
        &self,
        steps: Vec<Placed<'a>>,
        window: Duration,
        sweep_every: Duration,
    ) -> Vec<(Placed<'a>, Done)> {
        let mut tries = Tries::default();
        let result = loop {
            let result = self.statement(&steps, window, sweep_every).await;
            if !tries.again(&result).await {
                break result;
            }
        };
        match result {
            Ok(answers) => steps.into_iter().zip(answers).collect(),
            // One row is held; each of the others is no worse for it than it must be.
            Err(Failure::Locked(_)) if steps.len() > 1 => {
                let mut answers = Vec::with_capacity(steps.len());
                self.wait_for_rows(&statement::impatience()).await;
                for step in steps {
                    answers.extend(Box::pin(self.group(vec![step], window, sweep_every)).await);
                }
                self.wait_for_rows(&self.patience).await;
                answers
            }
            Err(failure) => {
                steps.into_iter().map(|step| (step, Done::All(Err(failure.clone())))).collect()
            }
        }
    }

    async fn statement(
        &self,
        steps: &[Placed<'_>],
        window: Duration,
        sweep_every: Duration,
    ) -> Result<Vec<Done>, Failure> {
        let Some((_, first)) = steps.first() else { return Ok(Vec::new()) };
        let (client, statements) = (&self.client, &self.statements);
        let records = &statements.records;
        let answers = match &first.action {
            Action::Get | Action::Exists | Action::TimeToLive => {
                statements.read(client, steps).await?
            }
            Action::Increment { .. } => {
                let counts = statements.increment(client, steps).await?;
                return Ok(counts
                    .into_iter()
                    .map(|count| match count {
                        Some(count) => Done::All(Ok(Outcome::Count(count))),
                        None => Done::Nothing,
                    })
                    .collect());
            }
            Action::Increments(_) => {
                let counts = records.increment(client, steps, window).await?;
                return Ok(counts.into_iter().map(Done::of).collect());
            }
            Action::Set { .. } => statements.set(client, steps).await?,
            Action::Delete => statements.delete(client, steps).await?,
            Action::LoadResponse => records.load(client, steps).await?,
            Action::StoreResponse(_) => records.store(client, steps, window).await?,
            Action::List { prefix, cursor, limit } => {
                let page = statements.list(client, first, prefix, cursor.as_deref(), *limit);
                vec![Ok(Outcome::Page(page.await?))]
            }
            Action::Buckets { cursor, limit } => {
                let page = buckets::page(client, cursor.as_deref(), *limit);
                vec![Ok(Outcome::Buckets(page.await?))]
            }
            Action::Sweep { limit } => {
                let more = statements.sweep(client, *limit).await?;
                let more_records = records.sweep(client, sweep_every, window).await?;
                vec![Ok(Outcome::Swept(more || more_records))]
            }
            _ => return Err(Failure::Final(Error::not_applied("not a step of a statement"))),
        };
        Ok(answers.into_iter().map(Done::All).collect())
    }

    /// Says how long to wait for rows that others hold. Where it fails, the connection is of no use
    /// any more, as the next statement shows.
    async fn wait_for_rows(&self, how_long: &str) {
        if let Err(error) = self.client.batch_execute(how_long).await {
            tracing::debug!(error = %text(&error), "a session's limits cannot be set");
        }
    }

    async fn transaction(&self, steps: Vec<Placed<'_>>, window: Duration) -> Answers {
        let transaction = &self.statements.transaction;
        let mut tries = Tries::default();
        let result = loop {
            let result = transaction.run(&self.client, &steps, window).await;
            if !tries.again(&result).await {
                break result;
            }
        };
        let places = steps.iter().map(|(index, _)| *index);
        match result {
            Ok(answers) => places.zip(answers).collect(),
            Err(Failure::Locked(_)) if of_several_keys(&steps) => {
                let mut answers = Vec::with_capacity(steps.len());
                self.wait_for_rows(&statement::impatience()).await;
                for steps in by_key(steps) {
                    answers.extend(Box::pin(self.transaction(steps, window)).await);
                }
                self.wait_for_rows(&self.patience).await;
                answers
            }
            Err(failure) => places.map(|index| (index, Err(failure.clone()))).collect(),
        }
    }
}

/// What a statement has done of a step.
enum Done {
    All(Answer),
    Nothing,
    /// Of several increments, those that have a number.
    Some(Vec<Option<i64>>),
}

impl Done {
    fn of(counts: Vec<Option<i64>>) -> Self {
        match counts.iter().all(Option::is_some) {
            true => Self::All(with(counts, Ok(Outcome::Each(Vec::new())))),
            false => Self::Some(counts),
        }
    }
}

/// A step without those of its increments that have a number.
fn without(step: &Step, counts: &[Option<i64>]) -> Step {
    let mut step = step.clone();
    if let Action::Increments(increments) = &mut step.action {
        let mut counts = counts.iter();
        increments.members.retain(|_| !matches!(counts.next(), Some(Some(_))));
    }
    step
}

/// An answer to a step some of whose increments have a number already.
fn with(counts: Vec<Option<i64>>, rest: Answer) -> Answer {
    if counts.is_empty() {
        return rest;
    }
    let mut rest = match rest {
        Ok(Outcome::Each(replies)) => replies.into_iter(),
        Ok(other) => return Ok(other),
        // The session shows that it is broken by itself.
        Err(failure) => {
            let left = counts.iter().filter(|count| count.is_none()).count();
            vec![Err(failure.into_error()); left].into_iter()
        }
    };
    let missing = || Err(Error::unknown("the transaction gave no answer for this increment"));
    let each = counts.into_iter().map(|count| match count {
        Some(count) => Ok(Outcome::Count(count)),
        None => rest.next().unwrap_or_else(missing),
    });
    Ok(Outcome::Each(each.collect()))
}

/// Steps of one key after those of another, in their order.
fn by_key(steps: Vec<Placed<'_>>) -> Vec<Vec<Placed<'_>>> {
    let mut groups: BTreeMap<(&str, &str), Vec<Placed<'_>>> = BTreeMap::new();
    for placed in steps {
        groups.entry(statement::name(placed.1)).or_default().push(placed);
    }
    groups.into_values().collect()
}

fn of_several_keys(steps: &[Placed<'_>]) -> bool {
    let mut names = steps.iter().map(|(_, step)| statement::name(step));
    let first = names.next();
    names.any(|name| Some(name) != first)
}

/// How often something was tried.
#[derive(Default)]
struct Tries(u32);

impl Tries {
    /// Whether to try again, after a pause: where the server has certainly rolled it back.
    async fn again<T>(&mut self, result: &Result<T, Failure>) -> bool {
        self.0 = self.0.saturating_add(1);
        let again = matches!(result, Err(Failure::Conflict(_))) && self.0 < TRIES;
        if again {
            tokio::time::sleep(RETRY_PAUSE.mul_f32(fastrand::f32())).await;
        }
        again
    }
}

/// An error with its causes, or the server's own words and code. Holds no credentials: neither the
/// client nor the server puts them into messages.
fn text(error: &tokio_postgres::Error) -> String {
    if let Some(answer) = error.as_db_error() {
        return format!("{} (SQLSTATE {})", answer.message(), answer.code().code());
    }
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Bucket;

    fn step(key: &str) -> Step {
        let bucket = Bucket::new("b").unwrap();
        Step { bucket, key: key.into(), action: Action::Get, write: None }
    }

    fn places(steps: &[Step]) -> Vec<(bool, Vec<usize>)> {
        rounds(steps)
            .iter()
            .map(|round| match round {
                Round::Statements(steps) => (false, steps),
                Round::Transaction(steps) => (true, steps),
            })
            .map(|(transaction, steps)| (transaction, steps.iter().map(|(i, _)| *i).collect()))
            .collect()
    }

    #[test]
    fn a_key_occurs_once_a_round_and_keeps_its_order() {
        let steps = ["b", "a", "b", "b", "c"].map(step);
        let expected = [(false, vec![1, 0, 4]), (false, vec![2]), (false, vec![3])];
        assert_eq!(places(&steps), expected, "and each round is sorted by key");
    }

    #[test]
    fn all_steps_of_a_key_share_the_transaction_that_one_of_them_takes() {
        let mut steps = ["b", "a", "b", "c"].map(step);
        steps[2].action = Action::Expire(None);
        assert_eq!(places(&steps), [(false, vec![1, 3]), (true, vec![0, 2])]);
        steps[3].action = Action::Delete;
        assert_eq!(places(&steps), [(false, vec![1, 3]), (true, vec![0, 2])]);
        let bucket = Bucket::new("b").unwrap();
        steps[3].write = Some(crate::Scope::new([0; 16], [0; 16]).response_id(&bucket));
        assert_eq!(places(&steps), [(false, vec![1]), (true, vec![0, 2, 3])]);
    }

    #[test]
    fn several_steps_of_a_key_that_write_share_a_transaction() {
        let mut steps = ["a", "b", "a", "c", "c"].map(step);
        assert!(places(&steps).iter().all(|(transaction, _)| !transaction), "all of them read");
        steps[2].action = Action::Increment { delta: 1, ttl: None };
        assert_eq!(places(&steps), [(false, vec![1, 3]), (false, vec![4]), (true, vec![0, 2])]);
        steps.swap(0, 2);
        assert_eq!(places(&steps), [(false, vec![1, 3]), (false, vec![4]), (true, vec![0, 2])]);
    }
}
