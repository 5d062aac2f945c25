//! Wasmtime's settings.
//!
//! What decides the speed of a fresh instance for each request: the pooling allocator, which keeps
//! slots of memory, tables and stacks ready; copy-on-write images of initial memory; and keeping
//! the touched pages of a slot resident, which needs the kernel to say which those are.

use std::num::NonZeroUsize;

use tally_resident::{Bounds, Residency};
use wasmtime::{Cache, Config, Enabled, PoolingAllocationConfig, Result, Strategy};

use super::class::{Class, SMALL_MEMORY_START};

/// Address space of one memory, in bytes: all that a guest can name. What it may not use faults by itself, and the
/// compiler leaves out the checks of each access, which are a fifth of an interpreter's time. Where a process cannot
/// have so much address space (8 TiB for the slots of compiled code), there is as much as a guest may use.
const WHOLE_MEMORY_BYTES: u64 = 4 << 30;

/// Stack of the guest, in bytes: wasmtime's default. Recursion ends here, as a trap.
const WASM_STACK_BYTES: usize = 512 << 10;

/// Stack a guest's fiber runs on, in bytes: the guest's own and as much again for host functions.
const FIBER_STACK_BYTES: usize = 1 << 20;

/// Bytes of a small slot's memory that stay resident after use. Compiled code touches a few pages.
const SMALL_KEEP_RESIDENT_BYTES: usize = 256 << 10;

/// Bytes of a large slot's memory that stay resident after use. An engine touches some hundred
/// pages for a small answer, and with what lies between them a thousand.
const LARGE_KEEP_RESIDENT_BYTES: usize = 8 << 20;

/// Bytes of a slot's tables that are cleared after use rather than given back to the kernel, which
/// costs a system call, page faults, and interruptions of every other core. A plugin guest has a page
/// of them, an interpreter some hundred kibibytes, of which it uses a few pages.
const TABLE_KEEP_RESIDENT_BYTES: usize = 256 << 10;

/// Metadata of one instance in the host's memory, in bytes, per core module.
const INSTANCE_BYTES: usize = 1 << 20;

/// Core instances of one component. A limit that reserves nothing: beside those that a component says
/// it has, wasmtime makes some of its own, for calls between components in it, which only compiling it
/// tells.
const CORE_INSTANCES: u32 = 1_000;

/// Frames of a guest's own stack that are logged when it traps, where that is asked for.
const BACKTRACE_FRAMES: usize = 20;

/// A wasmtime engine, shared by all guests of a class.
pub(super) struct Engine {
    engine: wasmtime::Engine,
    /// Where memory stays resident and guests write in many places.
    residency: Option<&'static Residency>,
}

impl Engine {
    /// An engine with so many slots of a class. With backtraces, the error of a trap has the guest's own
    /// stack. Memory may be kept resident only where the kernel has no swap.
    pub(super) fn new(
        class: &Class,
        slots: usize,
        backtraces: bool,
        may_keep: bool,
    ) -> Result<Self> {
        let engine = |reservation| {
            let config = config(class, slots, reservation, may_keep, backtraces)?;
            wasmtime::Engine::new(&config)
        };
        let engine = match engine(WHOLE_MEMORY_BYTES) {
            Ok(engine) => engine,
            Err(error) => {
                tracing::debug!(%error, "guests' memories have no more address space than they may use");
                engine(u64::try_from(class.memory).unwrap_or(u64::MAX))?
            }
        };
        let is_kept =
            class.large && may_keep && PoolingAllocationConfig::is_pagemap_scan_available();
        let bounds = Bounds {
            // What begins with less may have a small slot.
            least_image: usize::try_from(SMALL_MEMORY_START)
                .unwrap_or(usize::MAX)
                .saturating_add(1),
            keep_resident: LARGE_KEEP_RESIDENT_BYTES,
        };
        let residency = is_kept.then(|| Residency::of_process(bounds));
        Ok(Self { engine, residency })
    }

    pub(super) fn wasmtime(&self) -> &wasmtime::Engine {
        &self.engine
    }

    /// To be told of each guest that was loaded.
    pub(super) fn loaded(&self) {
        if let Some(residency) = self.residency {
            residency.loaded();
        }
    }

    /// To be told of each call of a guest, while its memory is as the call left it.
    pub(super) fn called(&self) {
        if let Some(residency) = self.residency {
            residency.called();
        }
    }
}

