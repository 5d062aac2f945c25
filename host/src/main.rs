//! The program `tally`: commands, configuration, and exit codes.
//!
//! 0: ended as asked. 1: could not do it; the last line of standard error says why and what to do.
//! 2: the command line cannot be understood.

#![forbid(unsafe_code)]

use std::{io::Write as _, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use tally::{
    config::{AccessFormat, Config, Options},
    deploy, import, kv,
    logging::Logs,
    runtime, server,
};

/// Some forty small allocations a request, on several threads.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Longest time to wait for the reader of what the host says at its start and at its end.
const PATIENCE: Duration = Duration::from_secs(1);

/// Runs HTTP handlers as WebAssembly plugins over shared, exact state.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve a guest until SIGTERM or SIGINT
    Serve(Box<Options>),
    /// Say which world a component is, what it imports, and what is missing to run it
    Check {
        /// The component
        #[arg(value_name = "GUEST.wasm")]
        guest: PathBuf,
        /// Count an import that this host does not offer as a reason not to run it
        #[arg(long, env = "TALLY_STRICT_IMPORTS")]
        strict_imports: bool,
        /// Component that requests pass before the guest; can be repeated, the outermost first
        #[arg(long, value_name = "FILE", env = "TALLY_MIDDLEWARE", value_delimiter = ',')]
        middleware: Vec<PathBuf>,
    },
    /// Have all hosts run another component of a guest, or a new guest, without a failed request
    Deploy(Box<deploy::Deploy>),
    #[command(flatten)]
    Releases(deploy::Command),
    /// Make a tally.toml from the manifest of an application for Spin
    Import {
        /// The manifest
        #[arg(value_name = "spin.toml")]
        manifest: PathBuf,
        /// File to write, or - for standard output [default: tally.toml beside the manifest]
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Look at the keys and values of a store, and change them
    Kv(Box<kv::Arguments>),
    /// Print the configuration in force, without secrets
    Config(Box<Options>),
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(code) => code,
        Err(error) => {
            fail(&error);
            ExitCode::FAILURE
        }
    }
}

/// Writes why the program ends to standard error.
fn fail(error: &anyhow::Error) {
    let text = format!("tally: {error:#}");
    // Standard error may be closed; there is nobody left to tell.
    without_waiting(move || drop(writeln!(std::io::stderr(), "{text}")));
}

/// Writes something, and waits for it no longer than [`PATIENCE`]: a reader that does not read must
/// keep the host neither from serving nor from ending.
fn without_waiting(write: impl FnOnce() + Send + 'static) {
    let (done, written) = std::sync::mpsc::channel();
    let writing = std::thread::Builder::new().spawn(move || {
        write();
        let _ = done.send(());
    });
    if writing.is_ok() {
        let _ = written.recv_timeout(PATIENCE);
    }
}

fn run(command: Command) -> Result<ExitCode> {
    // Variables that are no UTF-8 are none of this program's.
    let environment: Vec<(String, String)> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    match command {
        Command::Serve(options) => {
            // Accepting, health and signals; requests have threads of their own.
            let main = main_runtime()?;
            let signals = {
                let _main = main.enter();
                server::Signals::watch()?
            };
            let config = Config::load((*options).clone(), &environment)?;
            let logs = Logs::start(&config)?;
            // Every line of the access log's stream is one request.
            let is_taken =
                config.access_log != AccessFormat::Off && config.access_log_file.is_none();
            let tell = move |text: &str| match is_taken {
                true => text.lines().for_each(|line| tracing::info!("{line}")),
                false => {
                    let text = text.to_owned();
                    without_waiting(move || say(&text));
                }
            };
            let reloaded = logs.clone();
            let reload = move || {
                let config =
                    Config::load((*options).clone(), &environment).map_err(|e| e.to_string())?;
                reloaded.reload(&config).map_err(|error| error.to_string())
            };
            let served = main.block_on(server::serve(config, signals, &logs, tell, reload));
            // Without waiting for files on a disk that hangs.
            main.shutdown_background();
            logs.finish();
            served?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Deploy(arguments) => {
            say(&main_runtime()?.block_on(deploy::deploy(*arguments, &environment))?);
            Ok(ExitCode::SUCCESS)
        }
        Command::Releases(command) => {
            say(&main_runtime()?.block_on(deploy::run(command, &environment))?);
            Ok(ExitCode::SUCCESS)
        }
        Command::Kv(arguments) => {
            let main = main_runtime()?;
            let done = main.block_on(kv::run(*arguments, &environment));
            // Without waiting for a name that resolves slowly.
            main.shutdown_background();
            done
        }
        Command::Check { guest, strict_imports, middleware } => {
            let bytes = server::read_guest(&guest)?;
            let limits =
                runtime::Limits { strict_imports, middleware, ..runtime::Limits::default() };
            let inspection =
                runtime::inspect(&bytes, &limits).with_context(|| guest.display().to_string())?;
            say(&inspection.to_string());
            Ok(if inspection.can_run() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Command::Import { manifest, output } => {
            say(&import::import(&manifest, output.as_deref())?);
            Ok(ExitCode::SUCCESS)
        }
        Command::Config(options) => {
            say(Config::show(*options, &environment)?.trim_end());
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn main_runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the main runtime")
}

/// Prints for people, on standard output. Whoever closed it does not want to know.
fn say(text: &str) {
    let mut output = std::io::stdout().lock();
    let _ = writeln!(output, "{text}").and_then(|()| output.flush());
}
