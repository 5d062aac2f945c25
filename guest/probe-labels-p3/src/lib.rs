//! A handler of WASI 0.3 for tests: stores of `wasmcloud:keyvalue` under labels. Arguments are `BUCKET,KEY` or
//! `BUCKET,KEY=VALUE`.

use probing::{Answer, Failure, decode, pair};
use wasip3::{
    exports::http::handler::Guest,
    http::types::{ErrorCode, Fields, Request, Response},
    spawn_local, wit_future, wit_stream,
};

use self::bindings::{
    team_a,
    wasmcloud::keyvalue::{
        store,
        types::{Bucket, Error},
    },
};

mod bindings {
    wasip3::wit_bindgen::generate!({
        path: ["../../host/wit/wasmcloud-keyvalue", "wit"],
        world: "tally:probe-labels-p3/imports",
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
        let (status, text) = match answer(path, argument).await {
            Ok(text) => (200, text),
            Err(Failure::NoSuchPath) => (404, "there is nothing at this path".into()),
            Err(Failure::Argument(wanted)) => (400, format!("the query must be {wanted}")),
            Err(Failure::Operation(error)) => (500, error),
        };
        let (mut sender, contents) = wit_stream::new();
        // A client that has gone away is no concern of this request's any more.
        spawn_local(async move { drop(sender.write_all(text.into_bytes()).await) });
        let (_, trailers) = wit_future::new(|| Ok(None));
        let (response, _) = Response::new(Fields::new(), Some(contents), trailers);
        let _ = response.set_status_code(status);
        Ok(response)
    }
}

async fn answer(path: &str, argument: &str) -> Answer {
    let (bucket, rest) = argument.split_once(',').unwrap_or((argument, ""));
    let name = decode(bucket);
    match path.strip_prefix("/a") {
        Some(path) => operate(path, team_a::open(name).await, rest).await,
        None => operate(path, store::open(name).await, rest).await,
    }
}

async fn operate(path: &str, bucket: Result<Bucket, Error>, rest: &str) -> Answer {
    let (bucket, (key, value)) = (bucket?, pair(rest));
    match path {
        "/open" => Ok("opened".into()),
        "/set" => {
            bucket.set(key, value.into_bytes(), None).await?;
            Ok("set".into())
        }
        "/get" => {
            let value = bucket.get(key).await?;
            Ok(value.map_or("(none)".into(), |value| String::from_utf8_lossy(&value).into_owned()))
        }
        _ => Err(Failure::NoSuchPath),
    }
}
