//! `wasi:logging`, which is the same under each of its names.

use probing::{Answer, Failure, pair};

use crate::bindings::wasi::logging::logging::{Level, log};

/// Logs `LEVEL=MESSAGE`.
pub fn operate(argument: &str) -> Answer {
    let (level, message) = pair(argument);
    let level = match level.as_str() {
        "trace" => Level::Trace,
        "debug" => Level::Debug,
        "info" => Level::Info,
        "warn" => Level::Warn,
        "error" => Level::Error,
        "critical" => Level::Critical,
        _ => return Err(Failure::Argument("LEVEL=MESSAGE, from trace to critical")),
    };
    log(level, "probe", &message);
    Ok("logged".into())
}
