//! A version of a guest, loaded: compiled, checked, and linked to what the host offers.

use std::sync::Arc;

use wasmtime::component::{
    Component, InstancePre,
    types::{ComponentItem, Type},
};

use super::{
    adapt::adapt,
    class::Needs,
    inspection::Inspection,
    load_error::LoadError,
    pool::Pool,
    worlds::{Handler, World},
};
use crate::interfaces::{Context, Draft2, Linking, link_labels};

/// The interface whose type tells the shape of `wasi:keyvalue` 0.2.0-draft2.
const BATCH: &str = "wasi:keyvalue/batch@0.2.0-draft2";

/// A version of a guest that can be instantiated.
pub(crate) struct Loaded {
    pub(super) pool: Arc<Pool>,
    pub(super) pre: InstancePre<Context>,
    world: &'static dyn World,
    pub(super) handler: Arc<dyn Handler>,
    pub(super) version: Arc<str>,
    pub(super) needs: Needs,
    /// The shape of `wasi:keyvalue` it was built for, if it imports what tells.
    pub(super) draft2: Option<Draft2>,
    /// Bytes of its compiled code.
    pub(super) bytes: usize,
}

impl Loaded {
    /// Compiles and links a guest that was found fit for the pool. Takes long for a large one, unless
    /// it was compiled before.
    pub(super) fn new(
        pool: Arc<Pool>,
        inspection: &Inspection,
        needs: Needs,
        bytes: &[u8],
    ) -> Result<Self, LoadError> {
        let world = inspection.world()?;
        let engine = pool.engine.wasmtime();
        let (component, concurrent_state) = match world.is_concurrent() {
            false => (Component::from_binary(engine, bytes).map_err(LoadError::Invalid)?, false),
            true => concurrent(engine, bytes)?,
        };
        let draft2 = draft2(&component);
        let linking = Linking {
            draft2: draft2.unwrap_or_default(),
            is_of_0_3: world.is_concurrent(),
            concurrent_state,
        };
        let linker = pool.linker(linking)?;
        let labelled = link_labels(&linker, &component).map_err(LoadError::Link)?;
        let linker = labelled.as_ref().unwrap_or(&linker);
        let pre = linker.instantiate_pre(&component).map_err(LoadError::Link)?;
        let handler = world.find(&pre).map_err(LoadError::Link)?;
        // Otherwise made when the first request arrives.
        component.initialize_copy_on_write_image().map_err(LoadError::Link)?;
        pool.engine.loaded();
        let image = component.image_range();
        let bytes = image.end.addr().saturating_sub(image.start.addr());
        let version = Arc::clone(&inspection.version);
        Ok(Self { pool, pre, world, handler, version, needs, draft2, bytes })
    }

    /// The first digits of its component's digest.
    pub(crate) fn version(&self) -> &Arc<str> {
        &self.version
    }

    /// Instances that may be at work at once.
    pub(crate) fn instances(&self) -> usize {
        self.needs.pool
    }

    /// Whether it wants bodies in full, before it is given a place in the pool.
    pub(crate) fn takes_whole_bodies(&self) -> bool {
        self.world.takes_whole_bodies()
    }

    /// Whether no further instance of it is to be made: it has to be loaded anew.
    pub(crate) fn is_retired(&self) -> bool {
        self.pool.is_retired()
    }

    pub(super) fn engine(&self) -> &wasmtime::Engine {
        self.pool.engine.wasmtime()
    }
}

/// Compiles a guest of WASI 0.3, and says whether its state operations run at the same time.
fn concurrent(engine: &wasmtime::Engine, bytes: &[u8]) -> Result<(Component, bool), LoadError> {
    let adapted = adapt(bytes).map_err(|error| LoadError::Invalid(error.into()))?;
    if let Some(concurrent) = &adapted.concurrent {
        match Component::from_binary(engine, concurrent) {
            Ok(component) => return Ok((component, true)),
            // One that hands these functions on as plain ones: to a component of its own, or from one.
            Err(error) => {
                tracing::debug!(%error, "state operations of this guest run one after another");
            }
        }
    }
    let component = Component::from_binary(engine, &adapted.named).map_err(LoadError::Invalid)?;
    Ok((component, false))
}

/// The shape of 0.2.0-draft2 that a component was built for. Upstream's `get-many` gives a list of
/// options, Spin's a list of pairs.
fn draft2(component: &Component) -> Option<Draft2> {
    let engine = component.engine();
    let ty = component.component_type();
    let (_, batch) = ty.imports(engine).find(|(name, _)| *name == BATCH)?;
    let ComponentItem::ComponentInstance(batch) = batch.ty else { return None };
    let ComponentItem::ComponentFunc(get_many) = batch.get_export(engine, "get-many")?.ty else {
        return None;
    };
    let Type::Result(result) = get_many.results().next()? else { return None };
    let Type::List(values) = result.ok()? else { return None };
    match values.ty() {
        Type::Tuple(_) => Some(Draft2::Spin),
        _ => Some(Draft2::Upstream),
    }
}
