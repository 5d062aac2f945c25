//! The least that a handler of WASI 0.3 can say, as the crate `wasip3` shows it.

use wasip3::{
    exports::http::handler::Guest,
    http::types::{ErrorCode, Fields, Request, Response},
    spawn_local, wit_future, wit_stream,
};

struct Hello;

wasip3::http::service::export!(Hello);

impl Guest for Hello {
    async fn handle(_request: Request) -> Result<Response, ErrorCode> {
        let headers = Fields::new();
        headers.append("content-type", b"text/plain").expect("a header that guests may set");
        let (mut body, contents) = wit_stream::new();
        let (_, trailers) = wit_future::new(|| Ok(None));
        let (response, _) = Response::new(headers, Some(contents), trailers);
        spawn_local(async move {
            let left = body.write_all(b"Hello, World!".to_vec()).await;
            assert!(left.is_empty(), "a client that reads");
        });
        Ok(response)
    }
}
