//! The size of the pool's slots, chosen by what a component declares.
//!
//! A handler compiled from Rust, C or Go takes little. A handler that carries an interpreter or a
//! JavaScript engine takes much, and gets fewer slots that are larger.

use super::{anatomy::Anatomy, inspection::LoadError, limits::Limits};

/// Memory a component may begin with and still be counted as small: compiled code begins with one
/// or two mebibytes, engines and interpreters with more than five.
pub(super) const SMALL_MEMORY_START: u64 = 4 << 20;

/// Elements of a table in a small slot. Compiled Rust and C use some hundreds.
const SMALL_TABLE_ELEMENTS: u64 = 8 << 10;

/// A component of compiled code is up to this many core modules: a guest of a standard library is
/// three, with the shims of its imports.
const SMALL_CORE_INSTANCES: u32 = 4;

/// And these tables.
const SMALL_TABLES: u32 = 2;

/// Memory of a small slot, in bytes.
const SMALL_MEMORY: usize = 16 << 20;

/// Memory of a large slot, in bytes: an interpreter and room to work.
const LARGE_MEMORY: usize = 128 << 20;

/// Small slots. Each reserves address space and keeps little memory, so these are more than two
/// cores can use, and bound what a slow store can pile up.
const SMALL_POOL: usize = 1_000;

/// Large slots. Each may keep some mebibytes.
const LARGE_POOL: usize = 100;

/// The most that a component may declare: what interpreters take, with room.
const MOST_TABLE_ELEMENTS: u64 = 1 << 20;
/// See [`MOST_TABLE_ELEMENTS`].
const MOST_OF_A_KIND: u32 = 64;

/// The slots of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Profile {
    /// Slots, which is instances at once.
    pub(super) pool: usize,
    /// Bytes of one memory.
    pub(super) memory: usize,
    pub(super) memories: u32,
    pub(super) tables: u32,
    pub(super) table_elements: usize,
    /// Whether the slots are for interpreters.
    pub(super) large: bool,
}

impl Profile {
    /// The slots that a component needs, within what its limits say.
    ///
    /// # Errors
    /// [`LoadError::Size`], when it declares more than it may have.
    pub(super) fn of(anatomy: &Anatomy, limits: &Limits) -> Result<Self, LoadError> {
        let takes = anatomy.slot;
        let large = anatomy.memory > SMALL_MEMORY_START
            || anatomy.table_elements > SMALL_TABLE_ELEMENTS
            || takes.core_instances > SMALL_CORE_INSTANCES
            || takes.tables > SMALL_TABLES
            || takes.memories > 1;
        let memory = limits.memory.unwrap_or(if large { LARGE_MEMORY } else { SMALL_MEMORY });
        if usize::try_from(anatomy.memory).is_ok_and(|declared| declared > memory) {
            let declared = anatomy.memory >> 20;
            return Err(LoadError::Size(format!(
                "it begins with {declared} MiB of memory, over the limit of {} MiB; raise memory-limit",
                memory >> 20
            )));
        }
        let most = [takes.core_instances, takes.memories, takes.tables].into_iter().max();
        if most > Some(MOST_OF_A_KIND) || anatomy.table_elements > MOST_TABLE_ELEMENTS {
            return Err(LoadError::Size(format!(
                "it is made of {} core modules with {} memories and {} tables of up to {} elements; at most {MOST_OF_A_KIND} of each and {MOST_TABLE_ELEMENTS} elements fit",
                takes.core_instances, takes.memories, takes.tables, anatomy.table_elements
            )));
        }
        // Versions of a guest differ by a few: rounded, they share their slots.
        let round = |declared: u32, least: u32| match declared <= least {
            true => least,
            false => declared.next_power_of_two(),
        };
        let elements = anatomy.table_elements.max(SMALL_TABLE_ELEMENTS).next_power_of_two();
        Ok(Self {
            pool: limits.pool.unwrap_or(if large { LARGE_POOL } else { SMALL_POOL }),
            memory,
            memories: round(takes.memories, 1),
            tables: round(takes.tables, SMALL_TABLES),
            // At most a million.
            table_elements: usize::try_from(elements).unwrap_or(usize::MAX),
            large,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{super::anatomy::Slot, *};

    fn compiled() -> Anatomy {
        Anatomy {
            slot: Slot { core_instances: 3, memories: 1, tables: 2 },
            memory: 17 << 16,
            table_elements: 300,
            ..Anatomy::default()
        }
    }

    fn of_core_instances(core_instances: u32) -> Anatomy {
        let slot = Slot { core_instances, ..compiled().slot };
        Anatomy { slot, ..compiled() }
    }

    #[test]
    fn compiled_code_gets_many_small_slots_and_an_interpreter_few_large_ones() {
        let limits = Limits::default();
        let small = Profile::of(&compiled(), &limits).unwrap();
        assert_eq!((small.pool, small.memory, small.large), (1_000, 16 << 20, false));
        for interpreter in [
            Anatomy { memory: 6 << 20, ..compiled() },
            Anatomy { table_elements: 12_000, ..compiled() },
            of_core_instances(9),
        ] {
            let large = Profile::of(&interpreter, &limits).unwrap();
            assert_eq!((large.pool, large.memory, large.large), (100, 128 << 20, true));
            assert!(large.table_elements as u64 >= interpreter.table_elements);
        }
    }

    #[test]
    fn what_is_configured_wins() {
        let limits = Limits { pool: Some(7), memory: Some(32 << 20), ..Limits::default() };
        let large = Profile::of(&Anatomy { memory: 6 << 20, ..compiled() }, &limits).unwrap();
        assert_eq!((large.pool, large.memory), (7, 32 << 20));
        let greedy = Anatomy { memory: 33 << 20, ..compiled() };
        let error = Profile::of(&greedy, &limits).unwrap_err().to_string();
        assert!(error.contains("33 MiB") && error.contains("memory-limit"), "{error}");
    }

    #[test]
    fn what_fits_no_slot_is_refused() {
        for greedy in
            [of_core_instances(65), Anatomy { table_elements: (1 << 20) + 1, ..compiled() }]
        {
            assert!(Profile::of(&greedy, &Limits::default()).is_err());
        }
    }
}
