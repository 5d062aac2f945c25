//! A standard handler for tests: stores under labels, and buckets of any name.
//!
//! Arguments are `BUCKET,KEY` or `BUCKET,KEY=VALUE`, each percent-encoded where it has those signs.

use probing::{Answer, Failure, decode, pair, show};
use wasip2::{
    exports::http::incoming_handler::Guest,
    http::types::{IncomingRequest, ResponseOutparam},
};

use self::bindings::{team_a, team_b, team_draft, team_spin, wasi::keyvalue0_2_0_draft2::store};

mod bindings {
    wit_bindgen::generate!({
        path: [
            "../../wit/deps/keyvalue",
            "../../host/wit/keyvalue-draft",
            "../../host/wit/spin-key-value",
            "wit",
        ],
        world: "tally:probe-labels/imports",
        generate_all,
    });
}

struct Probe;

wasip2::http::proxy::export!(Probe);

impl Guest for Probe {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        probing::answer(&request, out, operate);
    }
}

/// `/set`, `/get` and `/open` in the plain store, or below `/a` and `/b` in those of the labels.
fn operate(path: &str, argument: &str) -> Answer {
    let (bucket, rest) = argument.split_once(',').unwrap_or((argument, ""));
    let (bucket, (key, value)) = (decode(bucket), pair(rest));
    match path {
        "/open" => store::open(&bucket).map(|_| "opened".into()).map_err(Failure::from),
        "/open-many" => open_many(&bucket),
        "/set" => {
            store::open(&bucket)?.set(&key, value.as_bytes())?;
            Ok("set".into())
        }
        "/get" => Ok(show(store::open(&bucket)?.get(&key)?)),
        // What was read decides where it goes on.
        "/read-then-set" => {
            let other = show(store::open(&bucket)?.get(&key)?);
            store::open(&format!("{bucket}-{other}"))?.set(&key, value.as_bytes())?;
            Ok(format!("set in {bucket}-{other}"))
        }
        // Writes first, and answers with what another bucket holds.
        "/set-then-get" => {
            store::open(&bucket)?.set(&key, value.as_bytes())?;
            Ok(show(store::open(&format!("{bucket}-other"))?.get(&key)?))
        }
        "/a/open" => team_a::open(&bucket).map(|_| "opened".into()).map_err(Failure::from),
        "/a/set" => {
            team_a::open(&bucket)?.set(&key, value.as_bytes())?;
            Ok("set".into())
        }
        "/a/get" => Ok(show(team_a::open(&bucket)?.get(&key)?)),
        "/b/open" => team_b::open(&bucket).map(|_| "opened".into()).map_err(Failure::from),
        "/b/set" => {
            team_b::open(&bucket)?.set(&key, value.as_bytes())?;
            Ok("set".into())
        }
        "/b/get" => Ok(show(team_b::open(&bucket)?.get(&key)?)),
        "/draft/open" => team_draft::open(&bucket).map(|_| "opened".into()).map_err(Failure::from),
        "/draft/set" => {
            team_draft::open(&bucket)?.set(&key, value.as_bytes())?;
            Ok("set".into())
        }
        "/draft/get" => Ok(show(team_draft::open(&bucket)?.get(&key)?)),
        "/spin/open" => {
            team_spin::Store::open(&bucket).map(|_| "opened".into()).map_err(Failure::from)
        }
        "/spin/set" => {
            team_spin::Store::open(&bucket)?.set(&key, value.as_bytes())?;
            Ok("set".into())
        }
        "/spin/get" => Ok(show(team_spin::Store::open(&bucket)?.get(&key)?)),
        _ => Err(Failure::NoSuchPath),
    }
}

/// Opens so many buckets in one request, and says how many it got.
fn open_many(number: &str) -> Answer {
    let wanted: usize = number.parse().map_err(|_| Failure::Argument("a number"))?;
    let buckets: Result<Vec<_>, _> =
        (0..wanted).map(|number| store::open(&format!("many-{number}"))).collect();
    Ok(buckets?.len().to_string())
}
