//! A standard handler for tests: every operation of `wasi:keyvalue` 0.2.0-draft2 as Spin has it.

#[path = "../../probe-draft2/src/keys.rs"]
mod keys;
#[path = "../../probe-draft2/src/several.rs"]
mod several;
mod shape;
#[path = "../../probe-draft2/src/swap.rs"]
mod swap;

use wasip2::{
    exports::http::incoming_handler::Guest,
    http::types::{IncomingRequest, ResponseOutparam},
};

mod bindings {
    wit_bindgen::generate!({ path: "wit", world: "imports", generate_all });
}

struct Probe;

wasip2::http::proxy::export!(Probe);

impl Guest for Probe {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        probing::answer(&request, out, swap::operate);
    }
}
