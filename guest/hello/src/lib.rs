//! The least that a standard handler can say, as the crate `wasip2` shows it.

use wasip2::{
    exports::http::incoming_handler::Guest,
    http::types::{Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam},
};

struct Hello;

wasip2::http::proxy::export!(Hello);

impl Guest for Hello {
    fn handle(_request: IncomingRequest, out: ResponseOutparam) {
        let headers = Fields::new();
        headers.append("content-type", b"text/plain").expect("a header that guests may set");
        let response = OutgoingResponse::new(headers);
        let body = response.body().expect("the first time it is asked for");
        ResponseOutparam::set(out, Ok(response));
        let stream = body.write().expect("the first time it is asked for");
        stream.blocking_write_and_flush(b"Hello, World!").expect("a client that reads");
        drop(stream);
        OutgoingBody::finish(body, None).expect("as much as was promised");
    }
}
