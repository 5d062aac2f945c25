//! Core modules that carry the type of a component (a world), as toolchains for WASI preview 1 build them: they
//! are turned into components when they are loaded.
//!
//! This takes some milliseconds for a mebibyte, on the threads that load. The same module gives the same component,
//! so its compiled code is found in the cache.

use std::panic;

use wasi_preview1_component_adapter_provider::{
    WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER,
};
use wasmparser::{Parser, Payload};
use wit_component::ComponentEncoder;

use super::load_error::LoadError;

/// What custom sections that hold a world are called, with something of the toolchain's behind it.
const WORLD_SECTION: &str = "component-type";

/// Whether these bytes begin as a core module does: with a magic number, a version, and the layer 0.
pub(super) fn is_module(bytes: &[u8]) -> bool {
    matches!(bytes, [0, b'a', b's', b'm', _, _, 0, _, ..])
}

/// The component that a core module stands for. What it imports of WASI preview 1 is answered by an adapter within
/// the component, over what this host offers.
///
/// # Errors
/// [`LoadError`], which says what to do, for a module without a world or with one that it does not fit.
pub(super) fn into_component(module: &[u8]) -> Result<Vec<u8>, LoadError> {
    if !has_world(module)? {
        return Err(LoadError::CoreModule);
    }
    // The bytes are anybody's, and the encoder takes some things for granted.
    let encoded = panic::catch_unwind(|| {
        let adapter = WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER;
        ComponentEncoder::default()
            .module(module)?
            .adapter(WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, adapter)?
            .encode()
    });
    match encoded {
        Ok(Ok(component)) => Ok(component),
        Ok(Err(error)) => Err(LoadError::Module(format!("{error:#}"))),
        Err(_) => Err(LoadError::Module("its parts do not fit each other".into())),
    }
}

fn has_world(module: &[u8]) -> Result<bool, LoadError> {
    for payload in Parser::new(0).parse_all(module) {
        match payload.map_err(|error| LoadError::Module(error.to_string()))? {
            Payload::CustomSection(section) if section.name().starts_with(WORLD_SECTION) => {
                return Ok(true);
            }
            _ => {}
        }
    }
    Ok(false)
}
