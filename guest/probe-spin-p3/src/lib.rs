//! A handler of WASI 0.3 for tests: Spin's key-value stores, variables, SQLite, Redis and PostgreSQL, in the versions
//! whose functions are `async`. What it has in common with the handlers of 0.2 beside it has the same paths.
//!
//! The settings `redis` and `postgres` say where the servers are. A path that begins with `/trap` does what the rest of
//! it says, and traps.

mod keys;
mod postgres;
mod redis;
mod sqlite;

use probing::{Answer, Failure, decode};
use wasip3::{
    exports::http::handler::Guest,
    http::types::{ErrorCode, Fields, Request, Response},
    spawn_local, wit_future, wit_stream,
};

use self::bindings::{spin::variables::variables, wasi::config::store};

mod bindings {
    wasip3::wit_bindgen::generate!({
        path: "wit",
        world: "imports",
        runtime_path: "wasip3::wit_bindgen::rt",
        generate_all,
    });
}

struct Probe;

wasip3::http::service::export!(Probe);

impl Guest for Probe {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let target = request.get_path_with_query().unwrap_or_default();
        let (path, argument) = target.split_once('?').unwrap_or((&target, ""));
        let answer = match path.strip_prefix("/trap") {
            Some(path) => {
                // Whether it succeeds is what the test looks at.
                let _ = operate(path, argument).await;
                std::process::abort()
            }
            None => operate(path, argument).await,
        };
        Ok(match answer {
            Ok(text) => reply(200, text),
            Err(Failure::NoSuchPath) => reply(404, "there is nothing at this path".into()),
            Err(Failure::Argument(wanted)) => reply(400, format!("the query must be {wanted}")),
            Err(Failure::Operation(error)) => reply(500, error),
        })
    }
}

fn reply(status: u16, text: String) -> Response {
    let (mut sender, contents) = wit_stream::new();
    // A client that has gone away is no concern of this request's any more.
    spawn_local(async move { drop(sender.write_all(text.into_bytes()).await) });
    let (_, trailers) = wit_future::new(|| Ok(None));
    let (response, _) = Response::new(Fields::new(), Some(contents), trailers);
    let _ = response.set_status_code(status);
    response
}

async fn operate(path: &str, argument: &str) -> Answer {
    let text = decode(argument);
    match path {
        "/variable" => Ok(variables::get(text).await?),
        "/config" if text.is_empty() => {
            let mut all = store::get_all()?;
            all.sort_unstable();
            let all: Vec<_> =
                all.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
            Ok(all.join(","))
        }
        "/config" => Ok(store::get(&text)?.unwrap_or_else(|| "(none)".into())),
        _ if path.starts_with("/sqlite") => sqlite::operate(path, argument).await,
        _ if path.starts_with("/redis") => redis::operate(path, argument).await,
        _ if path.starts_with("/pg") => postgres::operate(path, text).await,
        _ => keys::operate(path, argument).await,
    }
}

/// Rows as text.
fn show(rows: impl Iterator<Item = Vec<String>>) -> String {
    rows.map(|row| row.join("|")).collect::<Vec<_>>().join("\n")
}
