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
//! `rounds` sorts a batch, `statement`, `records`, `buckets` and `transaction` hold the SQL, and
//! `target` connects; here is what is sent when, and what an answer means.

mod buckets;
mod failure;
mod records;
mod rounds;
mod servers;
mod session;
mod setup;
mod statement;
mod target;
mod transaction;

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures_util::future::join_all;
use tokio_postgres::Client;

use self::{
    failure::Failure,
    rounds::{Done, Placed, Round, by_key, of_several_keys, rounds, with, without},
    session::Guard,
    statement::Statements,
    target::Target,
};
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
        let prepared = prepared.map_err(|unconnected| unconnected.explain(explain));
        let client = match prepared {
            Err(OpenError::Away(_)) if options.may_be_away => {
                let description = Description::away("postgres", location.clone());
                return Ok((Self::of(target, options), description));
            }
            prepared => prepared?,
        };
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
        Ok((Self::of(target, options), description))
    }

    fn of(target: Target, options: &Options) -> Self {
        Self {
            target: Arc::new(target),
            window: options.idempotency_window,
            sweep_every: options.sweep_every,
        }
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

/// What is wrong with a URL, for fuzzing.
#[cfg(test)]
pub(crate) fn fuzz_url(url: &str, options: &Options) -> Option<String> {
    // Files that a URL names, and the system's authorities, are not read.
    match url.contains("ssl") {
        true => None,
        false => target::Target::parse(url, options).err().map(|error| error.to_string()),
    }
}
