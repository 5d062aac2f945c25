//! A standard handler for tests that imports what its host does not offer, and calls it if it is asked to.

use wasip2::{
    exports::http::incoming_handler::Guest,
    http::types::{IncomingRequest, ResponseOutparam},
};

use self::bindings::{
    alone,
    example::missing::{
        more,
        things::{self, Thing},
    },
    wasi::{logging::logging, random::random},
};

mod bindings {
    wit_bindgen::generate!({ path: "wit", world: "imports", generate_all });
}

struct Probe;

wasip2::http::proxy::export!(Probe);

impl Guest for Probe {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        probing::answer(&request, out, |path, argument| match path {
            "/hello" => Ok("hello".into()),
            "/random" => Ok(random::get_random_u64().to_string()),
            "/count" => Ok(things::count().to_string()),
            "/thing" => Ok(Thing::new(argument).describe()),
            "/wait" => Ok(more::wait(&Thing::new(argument)).ready().to_string()),
            "/alone" => Ok(alone().to_string()),
            "/lucky" => Ok(random::get_lucky_number().to_string()),
            "/log" => {
                logging::log(argument);
                Ok("logged".into())
            }
            _ => Err(probing::Failure::NoSuchPath),
        })
    }
}
