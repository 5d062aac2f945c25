//! A guest for tests: computes for ever while it is being instantiated.

use self::exports::tally::plugin::handler::{Error, Guest, Request, Response};

wit_bindgen::generate!({ world: "plugin", path: "../../wit", generate_all });

struct Stuck;

export!(Stuck);

impl Guest for Stuck {
    fn handle(_: Request) -> Result<Response, Error> {
        Err(Error::NotFound)
    }
}

extern "C" fn never_returns() {
    loop {
        std::hint::spin_loop();
    }
}

/// Runs before the first call, as constructors of static objects do in other languages.
// SAFETY: the section holds pointers to functions without parameters, and this is one.
#[used]
#[unsafe(link_section = ".init_array")]
static AT_START: extern "C" fn() = never_returns;
