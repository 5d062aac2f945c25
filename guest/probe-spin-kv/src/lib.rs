//! A standard handler for tests: every operation of Spin's own key-value stores.

#[path = "../../probe-draft2/src/keys.rs"]
mod keys;

use probing::Answer;
use wasip2::{
    exports::http::incoming_handler::Guest,
    http::types::{IncomingRequest, ResponseOutparam},
};

mod bindings {
    wit_bindgen::generate!({ path: "wit", world: "imports", generate_all });
}

/// The same operations as other shapes have, under Spin's names.
mod shape {
    use crate::bindings::fermyon::spin::key_value::Error;
    pub use crate::bindings::fermyon::spin::key_value::Store as Bucket;

    pub fn open(label: &str) -> Result<Bucket, Error> {
        Bucket::open(label)
    }
}

struct Probe;

wasip2::http::proxy::export!(Probe);

impl Guest for Probe {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        probing::answer(&request, out, |path, argument| match path {
            "/get-keys" => keys(),
            _ => keys::operate(path, argument),
        });
    }
}

/// All keys, in order.
fn keys() -> Answer {
    let mut keys = keys::bucket()?.get_keys()?;
    keys.sort_unstable();
    Ok(keys.join(","))
}
