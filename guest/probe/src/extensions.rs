//! What the probe does with the extensions of key-value stores, and requests that are made again.

use std::{thread::sleep, time::Duration};

use crate::{
    exports::tally::plugin::handler::{Error, Response},
    state::{bucket, failed},
    tally::keyvalue::extensions::{self, Bounded, TimeToLive},
    text,
    wasi::keyvalue::atomics::{self, Cas},
};

/// How often a request that waits looks whether it may go on.
const LOOK: Duration = Duration::from_millis(20);

/// Answers `path` with an argument: a key, and what follows it behind a `=`.
pub fn handle(path: &str, argument: &str) -> Result<Response, Error> {
    let (key, rest) = argument.split_once('=').unwrap_or((argument, ""));
    let number = || rest.parse().map_err(|_| Error::BadRequest("KEY=NUMBER".into()));
    let show = |value: Option<Vec<u8>>| {
        value.map_or("(none)".into(), |value| String::from_utf8_lossy(&value).into())
    };
    let bucket = bucket()?;
    match path {
        "/set-for" => {
            let (value, ttl) = rest.split_once('=').unwrap_or((rest, ""));
            let ttl = ttl.parse().map_err(|_| Error::BadRequest("KEY=VALUE=MS".into()))?;
            extensions::set_for(&bucket, key, value.as_bytes(), ttl).map_err(failed)?;
            text("set".into())
        }
        "/extend" => text(extensions::extend(&bucket, key, number()?).map_err(failed)?.to_string()),
        "/persist" => text(extensions::persist(&bucket, key).map_err(failed)?.to_string()),
        "/remaining" => text(match extensions::remaining(&bucket, key).map_err(failed)? {
            TimeToLive::Missing => "missing".into(),
            TimeToLive::Unlimited => "unlimited".into(),
            TimeToLive::Left(left) => left.to_string(),
        }),
        "/get-and-set" => {
            let before = extensions::get_and_set(&bucket, key, rest.as_bytes(), None);
            text(show(before.map_err(failed)?))
        }
        "/set-if-absent" => {
            let set = extensions::set_if_absent(&bucket, key, rest.as_bytes(), Some(3_600_000));
            text(set.map_err(failed)?.to_string())
        }
        "/add-for" => {
            let count = extensions::increment_for(&bucket, key, 1, number()?).map_err(failed)?;
            text(count.to_string())
        }
        // Between 0 and 3, KEY=MS.
        "/within-for" => {
            let bounded = extensions::increment_within_for(&bucket, key, 1, 0, 3, number()?);
            text(match bounded.map_err(failed)? {
                Bounded::Applied(count) => format!("applied {count}"),
                Bounded::Refused(count) => format!("refused {count}"),
            })
        }
        // Between 0 and 3.
        "/within" => {
            let delta = rest.parse().map_err(|_| Error::BadRequest("KEY=DELTA".into()))?;
            let bounded = extensions::increment_within(&bucket, key, delta, 0, 3);
            text(match bounded.map_err(failed)? {
                Bounded::Applied(count) => format!("applied {count}"),
                Bounded::Refused(count) => format!("refused {count}"),
            })
        }
        // Tries what may change nothing, and then gives up over something else: a key that is
        // there already, a count that may not be raised, a key to keep that does not exist, and a
        // value that has changed since it was read.
        "/try-and-complain" => {
            match rest {
                "absent" => drop(extensions::set_if_absent(&bucket, key, b"2", None)),
                "within" => drop(extensions::increment_within(&bucket, key, 1, 0, 1)),
                "persist" => drop(extensions::persist(&bucket, key)),
                "extend" => drop(extensions::extend(&bucket, key, 3_600_000)),
                "swap" => {
                    let seen = Cas::new(&bucket, key).map_err(failed)?;
                    while bucket.exists("hold").map_err(failed)? {
                        sleep(LOOK);
                    }
                    drop(atomics::swap(seen, b"9"));
                }
                _ => return Err(Error::NotFound),
            }
            Err(Error::BadRequest("asked to".into()))
        }
        // Replaces a large value over and over, until the values read are too many.
        "/replace-often" => {
            for _ in 0..number()? {
                extensions::get_and_set(&bucket, key, &vec![b'v'; 1 << 20], None)
                    .map_err(failed)?;
            }
            text("done".into())
        }
        "/prefix" => {
            let mut page = extensions::list_prefix(&bucket, key, None).map_err(failed)?;
            page.keys.sort();
            text(page.keys.join(","))
        }
        // Counts, and answers once the key `hold` is gone.
        "/add-and-wait" => {
            let count = atomics::increment(&bucket, key, 1).map_err(failed)?;
            while bucket.exists("hold").map_err(failed)? {
                sleep(LOOK);
            }
            text(count.to_string())
        }
        // Counts once: a second time its answer is another, unless the first one's is remembered.
        "/add-if-first" => match bucket.get(key).map_err(failed)? {
            Some(_) => text("not the first".into()),
            None => text(atomics::increment(&bucket, key, 1).map_err(failed)?.to_string()),
        },
        // Several writes of several kinds.
        "/write-much" => {
            let before = extensions::get_and_set(&bucket, key, rest.as_bytes(), None);
            let before = show(before.map_err(failed)?);
            let count = atomics::increment(&bucket, "writes", 1).map_err(failed)?;
            let again = atomics::increment(&bucket, "writes", 1).map_err(failed)?;
            text(format!("{before} {count} {again}"))
        }
        _ => Err(Error::NotFound),
    }
}
