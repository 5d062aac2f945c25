//! What calls of both worlds have in common: a fresh store, and an end to everything a guest does.

use std::{
    panic::AssertUnwindSafe,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::FutureExt as _;
use tally_state::Handle;
use wasmtime::{Store, UpdateDeadline};

use super::{
    admission::Permit,
    client_time::ClientTime,
    cpu::{CpuLimitReached, Meter, Metered},
    failure::Cause,
    loaded::Loaded,
    memory::Memory,
    tenant::Tenant,
    turns::{self, Before, Wants},
    usage::Trap,
};
use crate::interfaces::{AnsweredBefore, Context, Effects, Worker};

/// Bytes of strings and lists that one host call may take from a guest: eight times the limit on a
/// value, so that one that is too large is an error that says so. More where a response may have more. Beyond, the
/// guest is stopped.
const HOSTCALL_BYTES: usize = 9 << 20;

/// What a response may have of them besides its body.
const HEAD_BYTES: usize = 1 << 20;

/// Handles of resources that one guest may hold.
const MAX_HANDLES: usize = 1_000;

/// The same of a guest of WASI 0.3, whose tasks, streams and futures are handles as well. All the state operations that
/// a request may ask for can be on their way at once, and each takes two meanwhile: its task, and its bucket's.
const MAX_HANDLES_CONCURRENT: usize = 3_000;

/// One request's call of a guest: its place, and all it needs.
pub(crate) struct Call {
    pub(super) tenant: Arc<Tenant>,
    pub(super) loaded: Arc<Loaded>,
    pub(super) state: Handle,
    pub(super) effects: Effects,
    /// The number of the instance.
    pub(super) instance: u64,
    pub(super) permit: Permit,
}

impl Call {
    /// The data of the call's store.
    pub(super) fn context(&self, id: http::HeaderValue) -> Context {
        let worker =
            Worker { instance: self.instance, guest_version: Arc::clone(&self.loaded.version) };
        Context::new(
            self.state.clone(),
            Arc::clone(&self.tenant.settings),
            id,
            worker,
            self.effects.clone(),
            Meter::new(self.tenant.limits.cpu, self.tenant.account()),
            Memory::new(self.loaded.needs.memory),
        )
    }

    /// To be called when the guest has returned, while its memory is as it left it.
    pub(super) fn returned(&self, store: &Store<Context>) {
        self.loaded.pool.engine.called();
        self.tenant.usage().had_memory(store.data().memory.highest());
    }
}

/// A store with the limits that wasmtime keeps.
pub(super) fn store(tenant: &Tenant, loaded: &Loaded, context: Context) -> Store<Context> {
    // The slot's own limit costs nothing, and is the guest's as a rule. What instances have is then known of some.
    let is_limited = loaded.needs.is_limited() || context.is_sample();
    let mut store = Store::new(loaded.engine(), context);
    if is_limited {
        store.limiter(|context| &mut context.memory);
    }
    let response = tenant.limits.response.saturating_add(HEAD_BYTES);
    store.set_hostcall_fuel(HOSTCALL_BYTES.max(response));
    let is_concurrent = loaded.pool.class.concurrent;
    let handles = if is_concurrent { MAX_HANDLES_CONCURRENT } else { MAX_HANDLES };
    store.set_max_component_handles(handles);
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(|store| {
        let cpu = &store.data().cpu;
        let Some(wants) = cpu.check()? else { return Ok(UpdateDeadline::Continue(1)) };
        let turn = turns::turn(cpu.account(), wants);
        Ok(UpdateDeadline::YieldCustom(1, Box::pin(turn)))
    });
    store
}

/// Runs a guest for as long as it may, and says why it did not come to its end. Time that it waits for its client is
/// not its own.
pub(super) async fn within<T>(
    tenant: &Tenant,
    client: Option<&ClientTime>,
    running: impl Future<Output = wasmtime::Result<T>>,
) -> Result<T, Cause> {
    let (wall, account) = (tenant.limits.wall, tenant.account());
    let mut left = wall;
    if let Some(before) = turns::before(account, tenant.limits.wait) {
        let started = Instant::now();
        let longest = match before {
            Before::Turn => wall,
            Before::Others(longest) => longest.min(wall),
        };
        let turn = turns::turn(account, Wants::Start);
        if tokio::time::timeout(longest, turn).await.is_err() {
            if before != Before::Turn {
                return Err(Cause::Overloaded);
            }
            tenant.usage().trapped(Trap::Wall);
            return Err(Cause::WallLimit);
        }
        if before != Before::Turn {
            turns::begins(account);
        }
        left = wall.saturating_sub(started.elapsed());
    }
    // In place: it is large, and each move of it takes as long as a small host call.
    let mut running = pin!(Metered::new(account, AssertUnwindSafe(running).catch_unwind()));
    let mut given = Duration::ZERO;
    let ended = loop {
        let ended = tokio::time::timeout(left, running.as_mut()).await;
        let waited = client.map_or(Duration::ZERO, ClientTime::total);
        match waited.checked_sub(given) {
            Some(more) if ended.is_err() && !more.is_zero() => (given, left) = (waited, more),
            _ => break ended,
        }
    };
    let (cause, trap) = match ended {
        Ok(Ok(Ok(result))) => return Ok(result),
        Ok(Ok(Err(error))) => cause(&error),
        Ok(Err(_)) => (Cause::Trap("a host function panicked".into()), Some(Trap::Host)),
        Err(_) => (Cause::WallLimit, Some(Trap::Wall)),
    };
    if let Some(trap) = trap {
        tenant.usage().trapped(trap);
    }
    Err(cause)
}

/// What an error of wasmtime is to the request, and whether it counts as a trap.
fn cause(error: &wasmtime::Error) -> (Cause, Option<Trap>) {
    if error.is::<CpuLimitReached>() {
        (Cause::CpuLimit, Some(Trap::Cpu))
    } else if error.is::<AnsweredBefore>() {
        (Cause::AnsweredBefore, None)
    } else if error.is::<wasmtime::PoolConcurrencyLimitError>() {
        (Cause::Busy, None)
    } else {
        let trap = match error.downcast_ref::<wasmtime::Trap>() {
            Some(wasmtime::Trap::StackOverflow) => Trap::Stack,
            Some(_) => Trap::Wasm,
            None => Trap::Host,
        };
        (Cause::Trap(format!("{error:#}")), Some(trap))
    }
}
