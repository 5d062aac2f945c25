//! A standard handler for tests: every operation of `wasi:keyvalue` 0.2.0-draft2 as upstream has it,
//! `wasi:config` and `wasi:logging`.
//!
//! The probes of other shapes include the files of this one, with a `shape` of their own.

mod keys;
mod log;
mod several;
mod shape;
mod swap;

use probing::{Answer, decode};
use wasip2::{
    exports::http::incoming_handler::Guest,
    http::types::{IncomingRequest, ResponseOutparam},
};

use self::bindings::wasi::config::store as config;

mod bindings {
    wit_bindgen::generate!({
        path: ["../../wit/deps/keyvalue", "wit"],
        world: "tally:probe-draft2/imports",
        generate_all,
    });
}

struct Probe;

wasip2::http::proxy::export!(Probe);

impl Guest for Probe {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        probing::answer(&request, out, |path, argument| match path {
            "/config" => setting(argument),
            "/log" => log::operate(argument),
            _ => swap::operate(path, argument),
        });
    }
}

/// The setting of a name, or a line for each.
fn setting(name: &str) -> Answer {
    if name.is_empty() {
        let lines = config::get_all()?.into_iter().map(|(name, value)| format!("{name}={value}\n"));
        return Ok(lines.collect());
    }
    Ok(config::get(&decode(name))?.unwrap_or("(none)".into()))
}
