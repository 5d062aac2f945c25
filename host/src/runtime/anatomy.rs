//! What a component's bytes say of it, before anything is compiled: which interfaces it has, and
//! how much of a pool's slot it takes.
//!
//! A component may define others and make several instances of each, so what counts is not what is
//! defined but what becomes of it.

use wasmparser::{
    ComponentAlias, ComponentExternalKind as Kind, ComponentInstance, ComponentOuterAliasKind,
    Instance, Parser, Payload,
};

use super::load_error::LoadError;

/// Bytes of a page of linear memory.
const PAGE_BYTES: u64 = 64 << 10;

/// A component, taken apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Anatomy {
    /// Names of what it imports and exports, with their versions. What it imports under a label has that before
    /// its name, as WIT has it: `label: package:name/interface@version`.
    pub(super) imports: Vec<String>,
    pub(super) exports: Vec<String>,
    /// What one instance of it takes.
    pub(super) slot: Slot,
    /// Bytes that the largest of its memories begins with.
    pub(super) memory: u64,
    /// Elements that the largest of its tables begins with.
    pub(super) table_elements: u64,
}

/// What an instance takes of a pool, with all that is made for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) core_instances: u32,
    pub(super) memories: u32,
    pub(super) tables: u32,
}

impl Slot {
    /// Of what an importer or an instance gives, which no toolchain does with modules or components: what
    /// everything takes at least.
    const UNKNOWN: Self = Self { core_instances: 1, memories: 0, tables: 0 };

    fn plus(self, other: Self) -> Self {
        Self {
            core_instances: self.core_instances.saturating_add(other.core_instances),
            memories: self.memories.saturating_add(other.memories),
            tables: self.tables.saturating_add(other.tables),
        }
    }
}

impl Anatomy {
    /// Takes a component apart.
    ///
    /// # Errors
    /// [`LoadError`] for what is no component, saying what it is instead.
    pub(super) fn of(bytes: &[u8]) -> Result<Self, LoadError> {
        // The preamble: a magic number, a version, and a layer (0 for core modules, 1 for
        // components).
        match bytes {
            [0, b'a', b's', b'm', _, _, 0, _, ..] => return Err(LoadError::CoreModule),
            [0, b'a', b's', b'm', _, _, _, _, ..] => {}
            _ => return Err(LoadError::NotWebAssembly),
        }
        let mut reader = Reader { open: vec![Definition::default()], anatomy: Self::default() };
        for payload in Parser::new(0).parse_all(bytes) {
            payload
                .and_then(|payload| reader.read(payload))
                .map_err(|error| LoadError::Invalid(error.into()))?;
        }
        Ok(reader.anatomy)
    }
}

/// A component or core module while it is read.
#[derive(Default)]
struct Definition {
    is_module: bool,
    /// What an instance of it takes.
    slot: Slot,
    /// What an instance takes of each module and component that are defined in it, by their indices.
    modules: Vec<Slot>,
    components: Vec<Slot>,
}

impl Definition {
    fn define(&mut self, kind: Kind, slot: Slot) {
        match kind {
            Kind::Module => self.modules.push(slot),
            Kind::Component => self.components.push(slot),
            _ => {}
        }
    }

    fn defined(&self, kind: Kind, index: u32) -> Slot {
        let defined = match kind {
            Kind::Module => &self.modules,
            Kind::Component => &self.components,
            _ => return Slot::UNKNOWN,
        };
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        defined.get(index).copied().unwrap_or(Slot::UNKNOWN)
    }

    fn instantiate(&mut self, kind: Kind, index: u32) {
        self.slot = self.slot.plus(self.defined(kind, index));
    }
}

struct Reader {
    /// What is being read: the component, what is being defined in it, and so on inwards.
    open: Vec<Definition>,
    anatomy: Anatomy,
}

