//! Where the store is, for commands that need nothing else of the configuration.

use std::{
    io::Read as _,
    path::{Path, PathBuf},
};

use clap::Args;

use super::{ConfigError, options::Options, units::Span};

/// What stands above these options in the help, apart from a command's own.
pub(crate) const STORE_HEADING: &str = "Store";

/// The options of `serve` that say where the store is and how long it may take. Global, so that
/// they can stand before a subcommand and after it.
#[derive(Args, Clone, Debug, Default)]
pub struct StoreOptions {
    /// File of settings [default: tally.toml, if it exists]
    #[arg(long, value_name = "FILE", env = "TALLY_CONFIG", global = true, help_heading = STORE_HEADING)]
    pub config: Option<PathBuf>,

    /// Where state is kept: sqlite:PATH, redis://…, rediss://…, redis-sentinel://…, postgres://… or
    /// memory: [default: sqlite:tally.db]
    #[arg(long, value_name = "URL", env = "TALLY_STORE", hide_env_values = true, global = true, help_heading = STORE_HEADING)]
    pub store: Option<String>,

    /// File that holds the store's URL, instead of --store
    #[arg(long, value_name = "FILE", env = "TALLY_STORE_FILE", global = true, help_heading = STORE_HEADING)]
    pub store_file: Option<PathBuf>,

    /// Longest time the store may take to answer [default: 5s]
    #[arg(long, value_name = "TIME", env = "TALLY_STORE_TIMEOUT", global = true, help_heading = STORE_HEADING)]
    pub store_timeout: Option<Span>,

    /// Longest time to connect to the store [default: 1s]
    #[arg(long, value_name = "TIME", env = "TALLY_CONNECT_TIMEOUT", global = true, help_heading = STORE_HEADING)]
    pub connect_timeout: Option<Span>,
}

impl From<StoreOptions> for Options {
    fn from(options: StoreOptions) -> Self {
        Self {
            config: options.config,
            store: options.store,
            store_file: options.store_file,
            store_timeout: options.store_timeout,
            connect_timeout: options.connect_timeout,
            ..Self::default()
        }
    }
}

/// What the URL of a store begins with.
const SCHEMES: [&str; 8] = [
    "sqlite:",
    "memory:",
    "redis:",
    "rediss:",
    "redis-sentinel:",
    "rediss-sentinel:",
    "postgres:",
    "postgresql:",
];

/// What is added to the file of an embedded store for the folder of its guests' databases.
pub(super) const DATABASES: &str = "-guests";

/// Longest file with a URL, in bytes: many times what a URL needs, so that another file was named.
const LONGEST_FILE: u64 = 64 << 10;

/// The store's URL, from the setting or from a file.
///
/// # Errors
/// [`ConfigError`] if both are given, or the file does not hold a URL. As it is a secret, or another one by
/// mistake, the text repeats nothing of it.
pub(super) fn resolve(url: Option<String>, file: Option<&Path>) -> Result<String, ConfigError> {
    let Some(path) = file else { return Ok(url.unwrap_or_default()) };
    if url.is_some() {
        let text = "store and store-file are both given (as flags, as TALLY_STORE and TALLY_STORE_FILE, or in the file of settings); leave out one";
        return Err(ConfigError(text.into()));
    }
    let failed = |reason: &str| ConfigError(format!("store-file: {}: {reason}", path.display()));
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(LONGEST_FILE).read_to_end(&mut bytes))
        .map_err(|error| failed(&format!("cannot read it: {error}")))?;
    let text = String::from_utf8(bytes).map_err(|_| failed("it is not text"))?;
    let url = text.trim_end_matches(['\n', '\r']);
    if url.is_empty() {
        return Err(failed("it is empty; it is to hold the store's URL"));
    }
    if url.contains(char::is_control) || !SCHEMES.iter().any(|scheme| url.starts_with(scheme)) {
        return Err(failed(
            "it does not hold a store's URL and nothing else; write sqlite:PATH, redis://…, rediss://…, redis-sentinel://… or postgres://…, on one line",
        ));
    }
    Ok(url.to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Command;

    use super::*;

    #[test]
    fn the_options_are_those_of_serve() {
        let serve = Options::augment_args(Command::new("serve"));
        let store = StoreOptions::augment_args(Command::new("kv"));
        let mut compared = 0;
        for argument in store.get_arguments() {
            let same = serve.get_arguments().find(|other| other.get_id() == argument.get_id());
            let same = same.unwrap_or_else(|| panic!("serve has no {}", argument.get_id()));
            assert_eq!(argument.get_long(), same.get_long());
            assert_eq!(argument.get_env(), same.get_env());
            assert_eq!(argument.is_hide_env_values_set(), same.is_hide_env_values_set());
            assert_eq!(
                argument.get_help().map(ToString::to_string),
                same.get_help().map(ToString::to_string)
            );
            compared += 1;
        }
        assert_eq!(compared, 5);
    }
}
