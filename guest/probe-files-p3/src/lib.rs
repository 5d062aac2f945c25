//! A handler of WASI 0.3 for tests that uses files, and speaks to servers by TCP. It takes the interfaces of 0.3 for
//! that, or with `INTERFACES=0.2` in its environment those of 0.2, as the standard library does. The paths are those
//! of the handler of 0.2 beside it.

mod disk;
mod sockets;
#[path = "../../probe-files/src/disk.rs"]
mod standard_disk;
#[path = "../../probe-files/src/sockets.rs"]
mod standard_sockets;

use probing::{Answer, Failure};
use wasip3::{
    exports::http::handler::Guest,
    http::types::{ErrorCode, Fields, Request, Response},
    spawn_local, wit_future, wit_stream,
};

mod bindings {
    wit_bindgen::generate!({
        path: "../../wit",
        inline: "
            package probe:files;

            world imports {
                import wasi:keyvalue/store@0.2.0-draft2;
                import wasi:keyvalue/atomics@0.2.0-draft2;
            }
        ",
        world: "probe:files/imports",
        generate_all,
    });
}

struct Probe;

wasip3::http::service::export!(Probe);

impl Guest for Probe {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let target = request.get_path_with_query().unwrap_or_default();
        let (path, argument) = target.split_once('?').unwrap_or((&target, ""));
        Ok(match answer(path, argument).await {
            Ok(text) => respond(200, text),
            Err(Failure::NoSuchPath) => respond(404, "there is nothing at this path".into()),
            Err(Failure::Argument(wanted)) => respond(400, format!("the query must be {wanted}")),
            Err(Failure::Operation(error)) => respond(500, error),
        })
    }
}

async fn answer(path: &str, argument: &str) -> Answer {
    if std::env::var("INTERFACES").is_ok_and(|version| version == "0.2") {
        return match standard_disk::answer(path, argument) {
            Err(Failure::NoSuchPath) => standard_sockets::answer(path, argument),
            answer => answer,
        };
    }
    match disk::answer(path, argument).await {
        Err(Failure::NoSuchPath) => sockets::answer(path, argument).await,
        answer => answer,
    }
}

fn respond(status: u16, text: String) -> Response {
    let headers = Fields::new();
    // A name that no host keeps to itself.
    let _ = headers.append("content-type", b"text/plain; charset=utf-8");
    let (mut sender, contents) = wit_stream::new();
    // A client that has gone away is no concern of this request's any more.
    spawn_local(async move { drop(sender.write_all(text.into_bytes()).await) });
    let (_, trailers) = wit_future::new(|| Ok(None));
    let (response, _) = Response::new(headers, Some(contents), trailers);
    let _ = response.set_status_code(status);
    response
}
