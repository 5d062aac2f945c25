//! `wasi:logging/logging`, to the host's log: the draft without a version, and 0.1.0-draft, which
//! is the same under another name.

use tracing::Level as HostLevel;
use wasmtime::{
    Result, StoreContextMut,
    component::{ComponentType, Lift, Linker},
};

use super::Context;

/// The names it is imported by.
const NAMES: [&str; 2] = ["wasi:logging/logging", "wasi:logging/logging@0.1.0-draft"];

/// `wasi:logging/logging.level`.
#[expect(dead_code, reason = "made by lifting what a guest passes")]
#[derive(Clone, Copy, ComponentType, Lift)]
#[component(enum)]
#[repr(u8)]
enum Level {
    #[component(name = "trace")]
    Trace,
    #[component(name = "debug")]
    Debug,
    #[component(name = "info")]
    Info,
    #[component(name = "warn")]
    Warn,
    #[component(name = "error")]
    Error,
    #[component(name = "critical")]
    Critical,
}

impl From<Level> for HostLevel {
    fn from(level: Level) -> Self {
        match level {
            Level::Trace => Self::TRACE,
            Level::Debug => Self::DEBUG,
            Level::Info => Self::INFO,
            Level::Warn => Self::WARN,
            Level::Error | Level::Critical => Self::ERROR,
        }
    }
}

/// Offers it to a linker.
///
/// # Errors
/// When it is there already, which is a bug.
pub(super) fn add_to_linker(linker: &mut Linker<Context>) -> Result<()> {
    for name in NAMES {
        linker.instance(name)?.func_wrap(
            "log",
            |mut store: StoreContextMut<'_, Context>,
             (level, context, message): (Level, String, String)| {
                let journal = store.data_mut().journal();
                for line in message.lines() {
                    journal.write(level.into(), &context, line);
                }
                Ok(())
            },
        )?;
    }
    Ok(())
}
