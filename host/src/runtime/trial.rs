//! Trying what was loaded, before requests come to it: instances are made and thrown away.

use std::sync::Arc;

use http::HeaderValue;
use tally_state::Handle;

use super::{
    call, clock, cpu::Meter, load_error::LoadError, loaded::Loaded, memory::Memory, tenant::Tenant,
};
use crate::interfaces::{Context, Effects, Worker};

/// Instances a new release is given before it takes requests, so that their slots hold its memory
/// and its code is in the caches.
const WARM_INSTANCES: usize = 8;

impl Tenant {
    /// Makes some instances and throws them away: one at least, however long it takes to get a place for
    /// it.
    ///
    /// # Errors
    /// [`LoadError::Start`], when it does not start.
    pub(crate) async fn warm(&self, next: &Loaded, state: &Handle) -> Result<(), LoadError> {
        self.try_instances(next, state, WARM_INSTANCES.min(next.needs.pool)).await
    }

    /// Makes so many instances at once and throws them away.
    ///
    /// # Errors
    /// [`LoadError::Start`], when one does not start.
    pub(crate) async fn try_instances(
        &self,
        next: &Loaded,
        state: &Handle,
        count: usize,
    ) -> Result<(), LoadError> {
        // The guest's own places are for requests.
        let slots = &next.pool.slots;
        let mut kept = Vec::new();
        for _ in 0..count {
            let slot = match kept.is_empty() {
                // The requests that are under way have ended by then.
                true => {
                    let longest = self.limits.wall.saturating_add(self.limits.wait);
                    let entering = slots.enter(std::ptr::from_ref(self).addr());
                    tokio::time::timeout(longest, entering).await.map_err(|_| {
                        LoadError::Start("no place in the pool was free to try it".into())
                    })?
                }
                // Requests have the first claim to the others.
                false => match slots.try_enter() {
                    Some(slot) => slot,
                    None => break,
                },
            };
            if next.is_retired() {
                // Whoever asks for it has it loaded anew.
                break;
            }
            clock::wake();
            let instantiating = async {
                let mut store = call::store(self, next, self.context(next, state));
                next.pre.instantiate_async(&mut store).await?;
                Ok(store)
            };
            match call::within(self, None, instantiating).await {
                Ok(store) => kept.push((store, slot)),
                Err(cause) => return Err(LoadError::Start(cause.to_string())),
            }
        }
        Ok(())
    }

    /// The data of a store that no request belongs to.
    fn context(&self, next: &Loaded, state: &Handle) -> Context {
        let worker = Worker { instance: 0, guest_version: Arc::clone(&next.version) };
        let id = HeaderValue::from_static("warm");
        let settings = Arc::clone(&self.settings);
        let meter = Meter::new(self.limits.cpu, self.account());
        let memory = Memory::new(next.needs.memory);
        Context::new(state.clone(), settings, id, worker, Effects::default(), meter, memory)
    }
}
