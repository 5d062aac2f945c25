//! Imports that this host does not offer. A guest that has them runs, and is stopped when it calls one: guests of
//! some toolchains are built for a whole world, of which they call a part.

use wasmtime::{
    Engine, Result, bail,
    component::{
        Component, Linker, LinkerInstance, ResourceType,
        types::{ComponentInstance, ComponentItem},
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

/// Defines functions that the component imports from interfaces that this host offers, and that these do not
/// have here: a later version may have added them. Gives their names.
pub(super) fn define_functions(
    linker: &mut Linker<Context>,
    component: &Component,
    missing: &[&str],
) -> Result<Vec<String>> {
    let engine = component.engine();
    let mut found = Vec::new();
    for (name, import) in component.component_type().imports(engine) {
        let ComponentItem::ComponentInstance(instance) = &import.ty else { continue };
        if missing.iter().any(|missing| linked_name(missing) == name) {
            continue;
        }
        let functions = functions(instance, engine);
        let Some(version) = version_here(linker, name, &functions) else { continue };
        let mut offered = linker.instance(&version)?;
        for function in functions {
            // Fails for those that are there.
            if define_function(&mut offered, function, Some(name)).is_ok() {
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

fn functions<'a>(instance: &'a ComponentInstance, engine: &'a Engine) -> Vec<&'a str> {
    let exports = instance.exports(engine);
    let functions = exports.filter(|(_, item)| matches!(item.ty, ComponentItem::ComponentFunc(_)));
    functions.map(|(name, _)| name).collect()
}

/// The name that the linker has an interface by: with another patch version, most likely. A linker does not tell
/// what it has, but refuses to define it again.
fn version_here(linker: &Linker<Context>, name: &str, functions: &[&str]) -> Option<String> {
    let interface = Interface::of(name);
    let patches = if interface.is_release() { 0..PATCHES } else { 0..0 };
    let mut scratch = linker.clone();
    let versions = patches.map(|patch| format!("{}@0.2.{patch}", interface.base));
    std::iter::once(name.to_owned()).chain(versions).find(|version| {
        scratch.instance(version).is_ok_and(|mut instance| {
            let mut has = |function| define_function(&mut instance, function, None).is_err();
            functions.iter().any(|function| has(*function))
        })
    })
}

fn define_function(
    linker: &mut LinkerInstance<'_, Context>,
    name: &str,
    interface: Option<&str>,
) -> Result<()> {
    let error = NotOffered::new(interface, name);
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
            ComponentItem::ComponentFunc(_) => {
                // A function that is imported by itself is its own interface.
                define_function(linker, name, interface.filter(|interface| *interface != name))
            }
            ComponentItem::ComponentInstance(instance) => {
                let mut inner = linker.instance(name)?;
                instance.exports(self.engine).try_for_each(|(name, export)| {
                    self.define(&mut inner, name, &export.ty, interface)
                })
            }
            ComponentItem::Resource(resource) if !self.known.contains(resource) => {
                self.known.push(*resource);
                linker.resource(name, ResourceType::host::<Nothing>(), |_, _| Ok(()))
            }
            ComponentItem::Resource(_) | ComponentItem::Type(_) => Ok(()),
            _ => bail!("it imports {name}, a module or component, which this host does not offer"),
        }
    }
}
