//! Where the store is, for commands that need nothing else of the configuration.

use std::path::PathBuf;

use clap::Args;

use super::{options::Options, units::Span};

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
            store_timeout: options.store_timeout,
            connect_timeout: options.connect_timeout,
            ..Self::default()
        }
    }
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
        assert_eq!(compared, 4);
    }
}
