//! A class's slots, and the engine that has them. All guests of the class share both.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use wasmtime::component::Linker;

use super::{
    class::Class, clock, door::Door, engine::Engine, host::Sizes, kernel, load_error::LoadError,
};
use crate::interfaces::{self, Context, Draft2};

/// An engine with its slots.
pub(super) struct Pool {
    pub(super) engine: Engine,
    pub(super) class: Class,
    pub(super) slots: Arc<Door>,
    /// What the host offers, by the shape of `wasi:keyvalue` 0.2.0-draft2.
    linkers: [OnceLock<Linker<Context>>; 2],
}

impl Pool {
    /// Reserves the slots.
    ///
    /// # Errors
    /// When wasmtime cannot have them, most likely for want of address space.
    fn new(class: Class, slots: usize, backtraces: bool) -> wasmtime::Result<Arc<Self>> {
        let engine = Engine::new(&class, slots, backtraces)?;
        let slots = Door::new(slots);
        let at_work = Arc::clone(&slots);
        clock::drive(engine.wasmtime(), move || at_work.in_use() > 0)?;
        Ok(Arc::new(Self { engine, class, slots, linkers: Default::default() }))
    }

    /// What the host offers to a guest.
    pub(super) fn linker(&self, shape: Draft2) -> Result<&Linker<Context>, LoadError> {
        let [upstream, spin] = &self.linkers;
        let linker = match shape {
            Draft2::Upstream => upstream,
            Draft2::Spin => spin,
        };
        if let Some(linker) = linker.get() {
            return Ok(linker);
        }
        let mut made = Linker::new(self.engine.wasmtime());
        interfaces::add_to_linker(&mut made, shape).map_err(LoadError::Engine)?;
        Ok(linker.get_or_init(|| made))
    }
}

/// The pools there are, each made when its first guest is loaded.
pub(super) struct Pools {
    pools: Mutex<Vec<Arc<Pool>>>,
    /// Classes of the guests there are.
    planned: Mutex<Vec<Class>>,
    sizes: Sizes,
}

impl Pools {
    pub(super) fn new(sizes: Sizes) -> Self {
        // What an unusual guest takes must leave room for all usual ones.
        Self { pools: Mutex::default(), planned: Mutex::new(Class::usual().into()), sizes }
    }

    fn slots(&self, class: &Class) -> usize {
        class.slots(self.sizes.instances)
    }

    /// Whether any instance is at work.
    pub(super) fn are_at_work(&self) -> bool {
        let pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        pools.iter().any(|pool| pool.slots.in_use() > 0)
    }

    /// Notes that there is to be a pool of a class.
    ///
    /// # Errors
    /// [`LoadError::Kernel`], when the kernel does not let a process have what all of them take.
    pub(super) fn plan(&self, class: Class) -> Result<(), LoadError> {
        let mut planned = self.planned.lock().unwrap_or_else(PoisonError::into_inner);
        if planned.contains(&class) {
            return Ok(());
        }
        let all = planned.iter().chain([&class]);
        let of_slots = all.map(|class| kernel::mappings(class, self.slots(class))).sum();
        kernel::check(of_slots, self.sizes.room).map_err(LoadError::Kernel)?;
        planned.push(class);
        Ok(())
    }

    /// The pool of a class.
    ///
    /// # Errors
    /// [`LoadError::Engine`], when it is the first of its class and there can be no further.
    pub(super) fn of(&self, class: Class) -> Result<Arc<Pool>, LoadError> {
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pool) = pools.iter().find(|pool| pool.class == class) {
            return Ok(Arc::clone(pool));
        }
        self.plan(class)?;
        let pool = Pool::new(class, self.slots(&class), self.sizes.backtraces);
        let pool = pool.map_err(LoadError::Engine)?;
        pools.push(Arc::clone(&pool));
        Ok(pool)
    }
}
