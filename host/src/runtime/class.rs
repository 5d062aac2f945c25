//! Classes of slots, chosen by what a component declares. All guests of a class share its engine and
//! its slots.
//!
//! A handler compiled from Rust, C or Go takes little. A handler that carries an interpreter or a
//! JavaScript engine takes much, and gets fewer slots that are larger.

use super::{anatomy::Anatomy, host::Instances, limits::Limits, load_error::LoadError};

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

/// Instances of one small guest at once. Each reserves address space and keeps little memory, so these
/// are more than two cores can use, and bound what a slow store can pile up.
const SMALL_POOL: usize = 1_000;

/// Instances of one large guest at once. Each may keep some mebibytes.
const LARGE_POOL: usize = 100;

/// A class has slots for so many guests that use all they may: no guest can take them all.
const GUESTS: usize = 2;

/// Stacks of a slot whose guest waits in several places at a time: one that waits, and one on which what another wait
/// was for is given to it.
const CONCURRENT_STACKS: u32 = 2;

/// Tables of a large slot: interpreters declare a handful, and share a class so.
const LARGE_TABLES: u32 = 8;

/// Elements of a table in a large slot, at least: twice what interpreters declare.
const LARGE_TABLE_ELEMENTS: u64 = 32 << 10;

/// The most that a component may declare: what interpreters take, with room.
const MOST_TABLE_ELEMENTS: u64 = 1 << 20;
/// See [`MOST_TABLE_ELEMENTS`].
const MOST_OF_A_KIND: u32 = 64;

/// A class of slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Class {
    /// Bytes of one memory.
    pub(super) memory: usize,
    pub(super) memories: u32,
    pub(super) tables: u32,
    pub(super) table_elements: usize,
    /// Whether the slots are for interpreters.
    pub(super) large: bool,
    /// Whether the slots are for guests of WASI 0.3, which wait in several places at a time. That costs each call of
    /// such an engine more, so the others have engines without.
    pub(super) concurrent: bool,
}

/// What one guest needs: a class of slots, and how much of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Needs {
    pub(super) class: Class,
    /// Instances at once.
    pub(super) pool: usize,
    /// Bytes that one memory may grow to, of those that its slot has.
    pub(super) memory: usize,
}

impl Class {
    /// How many slots the class has.
    pub(super) fn slots(&self, instances: Instances) -> usize {
        let pool = if self.large { LARGE_POOL } else { SMALL_POOL };
        let most = if instances.by_class { pool.max(instances.most) } else { instances.most };
        most.saturating_mul(if instances.several { GUESTS } else { 1 }).max(1)
    }

    /// The classes that nearly all guests are of.
    pub(super) fn usual() -> [Self; 4] {
        [(false, false), (true, false), (false, true), (true, true)]
            .map(|(large, concurrent)| Self { concurrent, ..Self::with(large, 0, 1, 0, 0) })
    }

    /// Stacks that a slot has.
    pub(super) fn stacks(&self) -> u32 {
        if self.concurrent { CONCURRENT_STACKS } else { 1 }
    }

    /// The class of guests that need so much. They differ by a few: rounded, they share their class.
    fn with(large: bool, memory: usize, memories: u32, tables: u32, table_elements: u64) -> Self {
        let (least_memory, least_tables, least_elements) = match large {
            true => (LARGE_MEMORY, LARGE_TABLES, LARGE_TABLE_ELEMENTS),
            false => (SMALL_MEMORY, SMALL_TABLES, SMALL_TABLE_ELEMENTS),
        };
        let elements = table_elements.max(least_elements).next_power_of_two();
        Self {
            memory: memory.max(least_memory).next_power_of_two(),
            memories: memories.max(1).next_power_of_two(),
            tables: tables.max(least_tables).next_power_of_two(),
            // At most a million.
            table_elements: usize::try_from(elements).unwrap_or(usize::MAX),
            large,
            concurrent: false,
        }
    }
}

impl Needs {
    /// Whether the guest may have less memory than its slot has.
    pub(super) fn is_limited(&self) -> bool {
        self.memory < self.class.memory || self.class.memories > 1
    }

    /// The same of an engine for guests of WASI 0.3, or of one for all others.
    pub(super) fn concurrent(self, concurrent: bool) -> Self {
        Self { class: Class { concurrent, ..self.class }, ..self }
    }

    /// What a component needs, within what its limits say.
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
        let slot = if large { LARGE_MEMORY } else { SMALL_MEMORY };
        let memory = limits.memory.unwrap_or(slot);
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
        let elements = anatomy.table_elements;
        let class = Class::with(large, memory, takes.memories, takes.tables, elements);
        let pool = limits.pool.unwrap_or(if large { LARGE_POOL } else { SMALL_POOL });
        Ok(Self { class, pool, memory })
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
        let small = Needs::of(&compiled(), &limits).unwrap();
        assert_eq!((small.pool, small.memory, small.class.large), (1_000, 16 << 20, false));
        let mut classes = Vec::new();
        for interpreter in [
            Anatomy { memory: 6 << 20, ..compiled() },
            Anatomy { table_elements: 12_000, ..compiled() },
            of_core_instances(9),
        ] {
            let large = Needs::of(&interpreter, &limits).unwrap();
            assert_eq!((large.pool, large.memory, large.class.large), (100, 128 << 20, true));
            assert!(large.class.table_elements as u64 >= interpreter.table_elements);
            classes.push(large.class);
        }
        assert!(classes.iter().all(|class| *class == classes[0]), "they share one engine");
    }

    #[test]
    fn what_is_configured_wins_and_less_than_the_class_has_stays_in_it() {
        let interpreter = Anatomy { memory: 6 << 20, ..compiled() };
        let class = Needs::of(&interpreter, &Limits::default()).unwrap().class;
        let limits = Limits { pool: Some(7), memory: Some(32 << 20), ..Limits::default() };
        let large = Needs::of(&interpreter, &limits).unwrap();
        assert_eq!((large.pool, large.memory, large.class), (7, 32 << 20, class));
        let limits = Limits { memory: Some(150 << 20), ..Limits::default() };
        let larger = Needs::of(&interpreter, &limits).unwrap();
        assert_eq!((larger.memory, larger.class.memory), (150 << 20, 256 << 20));
        let greedy = Anatomy { memory: 151 << 20, ..compiled() };
        let error = Needs::of(&greedy, &limits).unwrap_err().to_string();
        assert!(error.contains("151 MiB") && error.contains("memory-limit"), "{error}");
    }

    #[test]
    fn no_guest_can_take_all_slots_of_its_class() {
        let needs = Needs::of(&compiled(), &Limits::default()).unwrap();
        let slots =
            |pools: &[Option<usize>]| needs.class.slots(Instances::of(pools.iter().copied()));
        assert!(slots(&[None, None]) > needs.pool);
        assert!(slots(&[None, Some(5_000)]) > 5_000);
        assert_eq!(slots(&[None]), needs.pool, "where there is no other");
        assert_eq!(slots(&[Some(3), Some(5)]), 10, "no more than are configured");
        assert!(slots(&[Some(3), None]) > needs.pool);
        assert!(Class::usual().contains(&needs.class));
    }

    #[test]
    fn what_fits_no_slot_is_refused() {
        for greedy in
            [of_core_instances(65), Anatomy { table_elements: (1 << 20) + 1, ..compiled() }]
        {
            assert!(Needs::of(&greedy, &Limits::default()).is_err());
        }
    }
}
