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
//! `statement` holds the SQL and `target` connects; here is what is sent when, and what an answer
//! means.

mod statement;
mod target;

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures_util::future::join_all;
use tokio_postgres::{
    Client,
    error::{DbError, Severity, SqlState},
};

use self::{statement::Statements, target::Target};
use crate::{
    Rejection,
    backend::{Connection, Description, all_failed},
    error::{Error, OpenError},
    operation::{Action, Kind, Outcome, Step, Swapped},
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
}

impl Postgres {
    /// Reads the URL, connects once, creates the table, and asks the server what it guarantees.
    pub(crate) async fn open(
        url: &str,
        options: &Options,
    ) -> Result<(Self, Description), OpenError> {
        let target = Target::parse(url, options)?;
        let location = target.location();
        let explain = |reason: String| {
            OpenError::Backend(format!(
                "cannot use PostgreSQL at {location}: {reason}; check that it runs there and that the user, password and database in the store URL are right"
            ))
        };
        let client = target.client().await.map_err(explain)?;
        statement::create_table(&client).await.map_err(|error| explain(text(&error)))?;
        let warning =
            statement::durability_warning(&client).await.map_err(|error| explain(text(&error)))?;
        let description = Description {
            backend: "postgres",
            location: location.clone(),
            guarantee: String::from(
                "every acknowledged write is committed (synchronous_commit on)",
            ),
            warning,
        };
        Ok((Self { target: Arc::new(target) }, description))
    }

    /// A connection for one lane, made when first used.
    pub(crate) fn connection(&self) -> PostgresConnection {
        PostgresConnection { target: Arc::clone(&self.target), live: None }
    }
}

/// One lane's connection, made anew when it is found closed.
pub(crate) struct PostgresConnection {
    target: Arc<Target>,
    /// Taken while a batch is on its way: if that is given up, so is the connection.
    live: Option<Live>,
}

struct Live {
    client: Client,
    statements: Statements,
}

impl Connection for PostgresConnection {
    async fn apply(&mut self, steps: &[Step]) -> Vec<Reply> {
        let live = match self.live.take().filter(|live| !live.client.is_closed()) {
            Some(live) => live,
            None => match self.target.connect().await {
                Ok(live) => live,
                Err(error) => return all_failed(steps, &error),
            },
        };
        let mut replies: Vec<Option<Reply>> = vec![None; steps.len()];
        let mut usable = true;
        for round in rounds(steps) {
            for (index, reply) in live.round(&round).await {
                usable &= !matches!(&reply, Err(Failure::Broken(_)));
                if let Some(place) = replies.get_mut(index) {
                    *place = Some(reply.map_err(Failure::into_error));
                }
            }
            usable &= !live.client.is_closed();
            if !usable {
                break;
            }
        }
        if usable {
            self.live = Some(live);
        }
        let unsent = Error::not_applied("the connection to PostgreSQL ended before it was sent");
        replies.into_iter().map(|reply| reply.unwrap_or_else(|| Err(unsent.clone()))).collect()
    }
}

/// A step and its place in the batch.
type Placed<'a> = (usize, &'a Step);

/// Splits a batch into rounds in which each key occurs once: within a round order means nothing,
/// and the rounds keep it for each key. Nearly always there is one. Each round is sorted by bucket
/// and key, the global order in which locks are taken.
fn rounds(steps: &[Step]) -> Vec<Vec<Placed<'_>>> {
    let mut rounds: Vec<Vec<Placed<'_>>> = Vec::new();
    let mut seen: HashMap<(&str, &str), usize> = HashMap::new();
    for (index, step) in steps.iter().enumerate() {
        let round = seen.entry((step.bucket.as_str(), &*step.key)).or_insert(0);
        match rounds.get_mut(*round) {
            Some(places) => places.push((index, step)),
            None => rounds.push(vec![(index, step)]),
        }
        *round = round.saturating_add(1);
    }
    for round in &mut rounds {
        round.sort_unstable_by_key(|(_, step)| (step.bucket.as_str(), &*step.key));
    }
    rounds
}

/// Why a statement failed.
#[derive(Clone)]
enum Failure {
    /// Rolled back by the server in favour of another session; worth trying again.
    Conflict(Error),
    /// The connection must be made anew: the session has ended, or no longer knows the prepared
    /// statement, or the table changed under it.
    Broken(Error),
    Final(Error),
}

impl Failure {
    fn into_error(self) -> Error {
        match self {
            Self::Conflict(error) | Self::Broken(error) | Self::Final(error) => error,
        }
    }
}

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Self {
        let reason = format!("PostgreSQL: {}", text(&error));
        let Some(state) = error.code() else {
            // No answer of the server's: the connection failed after sending.
            return Self::Broken(Error::unknown(reason));
        };
        let code = state.code();
        if *state == SqlState::T_R_SERIALIZATION_FAILURE
            || *state == SqlState::T_R_DEADLOCK_DETECTED
        {
            return Self::Conflict(Error::not_applied(reason));
        }
        if *state == SqlState::INVALID_SQL_STATEMENT_NAME
            || *state == SqlState::FEATURE_NOT_SUPPORTED
            || *state == SqlState::UNDEFINED_TABLE
        {
            return Self::Broken(Error::not_applied(reason));
        }
        // An error rolls its transaction back. What ends the session, such as a log that cannot be
        // written, may have come after the commit.
        let severity = error.as_db_error().and_then(DbError::parsed_severity);
        let ended = matches!(severity, Some(Severity::Fatal | Severity::Panic));
        if ended || code.starts_with("08") {
            return Self::Broken(Error::unknown(reason));
        }
        Self::Final(match code {
            "40003" => Error::unknown(reason),
            _ => Error::not_applied(reason),
        })
    }
}

