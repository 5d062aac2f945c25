//! Middleware: components that requests pass before a guest. Each exports the handler of WASI 0.3 and imports that of
//! what is behind it (`wasi:http/middleware`).
//!
//! A chain is composed into one component before it is compiled. It runs in one instance, with the limits and the
//! accounts of one guest, and a call from one part to the next does not pass the host.

use std::{fs, panic, path::PathBuf};

use wac_graph::{CompositionGraph, EncodeOptions, types::Package};

use super::{adapt::adapt, anatomy::Anatomy, load_error::LoadError, module};
use crate::interfaces::Interface;

/// Composes middleware, the outermost first, and a guest into one component. Reads the files.
///
/// # Errors
/// [`LoadError`], which says which of them is wrong.
pub(super) fn compose(middleware: &[PathBuf], guest: &[u8]) -> Result<Vec<u8>, LoadError> {
    let mut parts = Vec::new();
    for path in middleware {
        let read = fs::read(path)
            .map_err(|reason| LoadError::File { path: path.clone(), reason: reason.to_string() })?;
        parts.push(Part::middleware(path, read)?);
    }
    parts.push(Part::guest(guest)?);
    let parts = fitted(parts)?;
    // The bytes are anybody's, and what composes them takes some things for granted.
    match panic::catch_unwind(|| chain(&parts)) {
        Ok(Ok(component)) => Ok(component),
        Ok(Err(reason)) => Err(LoadError::Chain(reason)),
        Err(_) => Err(LoadError::Chain("they cannot be composed".into())),
    }
}

/// One component of a chain.
struct Part {
    bytes: Vec<u8>,
    /// The name that it imports what is behind it by.
    import: Option<String>,
    export: String,
}

impl Part {
    fn middleware(path: &std::path::Path, bytes: Vec<u8>) -> Result<Self, LoadError> {
        let wrong = |reason: String| LoadError::Middleware { path: path.to_owned(), reason };
        let bytes = match module::is_module(&bytes) {
            true => module::into_component(&bytes).map_err(|error| wrong(error.to_string()))?,
            false => bytes,
        };
        let anatomy =
            Anatomy::of(&bytes).map_err(|error| wrong(format!("cannot be read: {error}")))?;
        let (import, export) = (handler(&anatomy.imports), handler(&anatomy.exports));
        match (import, export) {
            (Some(import), Some(export)) => Ok(Self { bytes, import: Some(import), export }),
            (None, Some(_)) => Err(wrong(
                "does not import wasi:http/handler of WASI 0.3, so it never calls the guest behind it; build it for the world wasi:http/middleware".into(),
            )),
            (_, None) => Err(wrong(
                "does not export wasi:http/handler of WASI 0.3, so it takes no requests; build it for the world wasi:http/middleware".into(),
            )),
        }
    }

    fn guest(bytes: &[u8]) -> Result<Self, LoadError> {
        let anatomy = Anatomy::of(bytes)?;
        match handler(&anatomy.exports) {
            Some(export) => Ok(Self { bytes: bytes.to_vec(), import: None, export }),
            None => {
                let exports = anatomy.exports.join(", ").escape_debug().to_string();
                Err(LoadError::BehindMiddleware(exports))
            }
        }
    }
}

/// The handler of WASI 0.3 in a list of names.
fn handler(names: &[String]) -> Option<String> {
    let is_handler = |name: &&String| {
        let interface = Interface::of(name);
        interface.base == "wasi:http/handler" && interface.is_of_0_3()
    };
    names.iter().find(is_handler).cloned()
}

/// Makes parts import the same of this host: they share what they import. If one of them has several state operations
/// on their way at a time, the functions of `wasi:keyvalue` are `async` for all.
fn fitted(parts: Vec<Part>) -> Result<Vec<Part>, LoadError> {
    let adapted = parts.iter().map(|part| adapt(&part.bytes)).collect::<Result<Vec<_>, _>>();
    let adapted = adapted.map_err(|error| LoadError::Invalid(error.into()))?;
    let at_once = adapted.iter().any(|adapted| adapted.concurrent.is_some());
    let bytes = adapted.into_iter().map(|adapted| match at_once {
        true => adapted.made_concurrent(),
        false => adapted.named.into_owned(),
    });
    let bytes: Vec<_> = bytes.collect();
    // The names may have changed.
    let part = |bytes: Vec<u8>| {
        let anatomy = Anatomy::of(&bytes)?;
        let export = handler(&anatomy.exports).unwrap_or_default();
        Ok(Part { import: handler(&anatomy.imports), export, bytes })
    };
    bytes.into_iter().map(part).collect()
}

/// Joins parts, the outermost first: each imports what the next one exports.
fn chain(parts: &[Part]) -> Result<Vec<u8>, String> {
    fn told(error: impl Into<anyhow::Error>) -> String {
        format!("{:#}", error.into())
    }
    let mut graph = CompositionGraph::new();
    let mut behind = None;
    for (number, part) in parts.iter().enumerate().rev() {
        let name = format!("tally:part{number}");
        let package = Package::from_bytes(&name, None, part.bytes.clone(), graph.types_mut());
        let package = graph.register_package(package.map_err(told)?).map_err(told)?;
        let instance = graph.instantiate(package);
        if let (Some(import), Some(behind)) = (&part.import, behind) {
            graph.set_instantiation_argument(instance, import, behind).map_err(told)?;
        }
        behind = Some(graph.alias_instance_export(instance, &part.export).map_err(told)?);
    }
    if let (Some(first), Some(behind)) = (parts.first(), behind) {
        graph.export(behind, &first.export).map_err(told)?;
    }
    // Wasmtime checks it when it compiles it.
    let options = EncodeOptions { validate: false, ..EncodeOptions::default() };
    graph.encode(options).map_err(told)
}
