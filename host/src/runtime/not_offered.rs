//! Imports that this host does not offer. A guest that has them runs, and is stopped when it calls one: guests of
//! some toolchains are built for a whole world, of which they call a part.

use wasmtime::{
    Engine, Result, bail,
    component::{
        Component, Linker, LinkerInstance, ResourceType,
        types::{ComponentFunc, ComponentInstance, ComponentItem},
    },
};

use crate::interfaces::{Context, Interface, advice};

/// Patch versions of WASI 0.2 that an interface of this host is looked for under.
const PATCHES: u32 = 64;

/// What stops a guest that calls what this host does not offer.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the guest called {function}, which this host does not offer{help}")]
pub(super) struct NotOffered {
    /// `package:name/interface@version#function`.
    function: String,
    /// What would help.
    help: String,
}

impl NotOffered {
    fn new(interface: Option<&str>, function: &str) -> Self {
        let help = interface.and_then(|name| advice(Interface::of(name)));
        Self {
            function: qualified(interface, function),
            help: help.map(|help| format!(": {help}")).unwrap_or_default(),
        }
    }
}

/// A handle of a resource that nothing makes.
struct Nothing;

/// The name that a linker has for an import. An import with a label is known by that alone.
fn linked_name(import: &str) -> &str {
    import.split_once(": ").map_or(import, |(label, _)| label)
}

/// Defines the interfaces in a list, as the component imports them, by functions that stop the guest.
///
/// # Errors
/// For an import of another kind, such as a module.
pub(super) fn define_interfaces(
    linker: &mut Linker<Context>,
    component: &Component,
    missing: &[&str],
) -> Result<()> {
    let engine = component.engine();
    linker.allow_shadowing(true);
    let mut stubs = Stubs { engine, known: Vec::new() };
    for (name, import) in component.component_type().imports(engine) {
        match missing.iter().find(|missing| linked_name(missing) == name) {
            Some(missing) => stubs.define(&mut linker.root(), name, &import.ty, Some(missing))?,
            None => stubs.note(&import.ty),
        }
    }
    linker.allow_shadowing(false);
    Ok(())
}

/// Defines functions and resources that the component imports from interfaces that this host offers, and that these
/// do not have here: a later version may have added them. Gives the functions' names.
pub(super) fn define_functions(
    linker: &mut Linker<Context>,
    component: &Component,
    missing: &[&str],
) -> Result<Vec<String>> {
    let engine = component.engine();
    let mut found = Vec::new();
    let mut stubs = Stubs { engine, known: Vec::new() };
    for (name, import) in component.component_type().imports(engine) {
        let ComponentItem::ComponentInstance(instance) = &import.ty else { continue };
        let functions = functions(instance, engine);
        let is_offered = !missing.iter().any(|missing| linked_name(missing) == name);
        let version = is_offered.then(|| version_here(linker, name, &functions)).flatten();
        let Some(version) = version else {
            stubs.note(&import.ty);
            continue;
        };
        let mut offered = linker.instance(&version)?;
        for (export, item) in instance.exports(engine) {
            if let ComponentItem::Resource(resource) = item.ty {
                // Fails for those that are there.
                let _ = stubs.define_resource(&mut offered, export, resource);
            }
        }
        for (function, ty) in functions {
            // As above.
            if define_function(&mut offered, function, &ty, Some(name)).is_ok() {
                found.push(qualified(Some(name), function));
            }
        }
    }
    Ok(found)
}

/// The name of a function with that of its interface, as wasmtime writes it.
fn qualified(interface: Option<&str>, function: &str) -> String {
    interface.map_or_else(|| function.to_owned(), |interface| format!("{interface}#{function}"))
}

fn functions<'a>(
    instance: &'a ComponentInstance,
    engine: &'a Engine,
) -> Vec<(&'a str, ComponentFunc)> {
    let exports = instance.exports(engine);
    let functions = exports.filter_map(|(name, item)| match item.ty {
        ComponentItem::ComponentFunc(ty) => Some((name, ty)),
        _ => None,
    });
    functions.collect()
}

/// The name that the linker has an interface by: with another patch version, most likely. A linker does not tell
/// what it has, but refuses to define it again.
fn version_here(
    linker: &Linker<Context>,
    name: &str,
    functions: &[(&str, ComponentFunc)],
) -> Option<String> {
    let interface = Interface::of(name);
    let patches = if interface.is_release() { 0..PATCHES } else { 0..0 };
    let mut scratch = linker.clone();
    let versions = patches.map(|patch| format!("{}@0.2.{patch}", interface.base));
    // Each of them once, as it has the functions from then on.
    let others = versions.filter(|version| version != name);
    std::iter::once(name.to_owned()).chain(others).find(|version| {
        scratch.instance(version).is_ok_and(|mut instance| {
            functions
                .iter()
                .any(|(function, ty)| define_function(&mut instance, function, ty, None).is_err())
        })
    })
}

