//! A handler of WASI 0.3 for tests: every operation of `wasmcloud:keyvalue`, some of them beside each other.
//!
//! A request's path is what to do, its query arguments between commas, and the answer is text.

mod operate;

use std::fmt::Debug;

use wasip3::{
    exports::http::handler::Guest,
    http::types::{ErrorCode, Fields, Request, Response},
    spawn_local, wit_future, wit_stream,
};

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

/// What came of an operation, in text: with 200, 404 where nothing is done at the path, or 500 with the error
/// that the guest was given.
pub enum Failure {
    NoSuchPath,
    Operation(String),
}

impl<E: Debug> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Operation(format!("{error:?}"))
    }
}

impl Guest for Probe {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let target = request.get_path_with_query().unwrap_or_default();
        let (path, argument) = target.split_once('?').unwrap_or((&target, ""));
        let arguments: Vec<&str> = argument.split(',').collect();
        let (status, text) = match operate::operate(path, &arguments).await {
            Ok(text) => (200, text),
            Err(Failure::NoSuchPath) => (404, "there is nothing at this path".into()),
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
