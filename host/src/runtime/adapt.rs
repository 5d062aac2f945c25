//! Components as their authors built them, made to fit what this host links: in place, by a byte here and there.
//!
//! Two things are changed, and both only for guests of WASI 0.3:
//!
//! - Interfaces of the release candidate `0.3.0-rc-2026-03-15`, which Spin's tools export, are those of 0.3.0 to the
//!   letter, but wasmtime's linker matches releases by their range and candidates by their exact name. So the
//!   candidate's version is made one of 0.3.0 with build metadata (`0.3.0+rc-2026-03-15`), which is as long and
//!   matches.
//! - Functions of `wasi:keyvalue` are plain ones in its WIT. A guest may call a plain function so that it goes on while
//!   the call is on its way (component model, `canon lower` with `async`), but wasmtime runs only calls of `async`
//!   functions at the same time. So for a guest that does so they are made `async`, which leaves what it passes and
//!   gets as it is.

use std::borrow::Cow;

use wasmparser::{
    CanonicalFunction, CanonicalOption, ComponentAlias, ComponentExternalKind as Kind,
    ComponentFuncType, ComponentOuterAliasKind, ComponentType, ComponentTypeRef,
    InstanceTypeDeclaration, Parser, Payload,
};

use crate::interfaces::{self, Interface};

/// What begins a function's type in a component, and what begins that of an `async` one.
const PLAIN: u8 = 0x40;
/// See [`PLAIN`].
const ASYNC: u8 = 0x43;

/// A component's bytes, fit for this host's linker.
pub(super) struct Adapted<'a> {
    /// With the release candidate's names as those of the release.
    pub(super) named: Cow<'a, [u8]>,
    /// With functions of `wasi:keyvalue` that run at the same time, where it calls them so.
    pub(super) concurrent: Option<Vec<u8>>,
    /// Places of what begins the types of those that are not `async`.
    plain: Vec<usize>,
}

impl Adapted<'_> {
    /// With functions of `wasi:keyvalue` that run at the same time, whether it calls them so or not.
    pub(super) fn made_concurrent(self) -> Vec<u8> {
        let Self { mut named, concurrent, plain } = self;
        concurrent.unwrap_or_else(|| {
            set(&mut named, &plain, ASYNC);
            named.into_owned()
        })
    }
}

/// Adapts a component.
///
/// # Errors
/// When it cannot be read.
pub(super) fn adapt(bytes: &[u8]) -> wasmparser::Result<Adapted<'_>> {
    let found = Found::of(bytes)?;
    let mut named = Cow::Borrowed(bytes);
    set(&mut named, &found.dashes, b'+');
    let concurrent = found.is_concurrent.then(|| {
        let mut concurrent = named.clone();
        set(&mut concurrent, &found.plain, ASYNC);
        concurrent.into_owned()
    });
    Ok(Adapted { named, concurrent, plain: found.plain })
}

fn set(bytes: &mut Cow<'_, [u8]>, places: &[usize], to: u8) {
    for place in places {
        if let Some(byte) = bytes.to_mut().get_mut(*place) {
            *byte = to;
        }
    }
}

/// What was found in a component.
#[derive(Default)]
struct Found {
    /// Places of the dash before the release candidate's name.
    dashes: Vec<usize>,
    /// Places of what begins the type of a function of the store that is not `async`.
    plain: Vec<usize>,
    /// Whether the component goes on while a function of the store is on its way.
    is_concurrent: bool,
}

/// A component while it is read: what its indices stand for.
#[derive(Default)]
struct Frame {
    types: Vec<Functions>,
    /// Of each instance, whether its functions are the store's.
    instances: Vec<bool>,
    /// Of each function, whether it is one of the store.
    functions: Vec<bool>,
}

/// The functions that the type of an instance has; none for any other type.
#[derive(Clone, Default)]
struct Functions {
    /// Places of the types of those that are not `async`.
    plain: Vec<usize>,
    has_async: bool,
}

fn at<T: Clone + Default>(all: &[T], index: u32) -> T {
    let index = usize::try_from(index).unwrap_or(usize::MAX);
    all.get(index).cloned().unwrap_or_default()
}

