//! A standard handler for tests: Spin's variables, SQLite, Redis and PostgreSQL.
//!
//! The settings `redis` and `postgres` say where the servers are. A path that begins with `/trap`
//! does what the rest of it says, and traps.

mod postgres;
mod redis;
mod sqlite;

use probing::{Answer, Failure, decode};
use wasip2::{
    exports::http::incoming_handler::Guest,
    http::types::{IncomingRequest, ResponseOutparam},
};

use self::bindings::{fermyon::spin::variables, wasi::config::store};

mod bindings {
    wit_bindgen::generate!({
        path: ["../../host/wit/spin-postgres-3", "../../host/wit/spin-postgres-4", "wit"],
        world: "tally:probe-spin-data/imports",
        generate_all,
    });
}

struct Probe;

wasip2::http::proxy::export!(Probe);

impl Guest for Probe {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        probing::answer(&request, out, |path, argument| match path.strip_prefix("/trap") {
            Some(path) => {
                // Whether it succeeds is what the test looks at.
                let _ = operate(path, argument);
                std::process::abort()
            }
            None => operate(path, argument),
        });
    }
}

fn operate(path: &str, argument: &str) -> Answer {
    let text = decode(argument);
    match path {
        "/variable" => Ok(variables::get(&text)?),
        "/config" if text.is_empty() => {
            let mut all = store::get_all()?;
            all.sort_unstable();
            let all: Vec<_> =
                all.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
            Ok(all.join(","))
        }
        "/config" => Ok(store::get(&text)?.unwrap_or_else(|| "(none)".into())),
        _ if path.starts_with("/sqlite") => sqlite::operate(path, argument),
        _ if path.starts_with("/redis") => redis::operate(path, argument),
        _ if path.starts_with("/pg") => postgres::operate(path, &text),
        _ => Err(Failure::NoSuchPath),
    }
}

/// Rows as text.
fn show(rows: impl Iterator<Item = Vec<String>>) -> String {
    rows.map(|row| row.join("|")).collect::<Vec<_>>().join("\n")
}
