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

#[cfg(test)]
mod tests {
    use wit_component::StringEncoding;
    use wit_parser::Resolve;

    use super::*;

    fn embedded(text: &str, world: &str) -> Vec<u8> {
        let mut resolve = Resolve::default();
        let package = resolve.push_str("world.wit", world).unwrap();
        let world = resolve.select_world(&[package], None).unwrap();
        let mut module = wat::parse_str(text).unwrap();
        let utf8 = StringEncoding::UTF8;
        wit_component::embed_component_metadata(&mut module, &resolve, world, utf8).unwrap();
        module
    }

    /// A module with a world, and with imports of WASI preview 1 or without.
    fn seed(imports: &str) -> Vec<u8> {
        let text = format!(
            r#"(module
                (import "$root" "ask" (func (param i32 i32) (result i32)))
                {imports}
                (memory (export "memory") 1)
                (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) i32.const 16)
                (func (export "tell") (param i32 i32) (result i32) i32.const 0))"#
        );
        let world = "package a:b; world w { import ask: func(a: string) -> u32; export tell: func(a: string) -> u32; }";
        embedded(&text, world)
    }

    const PREVIEW1: &str = r#"
        (import "wasi_snapshot_preview1" "random_get" (func (param i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_write" (func (param i32 i32 i32 i32) (result i32)))"#;

    #[test]
    fn a_module_becomes_the_component_that_its_world_says() {
        for (imports, offered) in [("", false), (PREVIEW1, true)] {
            let component = into_component(&seed(imports)).unwrap();
            let anatomy = super::super::anatomy::Anatomy::of(&component).unwrap();
            let has = |name: &str| anatomy.imports.iter().any(|import| import.starts_with(name));
            assert!(has("ask"));
            assert_eq!(has("wasi:random/random@0.2."), offered, "{:?}", anatomy.imports);
        }
        // Without what it says that it exports.
        let world = "package a:b; world w { export tell: func(); }";
        let error = into_component(&embedded("(module)", world)).unwrap_err();
        assert!(matches!(&error, LoadError::Module(reason) if reason.contains("tell")), "{error}");
    }

    /// Whatever the bytes are, turning them into a component ends soon, and what comes of it is one.
    #[test]
    fn fuzz_modules() {
        let words: [&[u8]; 4] =
            [b"\0asm\x01\0\0\0", b"component-type", b"\xff\xff\xff\xff\x0f", b"$root"];
        tally_testkit::fuzz("modules", &[&seed(""), &seed(PREVIEW1)], &words, |input| {
            let Ok(component) = into_component(input) else { return };
            assert!(super::super::anatomy::Anatomy::of(&component).is_ok());
        });
    }
}
