//! What an error of PostgreSQL's means for the operations it answers.

use tokio_postgres::error::{DbError, Severity, SqlState};

use super::text;
use crate::error::Error;

/// The server ended a session that waited for its client for too long (PostgreSQL 14).
pub(super) const IDLE_SESSION_TIMEOUT: &str = "57P05";

/// The server ended a transaction that took too long (PostgreSQL 17).
const TRANSACTION_TIMEOUT: &str = "25P04";

/// Why a statement failed.
#[derive(Clone, Debug)]
pub(super) enum Failure {
    /// Rolled back by the server in favour of another session; worth trying again.
    Conflict(Error),
    /// Rolled back because another session holds one of the rows for long.
    Locked(Error),
    /// The connection must be made anew: the session has ended, takes no writes, or no longer knows
    /// the prepared statement, or the table changed under it.
    Broken(Error),
    /// The server ended the session while it waited for its client: it read nothing of what was sent
    /// since, neither of this statement nor of those behind it.
    Unread(Error),
    Final(Error),
}

impl Failure {
    pub(super) fn into_error(self) -> Error {
        match self {
            Self::Conflict(error)
            | Self::Locked(error)
            | Self::Broken(error)
            | Self::Unread(error)
            | Self::Final(error) => error,
        }
    }

    /// Whether the connection must be given up.
    pub(super) fn ends_session(&self) -> bool {
        matches!(self, Self::Broken(_) | Self::Unread(_))
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
        // Two records of one write: another host has made it at the same time.
        if *state == SqlState::T_R_SERIALIZATION_FAILURE
            || *state == SqlState::T_R_DEADLOCK_DETECTED
            || *state == SqlState::UNIQUE_VIOLATION
        {
            return Self::Conflict(Error::not_applied(reason));
        }
        if *state == SqlState::LOCK_NOT_AVAILABLE {
            return Self::Locked(Error::not_applied(reason));
        }
        // Both come before whatever was sent since.
        if *state == SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT || code == IDLE_SESSION_TIMEOUT {
            return Self::Unread(Error::not_applied(reason));
        }
        if *state == SqlState::INVALID_SQL_STATEMENT_NAME
            || *state == SqlState::FEATURE_NOT_SUPPORTED
            || *state == SqlState::UNDEFINED_TABLE
            || *state == SqlState::READ_ONLY_SQL_TRANSACTION
            // It ends a transaction before it can commit.
            || code == TRANSACTION_TIMEOUT
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
