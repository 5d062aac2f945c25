//! A class's slots, and the engine that has them. All guests of the class share both.

use std::sync::{
    Arc, Mutex, PoisonError, Weak,
    atomic::{AtomicBool, Ordering},
};

use wasmtime::component::Linker;

use super::{
    class::Class, clock, door::Door, engine::Engine, host::Sizes, kernel, load_error::LoadError,
    swap::Swap,
};
use crate::interfaces::{self, Context, Linking};

/// An engine with its slots.
pub(super) struct Pool {
    pub(super) engine: Engine,
    pub(super) class: Class,
    pub(super) slots: Arc<Door>,
    /// What the host offers, by what a component needs.
    linkers: Mutex<Vec<(Linking, Arc<Linker<Context>>)>>,
    /// No further instance is made here.
    is_retired: AtomicBool,
}

impl Pool {
    /// Reserves the slots.
    ///
    /// # Errors
    /// When wasmtime cannot have them, most likely for want of address space.
    fn new(
        class: Class,
        slots: usize,
        backtraces: bool,
        may_keep: bool,
    ) -> wasmtime::Result<Arc<Self>> {
        let engine = Engine::new(&class, slots, backtraces, may_keep)?;
        let slots = Door::new(slots);
        let at_work = Arc::clone(&slots);
        clock::drive(engine.wasmtime(), move || at_work.in_use() > 0)?;
        let (linkers, is_retired) = (Default::default(), AtomicBool::new(false));
        Ok(Arc::new(Self { engine, class, slots, linkers, is_retired }))
    }

    /// Whether no further instance is to be made here, as another pool has taken its place.
    pub(super) fn is_retired(&self) -> bool {
        self.is_retired.load(Ordering::Relaxed)
    }

    /// What the host offers to a guest.
    pub(super) fn linker(&self, linking: Linking) -> Result<Arc<Linker<Context>>, LoadError> {
        let mut linkers = self.linkers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, linker)) = linkers.iter().find(|(made, _)| *made == linking) {
            return Ok(Arc::clone(linker));
        }
        let mut made = Linker::new(self.engine.wasmtime());
        interfaces::add_to_linker(&mut made, linking).map_err(LoadError::Engine)?;
        let made = Arc::new(made);
        linkers.push((linking, Arc::clone(&made)));
        Ok(made)
    }
}

/// The pools there are, each made when its first guest is loaded.
pub(super) struct Pools {
    pools: Mutex<Vec<Arc<Pool>>>,
    /// Classes of the guests there are.
    planned: Mutex<Vec<Class>>,
    /// Pools that others have taken the place of, and where instances may still be at work.
    retired: Mutex<Vec<Weak<Pool>>>,
    swap: Swap,
    sizes: Sizes,
}

impl Pools {
    pub(super) fn new(sizes: Sizes) -> Self {
        // What an unusual guest takes must leave room for all usual ones.
        let planned = Mutex::new(Class::usual().into());
        let swap = Swap::look_at(sizes.swaps.clone());
        if swap.was_seen() {
            tracing::warn!(
                "this machine has swap, so guests' memory is given back to the kernel after each request, which is slower; turn swap off to keep it"
            );
        }
        Self { pools: Mutex::default(), planned, retired: Mutex::default(), swap, sizes }
    }

    fn slots(&self, class: &Class) -> usize {
        class.slots(self.sizes.instances)
    }

    /// Whether any instance is at work.
    pub(super) fn are_at_work(&self) -> bool {
        let is_at_work = |pool: &Arc<Pool>| pool.slots.in_use() > 0;
        let pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        let retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
        pools.iter().any(is_at_work)
            || retired.iter().filter_map(Weak::upgrade).any(|p| is_at_work(&p))
    }

    /// Looks whether there is swap now. If so, the pools that keep memory resident are retired: no
    /// instance is made in them any more, and whoever needs one gets a new pool, which keeps none. Whether
    /// that was done.
    ///
    /// Instances at work go on. What they have written may be in swap when they end and stay in their
    /// slots, which nobody uses any more.
    pub(super) fn look_at_swap(&self) -> bool {
        if !self.swap.look() {
            return false;
        }
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        let mut retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
        for pool in pools.drain(..) {
            pool.is_retired.store(true, Ordering::Relaxed);
            retired.push(Arc::downgrade(&pool));
        }
        tracing::warn!(
            "swap was turned on, so guests' memory is given back to the kernel after each request from now on, which is slower; to keep it again, turn swap off and start the host again"
        );
        true
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
        let may_keep = !self.swap.was_seen();
        let pool = Pool::new(class, self.slots(&class), self.sizes.backtraces, may_keep);
        let pool = pool.map_err(LoadError::Engine)?;
        pools.push(Arc::clone(&pool));
        Ok(pool)
    }
}
