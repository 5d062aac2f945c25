//! What calls of both worlds have in common: a fresh store, and an end to everything a guest does.

use std::{panic::AssertUnwindSafe, pin::pin, sync::Arc};

use futures_util::FutureExt as _;
use tally_state::Handle;
use wasmtime::{Store, UpdateDeadline};

use super::{
    cpu::{CpuLimitReached, Meter, Metered},
    deployment::Deployment,
    failure::Cause,
    limits::Limits,
    pool::Permit,
};
use crate::interfaces::{AnsweredBefore, Context, Effects, Settings, Worker};

/// Bytes of strings and lists that one host call may take from a guest: eight times the limit on a
/// value, so that one that is too large is an error that says so. Beyond, the guest is stopped.
const HOSTCALL_BYTES: usize = 9 << 20;

/// Handles of resources that one guest may hold.
const MAX_HANDLES: usize = 1_000;

/// One request's call of a guest: its place in the pool, and all it needs.
pub(super) struct Call {
    pub(super) deployment: Arc<Deployment>,
    pub(super) limits: Arc<Limits>,
    pub(super) settings: Arc<Settings>,
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
            Worker { instance: self.instance, guest_version: Arc::clone(&self.deployment.version) };
        Context::new(
            self.state.clone(),
            Arc::clone(&self.settings),
            id,
            worker,
            self.effects.clone(),
            Meter::new(self.limits.cpu),
            self.deployment.profile().memory,
        )
    }
}

/// A store with the limits that wasmtime keeps.
pub(super) fn store(deployment: &Deployment, context: Context) -> Store<Context> {
    let mut store = Store::new(deployment.engine(), context);
    store.set_hostcall_fuel(HOSTCALL_BYTES);
    store.set_max_component_handles(MAX_HANDLES);
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(|store| {
        store.data().cpu.check()?;
        // Tokio's way, which has the worker look at the network before the guest goes on: woken at once,
        // it would be the next of the many tasks between two looks, each of which may take a tick.
        Ok(UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now())))
    });
    store
}

/// Runs a guest for as long as it may, and says why it did not come to its end.
pub(super) async fn within<T>(
    limits: &Limits,
    running: impl Future<Output = wasmtime::Result<T>>,
) -> Result<T, Cause> {
    // In place: it is large, and each move of it takes as long as a small host call.
    let running = pin!(Metered::new(AssertUnwindSafe(running).catch_unwind()));
    match tokio::time::timeout(limits.wall, running).await {
        Ok(Ok(Ok(result))) => Ok(result),
        Ok(Ok(Err(error))) => Err(cause(&error)),
        Ok(Err(_)) => Err(Cause::Trap("a host function panicked".into())),
        Err(_) => Err(Cause::WallLimit),
    }
}

fn cause(error: &wasmtime::Error) -> Cause {
    if error.is::<CpuLimitReached>() {
        Cause::CpuLimit
    } else if error.is::<AnsweredBefore>() {
        Cause::AnsweredBefore
    } else if error.is::<wasmtime::PoolConcurrencyLimitError>() {
        Cause::Busy
    } else {
        Cause::Trap(format!("{error:#}"))
    }
}
