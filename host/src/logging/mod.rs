//! What the host writes for its operators: the log, with failures summed up, and the access log. None
//! of it makes anyone wait: a reader that stalls loses lines, which are counted, and nothing else.
//!
//! Any room may use this one. It knows none of them.

mod access;
mod failures;
mod lines;

use std::{
    fs::File,
    io::{self, IsTerminal as _},
    os::fd::AsFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tracing_subscriber::{EnvFilter, reload};

use self::lines::{LogFile, Output, Sink};
pub(crate) use self::{
    access::{Access, AccessLog},
    failures::{Failure, log, report},
    lines::Lines,
};
use crate::config::{AccessFormat, Config, LogFormat};

/// Longest time that the end of the process waits for each log to be written: enough for any reader
/// that reads, and short beside the time that supervisors give a process to end.
const LAST_WRITE: Duration = Duration::from_secs(2);

/// The pause after each write of the access log. In it lines gather, so that a busy host makes twenty
/// system calls a second for its log and not one for each request.
const ACCESS_PAUSE: Duration = Duration::from_millis(50);

/// Why logging cannot start. The text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// The filter cannot be understood.
    #[error("log: '{0}' is no filter; write info or info,tally=debug")]
    Filter(String),
    /// The file for the access log cannot be written.
    #[error(
        "access-log-file: cannot write {}: {reason}; its folder must exist, and this user must be able to write there",
        path.display()
    )]
    AccessFile {
        /// Its path.
        path: PathBuf,
        /// What the operating system says.
        reason: io::Error,
    },
    /// The machine lacks something basic.
    #[error("cannot start logging: {0}")]
    Start(#[from] io::Error),
}

/// The logs of a process, which has one.
#[derive(Clone)]
pub struct Logs {
    log: Lines,
    access: Option<Arc<AccessLog>>,
    set_filter: SetFilter,
}

/// Exchanges the filter of the log.
type SetFilter = Arc<dyn Fn(EnvFilter) -> Result<(), reload::Error> + Send + Sync>;

impl Logs {
    /// Starts logging to standard error, so that standard output stays for what was asked for, and
    /// the access log where it is configured.
    ///
    /// # Errors
    /// [`LoggingError`].
    pub fn start(config: &Config) -> Result<Self, LoggingError> {
        let filter = filter(config)?;
        let log = Lines::start(
            "log",
            Output {
                sink: stream(io::stderr())?,
                // The last line before a crash should be there.
                pause: Duration::ZERO,
                tell_lost: |lines| {
                    tracing::error!(
                        lines,
                        "{lines} lines of this log were lost: its reader was too slow"
                    );
                },
                // There is nobody to tell.
                tell_failure: |_| {},
            },
        )?;
        let access = match config.access_log {
            AccessFormat::Off => None,
            format => {
                Some(AccessLog::new(start_access(config.access_log_file.as_deref())?, format))
            }
        };
        let builder = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(log.clone())
            .with_ansi(io::stderr().is_terminal());
        let set_filter: SetFilter = match config.log_format {
            LogFormat::Text => {
                let builder = builder.with_filter_reloading();
                let handle = builder.reload_handle();
                builder.init();
                Arc::new(move |filter| handle.reload(filter))
            }
            LogFormat::Json => {
                let builder = builder.json().with_filter_reloading();
                let handle = builder.reload_handle();
                builder.init();
                Arc::new(move |filter| handle.reload(filter))
            }
        };
        if config.log_every_failure {
            failures::log_each();
        }
        log_panics();
        Ok(Self { log, access, set_filter })
    }

    /// Takes over the filter of the log; gives what was done, for people.
    ///
    /// # Errors
    /// [`LoggingError::Filter`], and then the filter before goes on.
    pub fn reload(&self, config: &Config) -> Result<String, LoggingError> {
        (self.set_filter)(filter(config)?).map_err(|_| LoggingError::Filter(config.log.clone()))?;
        Ok(format!("the log's filter is {}", config.log))
    }

    /// The lines of the log.
    pub(crate) fn log(&self) -> &Lines {
        &self.log
    }

    /// The access log, if there is one.
    pub(crate) fn access(&self) -> Option<&Arc<AccessLog>> {
        self.access.as_ref()
    }

    /// The lines of the access log, if there is one.
    pub(crate) fn access_lines(&self) -> Option<&Lines> {
        self.access.as_ref().map(|access| access.lines())
    }

    /// Logs the failures that were counted, and waits until all is written, at most for two seconds
    /// for each log.
    pub fn finish(&self) {
        failures::report_all();
        if let Some(lines) = self.access_lines() {
            lines.flush(LAST_WRITE);
        }
        self.log.flush(LAST_WRITE);
    }
}

fn filter(config: &Config) -> Result<EnvFilter, LoggingError> {
    EnvFilter::try_new(&config.log).map_err(|_| LoggingError::Filter(config.log.clone()))
}

fn start_access(path: Option<&Path>) -> Result<Lines, LoggingError> {
    let sink = match path {
        None => stream(io::stdout())?,
        Some(path) => {
            let failed = |reason| LoggingError::AccessFile { path: path.to_owned(), reason };
            Sink::File(LogFile::open(path).map_err(failed)?)
        }
    };
    let lines = Lines::start(
        "access-log",
        Output {
            sink,
            pause: ACCESS_PAUSE,
            tell_lost: |lines| {
                tracing::error!(
                    lines,
                    "{lines} lines of the access log were lost: it could not be written as fast as requests came, or at all"
                );
            },
            tell_failure: |error| {
                tracing::error!(%error, "the access log cannot be written; its lines are lost until it can");
            },
        },
    );
    Ok(lines?)
}

/// A stream of the process, without `std`'s lock: others would wait for that while a write blocks.
fn stream(stream: impl AsFd) -> io::Result<Sink> {
    Ok(Sink::Stream(File::from(stream.as_fd().try_clone_to_owned()?)))
}

/// Has panics logged like all else: by default they are written to standard error, which may block.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let thread = thread.name().unwrap_or_default();
        let location = panic.location().map(ToString::to_string).unwrap_or_default();
        let message = panic.payload_as_str().unwrap_or("without a message");
        let backtrace = std::backtrace::Backtrace::capture();
        match backtrace.status() {
            std::backtrace::BacktraceStatus::Captured => {
                tracing::error!(thread, location, %backtrace, "a thread panicked: {message}");
            }
            _ => tracing::error!(thread, location, "a thread panicked: {message}"),
        }
    }));
}
