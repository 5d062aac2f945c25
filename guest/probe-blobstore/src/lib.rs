//! A standard handler for tests: every operation of `wasi:blobstore`.
//!
//! Arguments are lists between commas, percent-encoded. Contents are told by their length: byte `n` of an object
//! is `n % 251`, moved by a seed, so that a part of one is no part of another.

mod write;

use probing::{Answer, Failure, decode};
use wasip2::{
    exports::http::incoming_handler::Guest,
    http::types::{IncomingRequest, ResponseOutparam},
};

use self::bindings::wasi::blobstore::{
    blobstore::{self, ObjectId},
    container::{Container, StreamObjectNames},
    types::IncomingValue,
};

mod bindings {
    wit_bindgen::generate!({
        path: "wit",
        world: "imports",
        with: {
            "wasi:io/error@0.2.12": wasip2::io::error,
            "wasi:io/poll@0.2.12": wasip2::io::poll,
            "wasi:io/streams@0.2.12": wasip2::io::streams,
        },
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

/// The content of an object of a seed and a length.
pub fn content(seed: usize, from: usize, length: usize) -> Vec<u8> {
    (from..from + length).map(|at| ((at + seed * 7) % 251) as u8).collect()
}

fn operate(path: &str, argument: &str) -> Answer {
    let arguments: Vec<String> = argument.split(',').map(decode).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match (path, arguments.as_slice()) {
        ("/create", [name]) => Ok(blobstore::create_container(name)?.name()?),
        ("/container", [name]) => {
            let info = blobstore::get_container(name)?.info()?;
            Ok(format!("{} since {}", info.name, info.created_at > 1_700_000_000))
        }
        ("/exists", [name]) => Ok(blobstore::container_exists(name)?.to_string()),
        ("/delete-container", [name]) => done(blobstore::delete_container(name)),
        ("/clear", [name]) => done(open(name)?.clear()),
        ("/copy", [from, object, to, copy]) => {
            done(blobstore::copy_object(&id(from, object), &id(to, copy)))
        }
        ("/move", [from, object, to, copy]) => {
            done(blobstore::move_object(&id(from, object), &id(to, copy)))
        }
        ("/delete", [name, objects @ ..]) if objects.len() != 1 => {
            let objects: Vec<String> = objects.iter().map(|&name| name.to_owned()).collect();
            done(open(name)?.delete_objects(&objects))
        }
        ("/delete", [name, object]) => done(open(name)?.delete_object(object)),
        ("/has", [name, object]) => Ok(open(name)?.has_object(object)?.to_string()),
        ("/info", [name, object]) => {
            let info = open(name)?.object_info(object)?;
            let is_new = info.created_at > 1_700_000_000;
            Ok(format!("{}/{} of {} bytes, {is_new}", info.container, info.name, info.size))
        }
        ("/list", [name]) => names(&open(name)?),
        ("/skip", [name, number]) => {
            let all = open(name)?.list_objects()?;
            let (skipped, _) = all.skip_stream_object_names(count(number)? as u64)?;
            let (rest, is_at_end) = all.read_stream_object_names(u64::MAX)?;
            Ok(format!("{skipped} and {}, {is_at_end}", rest.len()))
        }
        ("/read", [name, object, start, end]) => {
            let value = get(name, object, start, end)?;
            let bytes = IncomingValue::incoming_value_consume_sync(value)?;
            told(&bytes, count(start)?)
        }
        ("/stream", [name, object, start, end]) => {
            let value = get(name, object, start, end)?;
            let size = value.size();
            let body = IncomingValue::incoming_value_consume_async(value)?;
            let mut bytes = Vec::new();
            while let Ok(part) = body.blocking_read(100_000) {
                bytes.extend(part);
            }
            match bytes.len() as u64 == size {
                true => told(&bytes, count(start)?),
                false => Err(Failure::Operation(format!("{} of {size} bytes", bytes.len()))),
            }
        }
        _ => write::operate(path, &arguments),
    }
}

pub fn open(name: &str) -> Result<Container, Failure> {
    Ok(blobstore::get_container(name)?)
}

pub fn count(text: &str) -> Result<usize, Failure> {
    text.parse().map_err(|_| Failure::Argument("with numbers"))
}

fn get(name: &str, object: &str, start: &str, end: &str) -> Result<IncomingValue, Failure> {
    Ok(open(name)?.get_data(object, count(start)? as u64, count(end)? as u64)?)
}

fn id(container: &str, object: &str) -> ObjectId {
    ObjectId { container: container.into(), object: object.into() }
}

fn done(result: Result<(), String>) -> Answer {
    result?;
    Ok("done".into())
}

/// All names of a container, seven at a time, in order.
fn names(container: &Container) -> Answer {
    let stream: StreamObjectNames = container.list_objects()?;
    let mut names = Vec::new();
    loop {
        let (some, is_at_end) = stream.read_stream_object_names(7)?;
        names.extend(some);
        if is_at_end {
            names.sort_unstable();
            return Ok(names.join(","));
        }
    }
}

/// The length and the seed of what was read from a place on; an error if it is of two objects.
fn told(bytes: &[u8], start: usize) -> Answer {
    let Some(first) = bytes.first() else { return Ok("0 bytes".into()) };
    let seed = (0..251).find(|seed| ((start + seed * 7) % 251) as u8 == *first).unwrap_or(0);
    match bytes == content(seed, start, bytes.len()) {
        true => Ok(format!("{} bytes of {seed}", bytes.len())),
        false => Err(Failure::Operation("torn: it is of more than one object".into())),
    }
}
