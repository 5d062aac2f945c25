//! What a component's bytes say of it, before anything is compiled: which interfaces it has, and
//! how much of a pool's slot it takes.

use wasmparser::{ComponentExternalKind, Instance, Parser, Payload};

use super::inspection::LoadError;

/// Bytes of a page of linear memory.
const PAGE_BYTES: u64 = 64 << 10;

/// A component, taken apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Anatomy {
    /// Names of what it imports and exports, with their versions.
    pub(super) imports: Vec<String>,
    pub(super) exports: Vec<String>,
    /// Core instances, memories and tables of one instance of it.
    pub(super) core_instances: u32,
    pub(super) memories: u32,
    pub(super) tables: u32,
    /// Bytes that the largest of its memories begins with.
    pub(super) memory: u64,
    /// Elements that the largest of its tables begins with.
    pub(super) table_elements: u64,
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
        let mut anatomy = Self::default();
        anatomy.read(bytes).map_err(|error| LoadError::Invalid(error.into()))?;
        Ok(anatomy)
    }

    fn read(&mut self, bytes: &[u8]) -> wasmparser::Result<()> {
        // The component itself is at depth 1, what is inside it deeper.
        let mut depth = 0_usize;
        for payload in Parser::new(0).parse_all(bytes) {
            match payload? {
                Payload::Version { .. } => depth = depth.saturating_add(1),
                Payload::End(_) => depth = depth.saturating_sub(1),
                Payload::ComponentImportSection(imports) if depth == 1 => {
                    for import in imports {
                        self.imports.push(import?.name.name.to_owned());
                    }
                }
                Payload::ComponentExportSection(exports) if depth == 1 => {
                    for export in exports {
                        let export = export?;
                        if export.kind == ComponentExternalKind::Instance {
                            self.exports.push(export.name.name.to_owned());
                        }
                    }
                }
                Payload::InstanceSection(instances) => {
                    for instance in instances {
                        if matches!(instance?, Instance::Instantiate { .. }) {
                            self.core_instances = self.core_instances.saturating_add(1);
                        }
                    }
                }
                Payload::MemorySection(memories) => {
                    for memory in memories {
                        self.memories = self.memories.saturating_add(1);
                        let bytes = memory?.initial.saturating_mul(PAGE_BYTES);
                        self.memory = self.memory.max(bytes);
                    }
                }
                Payload::TableSection(tables) => {
                    for table in tables {
                        self.tables = self.tables.saturating_add(1);
                        self.table_elements = self.table_elements.max(table?.ty.initial);
                    }
                }
                _ => {}
            }
        }
        Ok(())
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
        let counts = (anatomy.core_instances, anatomy.memories, anatomy.tables);
        assert_eq!(counts, (3, 2, 2));
        assert_eq!((anatomy.memory, anatomy.table_elements), (3 * PAGE_BYTES, 7));
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
}
