//! `tally kv`: looking at a store, and changing what it holds, from outside the server.
//!
//! It goes the way that guests' operations go, so an increment from here is as exact as theirs, and
//! counters look the same. It needs no running server; one that runs over the same store sees what
//! changes.
//!
//! - `arguments`: what can be written on the command line
//! - `commands`: what each command asks of the store, and prints
//! - `buckets`: which buckets there are
//! - `output`: bytes, lines and JSON on standard output

mod arguments;
mod buckets;
mod commands;
mod output;

use std::{ffi::OsString, io::Read as _, os::unix::ffi::OsStringExt as _, process::ExitCode};

use anyhow::{Context as _, Result, anyhow, bail};
use tally_state::{Bucket, Error, Metrics, State};

pub use self::arguments::Arguments;
use self::{
    arguments::{Command, DEFAULT_BUCKET},
    commands::Session,
    output::Output,
};
use crate::{config::Config, interfaces::RESERVED};

/// Runs a command.
///
/// # Errors
/// When it cannot be done, with a text that says what to do: the store cannot be used, there is no
/// such key, or the outcome is unknown.
pub async fn run(arguments: Arguments, environment: &[(String, String)]) -> Result<ExitCode> {
    if let Err(error) = arguments.check() {
        // Standard error may be closed; there is nobody left to tell.
        let _ = error.print();
        return Ok(ExitCode::from(2));
    }
    let writes = arguments.command.writes();
    match execute(arguments, environment).await {
        // As `head` does once it has seen enough.
        Err(error) if output::nobody_reads(&error) => Ok(ExitCode::SUCCESS),
        Err(error) => Err(explain(error, writes)),
        Ok(()) => Ok(ExitCode::SUCCESS),
    }
}

async fn execute(arguments: Arguments, environment: &[(String, String)]) -> Result<()> {
    let Arguments { store, bucket, json, mut command } = arguments;
    let config = Config::load(store.into(), environment)?;
    let bucket = Bucket::new(bucket.as_deref().unwrap_or(DEFAULT_BUCKET))?;
    if command.writes() && bucket.as_str().starts_with(RESERVED) {
        bail!(
            "the bucket '{}' is read only from here: names that begin with '{RESERVED}' are the host's own, and writes are made once only as long as nobody changes what it keeps there",
            bucket.as_str()
        );
    }
    check_store(&config.store, command.creates())?;
    read_value(&mut command, config.state.max_value_bytes)?;
    // What only reads asks for no lock that a writer has, and for no right to write.
    let options = tally_state::Options { read_only: !command.writes(), ..config.state };
    let state = State::open(&config.store, options, Metrics::default()).await?;
    Session::new(state.worker(), bucket, Output::new(json)).run(command).await
}

/// Refuses what would open as a new, empty store and look like one that has lost everything.
fn check_store(url: &str, creates: bool) -> Result<()> {
    if url == "memory:" {
        bail!(
            "memory: is a store inside of one process, which no other can see; name one that is shared, as in --store sqlite:PATH, redis://… or postgres://…"
        );
    }
    // What has no path, or may not be looked at, is explained when it is opened.
    let Some(path) = tally_state::sqlite_path(url) else { return Ok(()) };
    let missing = matches!(path.try_exists(), Ok(false));
    if missing && !creates {
        bail!(
            "there is no SQLite file {}, and this command creates none; name the server's store with --store, or run it where the server runs",
            path.display()
        );
    }
    Ok(())
}

/// Puts what standard input holds in the place of `-`, before the store is kept waiting.
fn read_value(command: &mut Command, limit: usize) -> Result<()> {
    let Command::Set { value, .. } = command else { return Ok(()) };
    if value == "-" {
        let mut input = Vec::new();
        // One byte more shows that there are more.
        let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
        std::io::stdin()
            .lock()
            .take(most)
            .read_to_end(&mut input)
            .context("cannot read standard input")?;
        if input.len() > limit {
            bail!("standard input holds more than the {limit} bytes that a value may have");
        }
        *value = OsString::from_vec(input);
    }
    Ok(())
}

/// Adds what to do to what the store says.
fn explain(error: anyhow::Error, writes: bool) -> anyhow::Error {
    match error.downcast::<Error>() {
        Ok(Error::Unknown(reason)) if writes => anyhow!(
            "outcome unknown: {reason}; it may have been done or not, so look at the key before doing it again"
        ),
        Ok(Error::Unknown(reason)) => {
            anyhow!("cannot read: {reason}; nothing was changed, and it can be tried again")
        }
        Ok(error @ Error::NotApplied(_)) => {
            anyhow!("{error}; nothing was changed, and it can be tried again")
        }
        Ok(error @ Error::Rejected(_)) => error.into(),
        Err(other) => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_writes_may_have_been_done_when_the_outcome_is_unknown() {
        let failed =
            |writes| explain(Error::Unknown("no answer".into()).into(), writes).to_string();
        assert!(
            failed(true).contains("outcome unknown") && failed(true).contains("look at the key")
        );
        assert!(failed(false).contains("nothing was changed"), "{}", failed(false));
        let error = Error::NotApplied("down".into());
        assert!(explain(error.into(), true).to_string().contains("nothing was changed"));
    }
}