impl Found {
    fn of(bytes: &[u8]) -> wasmparser::Result<Self> {
        let mut found = Self::default();
        // What is being read, from the outermost inwards: `None` for a core module.
        let mut open = vec![Some(Frame::default())];
        for payload in Parser::new(0).parse_all(bytes) {
            let is_outermost = open.len() == 1;
            match payload? {
                Payload::ModuleSection { .. } => open.push(None),
                Payload::ComponentSection { .. } => open.push(Some(Frame::default())),
                Payload::End(_) => drop(open.pop()),
                payload => {
                    if let Some(Some(frame)) = open.last_mut() {
                        found.look(bytes, payload, frame, is_outermost)?;
                    }
                }
            }
        }
        Ok(found)
    }

    fn look(
        &mut self,
        bytes: &[u8],
        payload: Payload<'_>,
        frame: &mut Frame,
        is_outermost: bool,
    ) -> wasmparser::Result<()> {
        match payload {
            Payload::ComponentTypeSection(section) => {
                for ty in section {
                    frame.types.push(match ty? {
                        ComponentType::Instance(declared) => functions(bytes, &declared),
                        _ => Functions::default(),
                    });
                }
            }
            Payload::ComponentAliasSection(section) => {
                for alias in section {
                    match alias? {
                        ComponentAlias::InstanceExport { kind, instance_index, .. } => {
                            frame.define(kind, at(&frame.instances, instance_index));
                        }
                        ComponentAlias::Outer { kind: ComponentOuterAliasKind::Type, .. } => {
                            frame.define(Kind::Type, false);
                        }
                        _ => {}
                    }
                }
            }
            Payload::ComponentImportSection(section) => {
                for import in section {
                    let import = import?;
                    let name = import.name.name;
                    if is_outermost {
                        self.dashes.extend(dash(bytes, name));
                    }
                    let ComponentTypeRef::Instance(index) = import.ty else {
                        frame.define(import.ty.kind(), false);
                        continue;
                    };
                    let is_store = interfaces::runs_concurrently(Interface::of(name));
                    if is_store {
                        let functions = at(&frame.types, index);
                        self.plain.extend(functions.plain);
                        self.is_concurrent |= functions.has_async;
                    }
                    frame.instances.push(is_store);
                }
            }
            Payload::ComponentInstanceSection(section) => {
                for instance in section {
                    instance?;
                    frame.instances.push(false);
                }
            }
            Payload::ComponentCanonicalSection(section) => {
                for function in section {
                    match function? {
                        CanonicalFunction::Lift { .. } => frame.functions.push(false),
                        CanonicalFunction::Lower { func_index, options } => {
                            self.is_concurrent |= options.contains(&CanonicalOption::Async)
                                && at(&frame.functions, func_index);
                        }
                        _ => {}
                    }
                }
            }
            Payload::ComponentExportSection(section) => {
                for export in section {
                    let export = export?;
                    if is_outermost {
                        self.dashes.extend(dash(bytes, export.name.name));
                    }
                    // What is exported has another index from here on.
                    let is_store = match export.kind {
                        Kind::Func => at(&frame.functions, export.index),
                        Kind::Instance => at(&frame.instances, export.index),
                        _ => false,
                    };
                    frame.define(export.kind, is_store);
                }
            }
            _ => {}
        }
        Ok(())
    }
}

impl Frame {
    fn define(&mut self, kind: Kind, is_store: bool) {
        match kind {
            Kind::Type => self.types.push(Functions::default()),
            Kind::Instance => self.instances.push(is_store),
            Kind::Func => self.functions.push(is_store),
            _ => {}
        }
    }
}

/// The place of the dash in the name of an interface of the release candidate.
fn dash(bytes: &[u8], name: &str) -> Option<usize> {
    let interface = Interface::of(name);
    if !interface.is_candidate() {
        return None;
    }
    let dash = interface.version.find('-')?;
    place(bytes, interface.version)?.checked_add(dash)
}

