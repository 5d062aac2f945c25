//! A component in the store, as the runtime reads it.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use tokio::runtime::Handle as Main;

use super::{
    disk::Disk,
    model::Component,
    store::{Error, Store},
};
use crate::runtime::Fetch;

/// A component in the store.
#[derive(Clone)]
pub(super) struct Stored {
    store: Store,
    component: Component,
    disk: Option<Disk>,
    /// Where the store's queues are looked after.
    main: Main,
}

impl Stored {
    /// Must be called on the main runtime.
    pub(super) fn new(store: Store, component: Component, disk: Option<Disk>) -> Arc<Self> {
        Arc::new(Self { store, component, disk, main: Main::current() })
    }

    /// Its bytes.
    pub(super) async fn read(&self) -> Result<Bytes, Error> {
        let Some(disk) = &self.disk else { return self.store.fetch(&self.component).await };
        let (component, here) = (self.component.clone(), disk.clone());
        let read = tokio::task::spawn_blocking(move || here.component(&component)).await;
        if let Ok(Some(bytes)) = read {
            return Ok(bytes);
        }
        let bytes = self.store.fetch(&self.component).await?;
        let (component, here, copy) = (self.component.clone(), disk.clone(), bytes.clone());
        // Whether it could be kept or not.
        let _ = tokio::task::spawn_blocking(move || here.keep(&component, &copy)).await;
        Ok(bytes)
    }
}

impl fmt::Debug for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Stored").field(&self.component).finish()
    }
}

impl Fetch for Stored {
    fn version(&self) -> Arc<str> {
        self.component.version().into()
    }

    fn fetch(&self) -> Result<Bytes, String> {
        self.main.block_on(self.read()).map_err(|error| error.to_string())
    }
}
