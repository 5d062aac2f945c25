//! A guest for tests: does what its path says, misbehaviour included.

mod extensions;
mod state;

use std::sync::atomic::{AtomicU32, Ordering};

use self::{
    exports::tally::plugin::handler::{Error, Guest, Request, Response},
    tally::plugin::{request_headers, worker},
};

wit_bindgen::generate!({ world: "plugin", path: "../../wit", generate_all });

struct Probe;

export!(Probe);

/// Raised by each request to `/static`: fresh memory means that it is always 1.
static RAISED: AtomicU32 = AtomicU32::new(0);

impl Guest for Probe {
    fn handle(request: Request) -> Result<Response, Error> {
        let argument = request.query.clone().unwrap_or_default();
        let number = || argument.parse().map_err(|_| Error::BadRequest("a number".into()));
        match request.path.as_str() {
            "/static" => text((RAISED.fetch_add(1, Ordering::Relaxed) + 1).to_string()),
            "/echo" => text(format!(
                "{} {} {} {}",
                request.method,
                request.path,
                argument,
                request.body.len()
            )),
            "/header" => text(request_headers::get(&argument).unwrap_or_else(|| "(none)".into())),
            "/worker" => text(format!(
                "{} {} {}",
                worker::process_id(),
                worker::instance(),
                worker::guest_version()
            )),
            "/panic" => panic!("asked to"),
            "/loop" => loop {
                std::hint::spin_loop();
            },
            // Whatever address it is asked for.
            "/peek" => text(unsafe { std::ptr::read_volatile(number()? as *const u8) }.to_string()),
            "/spin" => {
                let sum =
                    (0..number()? as u64).fold(1_u64, |sum, n| std::hint::black_box(sum * 31 + n));
                text(sum.to_string())
            }
            "/recurse" => text(recurse(1).to_string()),
            "/grow" => text(std::hint::black_box(vec![1_u8; number()?]).len().to_string()),
            "/body" => Ok(Response { status: 200, headers: vec![], body: vec![b'x'; number()?] }),
            "/status" => Ok(Response { status: number()? as u16, headers: vec![], body: vec![] }),
            "/answer" => {
                let (name, value) = argument.split_once('=').unwrap_or((&argument, ""));
                let value = value.replace("CRLF", "\r\n");
                Ok(Response { status: 200, headers: vec![(name.into(), value)], body: vec![] })
            }
            "/headers" => {
                let headers = (0..number()?).map(|n| (format!("x-{n}"), "y".into())).collect();
                Ok(Response { status: 200, headers, body: vec![] })
            }
            "/internal" => Err(Error::Internal("a secret of the guest".into())),
            "/wasi" => text(format!("{:?}", std::env::vars().count())),
            path => state::handle(path, &argument),
        }
    }
}

fn text(body: String) -> Result<Response, Error> {
    let headers = vec![("content-type".into(), "text/plain".into())];
    Ok(Response { status: 200, headers, body: body.into_bytes() })
}

#[allow(unconditional_recursion)]
fn recurse(depth: u64) -> u64 {
    std::hint::black_box(recurse(std::hint::black_box(depth + 1)) + 1)
}