/// The functions in the type of an instance. Those of the store all have parameters.
fn functions(bytes: &[u8], declared: &[InstanceTypeDeclaration<'_>]) -> Functions {
    let mut functions = Functions::default();
    for declaration in declared {
        if let InstanceTypeDeclaration::Type(ComponentType::Func(function)) = declaration {
            functions.has_async |= function.async_;
            functions.plain.extend(plain(bytes, function));
        }
    }
    functions
}

/// The place of the type of a function that is not `async`.
fn plain(bytes: &[u8], function: &ComponentFuncType<'_>) -> Option<usize> {
    // It begins with its kind, the number of its parameters, and the length of the first one's name.
    let (first, _) = function.params.first()?;
    let begin = place(bytes, first)?.checked_sub(3)?;
    let count = u8::try_from(function.params.len()).ok()?;
    let expected = [PLAIN, count, u8::try_from(first.len()).ok()?];
    bytes.get(begin..)?.starts_with(&expected).then_some(begin)
}

/// Where in the bytes a text is that was read from them.
fn place(bytes: &[u8], text: &str) -> Option<usize> {
    text.as_ptr().addr().checked_sub(bytes.as_ptr().addr())
}

#[cfg(test)]
mod tests {
    use wasmparser::{Validator, WasmFeatures};

    use super::*;

    /// How a guest calls the store: it waits for each call, or goes on.
    fn component(lowered: &str) -> Vec<u8> {
        let text = r#"(component
            (type $other (instance
                (type (func (param "key" string)))
                (export "f" (func (type 0)))))
            (import "wasi:http/types@0.3.0-rc-2026-03-15" (instance (type $other)))
            (import "wasi:http/types@0.3.0" (instance (type $other)))
            (type $atomics (instance
                (type (func (param "key" u32) (param "delta" s64) (result s64)))
                (export "increment" (func (type 0)))))
            (import "wasi:keyvalue/atomics@0.2.0-draft2" (instance $imported (type $atomics)))
            (alias export $imported "increment" (func $increment))
            (core module $memory (memory (export "memory") 1))
            (core instance $memory (instantiate $memory))
            (alias core export $memory "memory" (core memory $memory))
            (core func (canon lower (func $increment) LOWERED))
            (instance $exported)
            (export "wasi:http/handler@0.3.0-rc-2026-03-15" (instance $exported)))"#;
        wat::parse_str(text.replace("LOWERED", lowered)).unwrap()
    }

    fn text(bytes: &[u8]) -> String {
        String::from_utf8_lossy(bytes).into_owned()
    }

    fn is_valid(bytes: &[u8]) -> bool {
        let features = WasmFeatures::default() | WasmFeatures::CM_ASYNC;
        Validator::new_with_features(features).validate_all(bytes).is_ok()
    }

    #[test]
    fn a_candidate_is_named_as_a_release() {
        let bytes = component("");
        let adapted = adapt(&bytes).unwrap();
        assert!(!text(&adapted.named).contains("-rc-"), "{}", text(&adapted.named));
        for name in ["types", "handler"].map(|name| format!("wasi:http/{name}@0.3.0+rc-2026-03-15"))
        {
            assert!(text(&adapted.named).contains(&name), "{name}");
        }
        assert!(is_valid(&adapted.named));
        assert_eq!(adapted.concurrent, None, "it waits for each call");
    }

    #[test]
    fn a_guest_that_goes_on_while_a_call_is_on_its_way_gets_async_functions() {
        let bytes = component("async (memory $memory)");
        let adapted = adapt(&bytes).unwrap();
        let concurrent = adapted.concurrent.unwrap();
        let both = adapted.named.iter().zip(&concurrent);
        let differ: Vec<_> = both.filter(|(before, after)| before != after).collect();
        assert_eq!(differ, [(&PLAIN, &ASYNC)], "the one function of wasi:keyvalue");
        assert!(is_valid(&concurrent));
    }

    #[test]
    fn what_needs_no_change_has_none() {
        let bytes = wat::parse_str(
            r#"(component (type (instance)) (import "wasi:http/types@0.3.1" (instance (type 0))))"#,
        )
        .unwrap();
        let adapted = adapt(&bytes).unwrap();
        assert!(matches!(adapted.named, Cow::Borrowed(_)) && adapted.concurrent.is_none());
    }
}
