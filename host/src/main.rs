//! The program `tally`: commands, configuration, and exit codes.
//!
//! 0: ended as asked. 1: could not do it; the last line of standard error says why and what to do.
//! 2: the command line cannot be understood.

#![forbid(unsafe_code)]

use std::{
    io::{IsTerminal as _, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use tally::{
    config::{Config, LogFormat, Options},
    deploy, kv, runtime, server,
};
use tracing_subscriber::EnvFilter;

/// Some forty small allocations a request, on several threads.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

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
    },
    /// Replace a guest of a running host, without a failed request
    Deploy {
        /// The component
        #[arg(value_name = "GUEST.wasm")]
        guest: PathBuf,
        /// Name of the guest to replace [default: the only one]
        #[arg(long, value_name = "NAME")]
        route: Option<String>,
        /// The host's admin listener
        #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:3001")]
        admin: String,
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
            // Standard error may be closed; there is nobody left to tell.
            let _ = writeln!(std::io::stderr(), "tally: {error:#}");
            ExitCode::FAILURE
        }
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
            let set_log = start_logging(&config)?;
            let reload = move || {
                let config =
                    Config::load((*options).clone(), &environment).map_err(|e| e.to_string())?;
                set_log(&config.log)
            };
            let served = main.block_on(server::serve(config, signals, say, reload));
            // Without waiting for files on a disk that hangs.
            main.shutdown_background();
            served?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Deploy { guest, route, admin } => {
            let deploying = deploy::deploy(&guest, route.as_deref(), &admin);
            say(&main_runtime()?.block_on(deploying)?);
            Ok(ExitCode::SUCCESS)
        }
        Command::Kv(arguments) => {
            let main = main_runtime()?;
            let done = main.block_on(kv::run(*arguments, &environment));
            // Without waiting for a name that resolves slowly.
            main.shutdown_background();
            done
        }
        Command::Check { guest } => {
            let bytes = server::read_guest(&guest)?;
            let inspection = runtime::inspect(&bytes, &runtime::Limits::default())
                .with_context(|| guest.display().to_string())?;
            say(&inspection.to_string());
            Ok(if inspection.can_run() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
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

/// Sets another filter of the log; says what it did, or why it cannot.
type SetLog = Box<dyn Fn(&str) -> Result<String, String> + Send>;

/// Logs go to standard error, so that standard output stays for what was asked for.
fn start_logging(config: &Config) -> Result<SetLog> {
    let builder = tracing_subscriber::fmt()
        .with_env_filter(log_filter(&config.log).map_err(anyhow::Error::msg)?)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    Ok(match config.log_format {
        LogFormat::Text => {
            let builder = builder.with_filter_reloading();
            let handle = builder.reload_handle();
            builder.init();
            Box::new(move |log| {
                handle.reload(log_filter(log)?).map_err(|e| e.to_string()).map(|()| said(log))
            })
        }
        LogFormat::Json => {
            let builder = builder.json().with_filter_reloading();
            let handle = builder.reload_handle();
            builder.init();
            Box::new(move |log| {
                handle.reload(log_filter(log)?).map_err(|e| e.to_string()).map(|()| said(log))
            })
        }
    })
}

fn log_filter(log: &str) -> Result<EnvFilter, String> {
    EnvFilter::try_new(log).map_err(|error| {
        format!("log: '{log}' is no filter; write info or info,tally=debug: {error}")
    })
}

fn said(log: &str) -> String {
    format!("the log's filter is {log}")
}