fn define_function(
    linker: &mut LinkerInstance<'_, Context>,
    name: &str,
    ty: &ComponentFunc,
    interface: Option<&str>,
) -> Result<()> {
    let error = NotOffered::new(interface, name);
    if ty.async_() {
        return linker.func_new_concurrent(name, move |_, _, _, _| {
            let error = error.clone();
            Box::pin(async move { Err(error.into()) })
        });
    }
    linker.func_new(name, move |_, _, _, _| Err(error.clone().into()))
}

struct Stubs<'a> {
    engine: &'a Engine,
    /// Resources of the imports so far. One that comes again, in another interface that uses it, is the same and
    /// must not be defined.
    known: Vec<ResourceType>,
}

impl Stubs<'_> {
    /// Notes the resources of an import that is offered.
    fn note(&mut self, item: &ComponentItem) {
        match item {
            ComponentItem::Resource(resource) => self.known.push(*resource),
            ComponentItem::ComponentInstance(instance) => {
                instance.exports(self.engine).for_each(|(_, export)| self.note(&export.ty));
            }
            _ => {}
        }
    }

    fn define(
        &mut self,
        linker: &mut LinkerInstance<'_, Context>,
        name: &str,
        item: &ComponentItem,
        interface: Option<&str>,
    ) -> Result<()> {
        match item {
            ComponentItem::ComponentFunc(ty) => {
                // A function that is imported by itself is its own interface.
                define_function(linker, name, ty, interface.filter(|interface| *interface != name))
            }
            ComponentItem::ComponentInstance(instance) => {
                let mut inner = linker.instance(name)?;
                instance.exports(self.engine).try_for_each(|(name, export)| {
                    self.define(&mut inner, name, &export.ty, interface)
                })
            }
            ComponentItem::Resource(resource) => self.define_resource(linker, name, *resource),
            ComponentItem::Type(_) => Ok(()),
            _ => bail!("it imports {name}, a module or component, which this host does not offer"),
        }
    }

    fn define_resource(
        &mut self,
        linker: &mut LinkerInstance<'_, Context>,
        name: &str,
        resource: ResourceType,
    ) -> Result<()> {
        if self.known.contains(&resource) {
            return Ok(());
        }
        self.known.push(resource);
        linker.resource(name, ResourceType::host::<Nothing>(), |_, _| Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use wasmtime::{Config, Store};

    use super::*;
    use crate::interfaces::tests::fresh;

    fn engine() -> Engine {
        Engine::new(Config::new().concurrency_support(true)).unwrap()
    }

    fn component(engine: &Engine, text: &str) -> Component {
        Component::new(engine, wat::parse_str(text).unwrap()).unwrap()
    }

    /// Functions of WASI 0.3 are `async`.
    #[tokio::test]
    async fn an_async_function_that_is_missing_stops_the_guest_that_calls_it() {
        let engine = engine();
        let component = component(
            &engine,
            r#"(component
                (import "example:missing/things@1.0.0" (instance $things
                    (export "wait" (func async))))
                (alias export $things "wait" (func $wait))
                (core func $lowered (canon lower (func $wait)))
                (core module $module
                    (import "" "wait" (func $wait))
                    (func (export "run") (call $wait)))
                (core instance $instance (instantiate $module
                    (with "" (instance (export "wait" (func $lowered))))))
                (func (export "run") async (canon lift (core func $instance "run"))))"#,
        );
        let mut linker = Linker::new(&engine);
        let missing = ["example:missing/things@1.0.0"];
        define_interfaces(&mut linker, &component, &missing).unwrap();
        let (context, _) = fresh().await;
        let mut store = Store::new(&engine, context);
        let instance = linker.instantiate_async(&mut store, &component).await.unwrap();
        let run = instance.get_typed_func::<(), ()>(&mut store, "run").unwrap();
        let error = run.call_async(&mut store, ()).await.unwrap_err();
        assert!(format!("{error:#}").contains("example:missing/things@1.0.0#wait"), "{error:#}");
    }

    #[test]
    fn what_an_interface_lacks_is_found_whatever_patch_version_is_asked_for() {
        for patch in [0, 9, 12, 40] {
            let engine = engine();
            let name = format!("wasi:random/random@0.2.{patch}");
            let text = r#"(component (import "NAME" (instance
                (export "get-random-u64" (func (result u64)))
                (export "get-lucky-number" (func (result u64)))
                (export "die" (type $die (sub resource)))
                (export "[constructor]die" (func (result (own $die)))))))"#;
            let component = component(&engine, &text.replace("NAME", &name));
            let mut linker = Linker::<Context>::new(&engine);
            let mut offered = linker.instance("wasi:random/random@0.2.12").unwrap();
            offered.func_wrap("get-random-u64", |_, (): ()| Ok((4_u64,))).unwrap();
            assert!(linker.instantiate_pre(&component).is_err());
            let missing = define_functions(&mut linker, &component, &[]).unwrap();
            let lacks = ["get-lucky-number", "[constructor]die"];
            assert_eq!(missing, lacks.map(|function| format!("{name}#{function}")));
            assert!(linker.instantiate_pre(&component).is_ok(), "{name}");
        }
    }
}