type Answer = Result<Outcome, Failure>;

/// Answers, with the places of their steps.
type Answers = Vec<(usize, Answer)>;

impl Live {
    /// Sends the statements of one round together and gathers their answers.
    async fn round(&self, steps: &[Placed<'_>]) -> Answers {
        let of = |kinds: &[Kind]| -> Vec<Placed<'_>> {
            steps.iter().filter(|(_, step)| kinds.contains(&step.action.kind())).copied().collect()
        };
        let mut groups = vec![
            of(&[Kind::Get, Kind::Exists]),
            of(&[Kind::Increment]),
            of(&[Kind::Set]),
            of(&[Kind::Delete]),
        ];
        groups.extend(of(&[Kind::Swap, Kind::List]).into_iter().map(|alone| vec![alone]));
        groups.retain(|group| !group.is_empty());
        join_all(groups.into_iter().map(|group| self.group(group))).await.concat()
    }

    /// Runs the statement of steps of one kind, again where the server has certainly rolled it
    /// back; a failure of the statement is the failure of each.
    async fn group(&self, steps: Vec<Placed<'_>>) -> Answers {
        let mut tries = 1;
        let result = loop {
            match self.statement(&steps).await {
                Err(Failure::Conflict(_)) if tries < TRIES => {
                    tries = tries.saturating_add(1);
                    tokio::time::sleep(RETRY_PAUSE.mul_f32(fastrand::f32())).await;
                }
                result => break result,
            }
        };
        let places = steps.iter().map(|(index, _)| *index);
        match result {
            Ok(answers) => places.zip(answers).collect(),
            Err(failure) => places.map(|index| (index, Err(failure.clone()))).collect(),
        }
    }

    async fn statement(&self, steps: &[Placed<'_>]) -> Result<Vec<Answer>, Failure> {
        let Some((_, first)) = steps.first() else { return Ok(Vec::new()) };
        match first.action.kind() {
            Kind::Get | Kind::Exists => self.statements.read(&self.client, steps).await,
            Kind::Increment => self.increment(steps).await,
            Kind::Set => self.statements.set(&self.client, steps).await,
            Kind::Delete => self.statements.delete(&self.client, steps).await,
            Kind::Swap | Kind::List => Ok(vec![Ok(self.alone(first).await?)]),
        }
    }

    /// One statement for all; then, for those it left out, why.
    async fn increment(&self, steps: &[Placed<'_>]) -> Result<Vec<Answer>, Failure> {
        let counts = self.statements.increment(&self.client, steps).await?;
        let mut answers = Vec::with_capacity(steps.len());
        for (count, (_, step)) in counts.into_iter().zip(steps) {
            answers.push(match count {
                Some(count) => Ok(Outcome::Count(count)),
                // Nothing was changed. Which of the two reasons it was is read afterwards; if
                // another session has meanwhile changed the value, either is a fair answer.
                None => Err(match self.statements.get(&self.client, step).await {
                    Ok(Some(value)) if crate::counter::parse(&value).is_none() => {
                        Failure::Final(Rejection::NotANumber.into())
                    }
                    Ok(_) => Failure::Final(Rejection::Overflow.into()),
                    Err(error) => unread(&error),
                }),
            });
        }
        Ok(answers)
    }

    /// A step whose statement concerns it alone.
    async fn alone(&self, step: &Step) -> Result<Outcome, Failure> {
        match &step.action {
            Action::List { cursor, limit } => {
                let page =
                    self.statements.list(&self.client, step, cursor.as_deref(), *limit).await?;
                Ok(Outcome::Page(page))
            }
            Action::Swap { expected, value } => {
                let swapped =
                    self.statements.swap(&self.client, step, expected.as_deref(), value).await?;
                if swapped {
                    return Ok(Outcome::Swapped(Swapped::Yes));
                }
                let current = self.statements.get(&self.client, step).await;
                let current = current.map_err(|error| unread(&error))?;
                Ok(Outcome::Swapped(Swapped::No(current)))
            }
            _ => Err(Failure::Final(Error::not_applied("not a step of its own"))),
        }
    }
}

/// A write changed nothing, and why could not be read: that is no unknown.
fn unread(error: &tokio_postgres::Error) -> Failure {
    Failure::Broken(Error::not_applied(format!("PostgreSQL: {}", text(error))))
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
        Step { bucket: Bucket::new("b").unwrap(), key: key.into(), action: Action::Get }
    }

    #[test]
    fn a_key_occurs_once_a_round_and_keeps_its_order() {
        let steps = ["b", "a", "b", "b", "c"].map(step);
        let places: Vec<Vec<usize>> = rounds(&steps)
            .iter()
            .map(|round| round.iter().map(|(index, _)| *index).collect())
            .collect();
        assert_eq!(places, [vec![1, 0, 4], vec![2], vec![3]], "and each round is sorted by key");
    }
}
