//! A standard handler for tests that uses files, and speaks to servers by TCP, as the standard library has both. What
//! lies below `/site` is a site of static files.

mod disk;
mod sockets;

use probing::Failure;
use wasip2::{
    exports::http::incoming_handler::Guest,
    http::types::{IncomingRequest, ResponseOutparam},
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

wasip2::http::proxy::export!(Probe);

impl Guest for Probe {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        probing::answer(&request, out, |path, argument| match disk::answer(path, argument) {
            Err(Failure::NoSuchPath) => sockets::answer(path, argument),
            answer => answer,
        });
    }
}