impl Reader {
    fn read(&mut self, payload: Payload<'_>) -> wasmparser::Result<()> {
        let is_outermost = self.open.len() == 1;
        let Some(within) = self.open.last_mut() else { return Ok(()) };
        match payload {
            Payload::ModuleSection { .. } => {
                self.open.push(Definition { is_module: true, ..Definition::default() });
            }
            Payload::ComponentSection { .. } => self.open.push(Definition::default()),
            Payload::End(_) => self.close(),
            Payload::ComponentImportSection(imports) => {
                for import in imports {
                    let import = import?;
                    if is_outermost {
                        let name = import.name.name;
                        self.anatomy.imports.push(match import.name.implements {
                            Some(interface) => format!("{name}: {interface}"),
                            None => name.to_owned(),
                        });
                    }
                    within.define(import.ty.kind(), Slot::UNKNOWN);
                }
            }
            Payload::ComponentExportSection(exports) => {
                for export in exports {
                    let export = export?;
                    if is_outermost && export.kind == Kind::Instance {
                        self.anatomy.exports.push(export.name.name.to_owned());
                    }
                    // What is exported has another index from here on.
                    within.define(export.kind, within.defined(export.kind, export.index));
                }
            }
            Payload::ComponentAliasSection(aliases) => {
                for alias in aliases {
                    self.alias(&alias?);
                }
            }
            Payload::InstanceSection(instances) => {
                for instance in instances {
                    if let Instance::Instantiate { module_index, .. } = instance? {
                        within.instantiate(Kind::Module, module_index);
                    }
                }
            }
            Payload::ComponentInstanceSection(instances) => {
                for instance in instances {
                    if let ComponentInstance::Instantiate { component_index, .. } = instance? {
                        within.instantiate(Kind::Component, component_index);
                    }
                }
            }
            Payload::MemorySection(memories) => {
                for memory in memories {
                    within.slot.memories = within.slot.memories.saturating_add(1);
                    let bytes = memory?.initial.saturating_mul(PAGE_BYTES);
                    self.anatomy.memory = self.anatomy.memory.max(bytes);
                }
            }
            Payload::TableSection(tables) => {
                for table in tables {
                    within.slot.tables = within.slot.tables.saturating_add(1);
                    let elements = table?.ty.initial;
                    self.anatomy.table_elements = self.anatomy.table_elements.max(elements);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn alias(&mut self, alias: &ComponentAlias<'_>) {
        let (kind, slot) = match *alias {
            ComponentAlias::InstanceExport { kind, .. } => (kind, Slot::UNKNOWN),
            ComponentAlias::Outer { kind, count, index } => {
                let kind = match kind {
                    ComponentOuterAliasKind::CoreModule => Kind::Module,
                    ComponentOuterAliasKind::Component => Kind::Component,
                    _ => return,
                };
                // Counted outwards from where the alias is.
                let outwards = usize::try_from(count).unwrap_or(usize::MAX);
                let outer = self.open.iter().rev().nth(outwards);
                (kind, outer.map_or(Slot::UNKNOWN, |outer| outer.defined(kind, index)))
            }
            ComponentAlias::CoreInstanceExport { .. } => return,
        };
        if let Some(within) = self.open.last_mut() {
            within.define(kind, slot);
        }
    }

    /// Ends what is innermost.
    fn close(&mut self) {
        let Some(done) = self.open.pop() else { return };
        let itself = Slot { core_instances: u32::from(done.is_module), ..Slot::default() };
        let slot = done.slot.plus(itself);
        match self.open.last_mut() {
            None => self.anatomy.slot = slot,
            Some(outer) if done.is_module => outer.define(Kind::Module, slot),
            Some(outer) => outer.define(Kind::Component, slot),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_component_is_counted_through_and_through() {
        let text = r#"(component
            (import "wasi:io/poll@0.2.0" (instance))
            (core module $main (memory 3) (table 7 funcref))
            (core module $shim (table 2 funcref))
            (core instance (instantiate $main))
            (core instance (instantiate $shim))
            (component $inner
                (core module $more (memory 1))
                (core instance (instantiate $more)))
            (instance $inside (instantiate $inner))
            (export "tally:plugin/handler@0.1.0" (instance $inside)))"#;
        let anatomy = Anatomy::of(&wat::parse_str(text).unwrap()).unwrap();
        assert_eq!(anatomy.imports, ["wasi:io/poll@0.2.0"]);
        assert_eq!(anatomy.exports, ["tally:plugin/handler@0.1.0"]);
        assert_eq!(anatomy.slot, Slot { core_instances: 3, memories: 2, tables: 2 });
        assert_eq!((anatomy.memory, anatomy.table_elements), (3 * PAGE_BYTES, 7));
    }

    #[test]
    fn what_is_defined_once_counts_for_each_instance() {
        let text = r#"(component
            (core module $shared (memory 1))
            (component $pair
                (alias outer 1 $shared (core module $of_outer))
                (core instance (instantiate $of_outer))
                (core module $own (table 1 funcref))
                (core instance (instantiate $own))
                (core instance (instantiate $own)))
            (component $unused (core module $never (memory 9)))
            (instance (instantiate $pair))
            (export $again "again" (component $pair))
            (instance (instantiate $again))
            (core instance (instantiate $shared)))"#;
        let anatomy = Anatomy::of(&wat::parse_str(text).unwrap()).unwrap();
        assert_eq!(anatomy.slot, Slot { core_instances: 7, memories: 3, tables: 4 });
    }

    #[test]
    fn what_is_no_component_is_named() {
        let module = wat::parse_str("(module)").unwrap();
        assert!(matches!(Anatomy::of(&module), Err(LoadError::CoreModule)));
        assert!(matches!(Anatomy::of(b"#!/bin/sh"), Err(LoadError::NotWebAssembly)));
        assert!(matches!(Anatomy::of(b""), Err(LoadError::NotWebAssembly)));
        let component = wat::parse_str("(component (core module))").unwrap();
        let cut = &component[..component.len() - 1];
        assert!(matches!(Anatomy::of(cut), Err(LoadError::Invalid(_))));
    }

    /// A component that is summed up is one that can be told apart from others; whatever the bytes are, that
    /// ends soon and takes little memory.
    #[test]
    fn fuzz_components() {
        let texts = [
            r#"(component
                (import "wasi:io/poll@0.2.0" (instance))
                (core module $main (memory 3) (table 7 funcref))
                (core instance (instantiate $main))
                (component $inner (core module $more (memory 1)) (core instance (instantiate $more)))
                (instance $inside (instantiate $inner))
                (export "tally:plugin/handler@0.1.0" (instance $inside)))"#,
            r#"(component
                (core module $shared (memory 1))
                (component $pair
                    (alias outer 1 $shared (core module $of_outer))
                    (core instance (instantiate $of_outer)))
                (instance (instantiate $pair))
                (export $again "again" (component $pair))
                (instance (instantiate $again)))"#,
        ];
        let seeds = texts.map(|text| wat::parse_str(text).unwrap());
        let seeds = [&*seeds[0], &*seeds[1]];
        let words: [&[u8]; 6] = [
            b"\0asm\x0d\0\x01\0",
            b"\0asm\x01\0\0\0",
            b"\xff\xff\xff\xff\x0f",
            b"\x04\x0a",
            b"\x05",
            b"\x02\x04\x01\0",
        ];
        tally_testkit::fuzz("components", &seeds, &words, |input| {
            let Ok(anatomy) = Anatomy::of(input) else { return };
            let again = Anatomy::of(input).unwrap();
            assert_eq!((anatomy.slot, anatomy.memory), (again.slot, again.memory));
            // What does not fit is refused, and what does has a class.
            let needs = super::super::class::Needs::of(&anatomy, &super::super::Limits::default());
            if let Ok(needs) = needs {
                assert!(needs.class.memory as u64 >= anatomy.memory);
            }
        });
    }
}
