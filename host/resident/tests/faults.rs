//! With Wasmtime as it is: a guest that writes in many places faults in all of them for each call,
//! and not where its memories are kept resident.

#![allow(clippy::unwrap_used, reason = "a test that fails should stop where it fails")]

use std::fs;

use tally_resident::{Bounds, Residency};
use wasmtime::{Config, Enabled, Engine, Linker, Module, PoolingAllocationConfig, Result, Store};

const BOUNDS: Bounds = Bounds { least_image: 4 << 20, keep_resident: 4 << 20 };

/// Places that the guest writes, three pages apart: more stretches than Wasmtime looks for.
const PLACES: u64 = 60;

/// Its initial memory has data at both ends, and it finds a zero wherever it has not written yet.
const GUEST: &str = r#"(module
    (memory 80)
    (data (i32.const 0) "first")
    (data (i32.const 5_200_000) "last")
    (func (export "write") (param $places i32) (result i32)
        (local $place i32) (local $found i32)
        (loop $again
            (local.set $found (i32.add (local.get $found)
                (i32.load8_u offset=100 (i32.mul (local.get $place) (i32.const 12288)))))
            (i32.store8 offset=100 (i32.mul (local.get $place) (i32.const 12288)) (i32.const 1))
            (local.set $place (i32.add (local.get $place) (i32.const 1)))
            (br_if $again (i32.lt_u (local.get $place) (local.get $places))))
        local.get $found))"#;

struct Host {
    engine: Engine,
    module: Module,
}

impl Host {
    fn new() -> Result<Self> {
        let mut pool = PoolingAllocationConfig::new();
        pool.total_memories(2)
            .max_memory_size(6 << 20)
            .linear_memory_keep_resident(BOUNDS.keep_resident)
            .pagemap_scan(Enabled::Yes);
        let engine = Engine::new(Config::new().allocation_strategy(pool))?;
        let module = Module::new(&engine, wat::parse_str(GUEST).unwrap())?;
        Ok(Self { engine, module })
    }

    /// Calls a fresh instance, and checks that it finds nothing of those before.
    fn call(&self, places: u64, called: impl Fn()) -> Result<()> {
        let mut store = Store::new(&self.engine, ());
        let instance = Linker::new(&self.engine).instantiate(&mut store, &self.module)?;
        let write = instance.get_typed_func::<u32, u32>(&mut store, "write")?;
        let found = write.call(&mut store, u32::try_from(places)?)?;
        assert_eq!(found, 0, "a page of another call");
        called();
        Ok(())
    }

    /// Page faults of this thread in so many calls.
    fn faults(&self, calls: u64, called: impl Fn()) -> Result<u64> {
        let before = thread_faults();
        for _ in 0..calls {
            self.call(PLACES, &called)?;
        }
        Ok(thread_faults() - before)
    }
}

/// The field `minflt` of proc_pid_stat(5).
fn thread_faults() -> u64 {
    let stat = fs::read_to_string("/proc/thread-self/stat").unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    fields.split_ascii_whitespace().nth(7).unwrap().parse().unwrap()
}

#[test]
fn what_a_guest_writes_is_faulted_in_once() -> Result<()> {
    if !PoolingAllocationConfig::is_pagemap_scan_available() {
        eprintln!("this kernel does not tell which pages were written (Linux 6.7 does)");
        return Ok(());
    }
    let residency = Residency::of_process(BOUNDS);
    // A guest that writes in few places is left alone.
    let few = Host::new()?;
    for _ in 0..50 {
        few.call(20, || residency.called())?;
    }
    assert_eq!(residency.planned_pages(), 0);

    let host = Host::new()?;
    let without = host.faults(50, || {})?;
    // What Wasmtime finds stays, also without help.
    assert!(without >= 50 * PLACES / 3, "{without} faults in 50 calls");
    residency.loaded();
    host.faults(50, || residency.called())?;
    let with = host.faults(50, || residency.called())?;
    assert!(with < 50, "{with} faults in 50 calls");
    // From the first place to the last, at most.
    let (least, most) = (usize::try_from(PLACES)?, usize::try_from(3 * PLACES)?);
    assert!((least..most).contains(&residency.planned_pages()), "{residency:?}");
    Ok(())
}