fn config(
    class: &Class,
    slots: usize,
    reservation: u64,
    may_keep: bool,
    backtraces: bool,
) -> Result<Config> {
    let slots = u32::try_from(slots).unwrap_or(u32::MAX);
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(slots)
        .total_core_instances(u32::MAX)
        .total_memories(slots.saturating_mul(class.memories))
        .total_tables(slots.saturating_mul(class.tables))
        .total_stacks(slots)
        .max_core_instances_per_component(CORE_INSTANCES)
        .max_memories_per_component(class.memories)
        .max_tables_per_component(class.tables)
        .max_component_instance_size(INSTANCE_BYTES)
        .max_core_instance_size(INSTANCE_BYTES)
        .max_memory_size(class.memory)
        .table_elements(class.table_elements)
        .table_keep_resident(TABLE_KEEP_RESIDENT_BYTES)
        // The default is shared out over shards, and a slot that is not warm costs system calls.
        .max_unused_warm_slots(slots);
    if may_keep {
        let keep = match class.large {
            true => LARGE_KEEP_RESIDENT_BYTES,
            false => SMALL_KEEP_RESIDENT_BYTES,
        };
        pool.pagemap_scan(Enabled::Auto).linear_memory_keep_resident(keep);
        if class.large && !PoolingAllocationConfig::is_pagemap_scan_available() {
            tracing::warn!(
                "this kernel does not tell which pages a guest has written, so guests that carry an interpreter are several times slower; Linux 6.7 and later does"
            );
        }
    }

    let mut config = Config::new();
    config
        .strategy(Strategy::Cranelift)
        .allocation_strategy(pool)
        .memory_reservation(reservation)
        .max_wasm_stack(WASM_STACK_BYTES)
        .async_stack_size(FIBER_STACK_BYTES)
        .epoch_interruption(true)
        // Guests of this world wait in one place at a time: the event loop for concurrent calls
        // would cost each of them a task.
        .concurrency_support(false)
        // They cost a trap, and code for their addresses, which nobody reads as a rule.
        .wasm_backtrace_max_frames(
            backtraces.then_some(BACKTRACE_FRAMES).and_then(NonZeroUsize::new),
        )
        .generate_address_map(backtraces)
        .wasm_memory64(false)
        // Interfaces that are imported under labels.
        .wasm_component_model_implements(true)
        .cache(cache());
    Ok(config)
}

/// Wasmtime's cache of compiled code, in the user's cache folder: the next start of the same guest
/// takes milliseconds. Where there is no such folder, guests are compiled at each start.
fn cache() -> Option<Cache> {
    match Cache::from_file(None) {
        Ok(cache) => Some(cache),
        Err(error) => {
            tracing::warn!(%error, "compiled guests cannot be cached; starting will take longer");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use wasmtime::{
        Store,
        component::{Component, Linker},
    };

    use super::{
        super::{anatomy::Anatomy, class::Needs, limits::Limits},
        *,
    };

    /// Between components that call each other wasmtime puts modules of its own, of which their
    /// bytes say nothing: here as many core modules as a small slot has, and one more.
    #[tokio::test]
    async fn components_that_call_each_other_fit() {
        let text = r#"(component
            (component $called
                (core module $answer (func (export "answer") (result i32) i32.const 42))
                (core instance $answer (instantiate $answer))
                (func (export "answer") (result u32)
                    (canon lift (core func $answer "answer"))))
            (component $calls
                (import "answer" (func $answer (result u32)))
                (core func $lowered (canon lower (func $answer)))
                (core module $asks
                    (import "" "answer" (func $answer (result i32)))
                    (func (export "ask") (result i32) call $answer))
                (core module $idle)
                (core instance (instantiate $idle))
                (core instance (instantiate $idle))
                (core instance $asks (instantiate $asks
                    (with "" (instance (export "answer" (func $lowered))))))
                (func (export "ask") (result u32) (canon lift (core func $asks "ask"))))
            (instance $called (instantiate $called))
            (instance $calls (instantiate $calls (with "answer" (func $called "answer"))))
            (export "ask" (func $calls "ask")))"#;
        let bytes = wat::parse_str(text).unwrap();
        let anatomy = Anatomy::of(&bytes).unwrap();
        let needs = Needs::of(&anatomy, &Limits::default()).unwrap();
        let engine = Engine::new(&needs.class, 10, false, true).unwrap();
        let component = Component::from_binary(engine.wasmtime(), &bytes).unwrap();
        let mut store = Store::new(engine.wasmtime(), ());
        store.set_epoch_deadline(100);
        let linker = Linker::new(engine.wasmtime());
        let instance = linker.instantiate_async(&mut store, &component).await.unwrap();
        let ask = instance.get_typed_func::<(), (u32,)>(&mut store, "ask").unwrap();
        assert_eq!(ask.call_async(&mut store, ()).await.unwrap(), (42,));
    }
}
