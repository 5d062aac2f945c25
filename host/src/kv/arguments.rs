//! What can be written on the command line.

use std::{ffi::OsString, num::NonZeroUsize};

use clap::{Args, Subcommand, error::ErrorKind};

use crate::config::{STORE_HEADING, Span, StoreOptions};

/// How it ends, for the help.
const EXIT_CODES: &str = "\
Exit codes: 0, done. 1, could not, or there is no such key; standard error says why and what to do.
2, the command line cannot be understood.";

/// The arguments of `tally kv`.
#[derive(Args)]
#[command(after_help = EXIT_CODES)]
pub struct Arguments {
    #[command(flatten)]
    pub(super) store: StoreOptions,

    /// Bucket, by its name in the store: of a guest that is served with --bucket default=main, that
    /// is main [default: default]
    #[arg(long, value_name = "NAME", global = true, help_heading = STORE_HEADING)]
    pub(super) bucket: Option<String>,

    /// Print one JSON document, or with list and buckets one a line
    #[arg(long, global = true)]
    pub(super) json: bool,

    #[command(subcommand)]
    pub(super) command: Command,
}

/// The bucket that is meant where none is named.
pub(super) const DEFAULT_BUCKET: &str = "default";

impl Arguments {
    /// Finds what no single argument shows to be wrong.
    pub(super) fn check(&self) -> Result<(), clap::Error> {
        if self.bucket.is_some() && matches!(self.command, Command::Buckets) {
            let reason = "--bucket names one bucket, and buckets lists all of them; to list keys, write list\n";
            return Err(clap::Error::raw(ErrorKind::ArgumentConflict, reason));
        }
        self.command.check()
    }
}

#[derive(Subcommand)]
pub(super) enum Command {
    /// Print the value of a key
    ///
    /// The value's bytes as they are, and nothing else. On a terminal a newline follows, and what
    /// could control the terminal is shown as an escape, such as \u{1b} or \xff. With --json: the
    /// value as text, or in base64 where it is no UTF-8 ("encoding" says which), and its time to
    /// live in milliseconds, null for ever. Ends with 1 where there is no such key.
    Get {
        /// The key
        key: String,
    },
    /// Set the value of a key
    Set {
        /// The key
        key: String,
        /// The value; - reads it from standard input, whatever its bytes are
        #[arg(allow_negative_numbers = true)]
        value: OsString,
        /// Time to live [default: for ever]
        #[arg(long, value_name = "TIME")]
        ttl: Option<Span>,
        /// Only if there is no such key; ends with 1 where there is
        #[arg(long)]
        if_absent: bool,
    },
    /// Delete keys; one that does not exist is no error
    Delete {
        /// The keys
        #[arg(value_name = "KEY", required = true)]
        keys: Vec<String>,
    },
    /// Add to the number that a key holds, and print the number after it
    ///
    /// A key that does not exist counts as 0. Out of bounds, nothing is changed, and it ends with 1.
    /// With --ttl, --min and --max together it counts in fixed windows: at most 100 a minute is
    /// --max 100 --ttl 1m.
    Incr {
        /// The key
        key: String,
        /// How much to add
        #[arg(long, value_name = "N", default_value_t = 1, allow_negative_numbers = true)]
        by: i64,
        /// Only if the number after it is at least this
        #[arg(long, value_name = "N", allow_negative_numbers = true)]
        min: Option<i64>,
        /// Only if the number after it is at most this
        #[arg(long, value_name = "N", allow_negative_numbers = true)]
        max: Option<i64>,
        /// Time to live of a key that this creates; one that exists keeps its own [default: for ever]
        #[arg(long, value_name = "TIME")]
        ttl: Option<Span>,
    },
    /// List the keys of a bucket
    ///
    /// One key a line, page by page as the store gives them: in order of keys from SQLite and
    /// PostgreSQL, in order within each page from Redis, which may name a key twice if it is written
    /// to meanwhile. Backslashes and control characters are shown as escapes, such as \\ and \n, so
    /// that a line is a key. With --json, a line is a JSON document, and keys are as they are.
    List {
        /// Only keys that begin so
        #[arg(long, value_name = "PREFIX", default_value = "", hide_default_value = true)]
        prefix: String,
        /// At most so many keys
        #[arg(long, value_name = "N")]
        limit: Option<NonZeroUsize>,
        /// Their values as well, after a tab
        #[arg(long)]
        values: bool,
    },
    /// List the buckets that hold keys
    ///
    /// One a line, in order of their names from SQLite and PostgreSQL; escapes and --json as for list.
    /// In Redis, buckets are found by their keys: it goes through all of the database, and keys of
    /// other programs that have a colon are in buckets too. A bucket lasts as long as its keys.
    Buckets,
    /// Print how long a key is to live, or change it
    ///
    /// Prints a time such as 9m 59s, or unlimited. Ends with 1 where there is no such key.
    Ttl {
        /// The key
        key: String,
        /// Let it live so long from now on
        #[arg(long, value_name = "TIME", conflicts_with = "persist")]
        set: Option<Span>,
        /// Let it live for ever
        #[arg(long)]
        persist: bool,
    },
}

impl Command {
    fn check(&self) -> Result<(), clap::Error> {
        match self {
            Self::Incr { min: Some(min), max: Some(max), .. } if min > max => {
                let reason = format!("--min {min} is above --max {max}; no number is in between\n");
                Err(clap::Error::raw(ErrorKind::ValueValidation, reason))
            }
            _ => Ok(()),
        }
    }

    /// Whether it changes anything.
    pub(super) fn writes(&self) -> bool {
        match self {
            Self::Get { .. } | Self::List { .. } | Self::Buckets => false,
            Self::Set { .. } | Self::Delete { .. } | Self::Incr { .. } => true,
            Self::Ttl { set, persist, .. } => set.is_some() || *persist,
        }
    }

    /// Whether it can put something into a store that does not exist yet.
    pub(super) fn creates(&self) -> bool {
        matches!(self, Self::Set { .. } | Self::Incr { .. })
    }
}
