//! A version of a guest, loaded: compiled, checked, and linked to what the host offers.

use std::sync::Arc;

use wasmtime::component::{
    Component, InstancePre,
    types::{ComponentItem, Type},
};

use super::{
    class::Needs,
    inspection::Inspection,
    load_error::LoadError,
    pool::Pool,
    worlds::{Handler, World},
};
use crate::interfaces::{Context, Draft2, link_labels};

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
    imports_spin: bool,
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
        let component =
            Component::from_binary(pool.engine.wasmtime(), bytes).map_err(LoadError::Invalid)?;
        let draft2 = draft2(&component);
        let linker = pool.linker(draft2.unwrap_or_default())?;
        let labelled = link_labels(linker, &component).map_err(LoadError::Link)?;
        let linker = labelled.as_ref().unwrap_or(linker);
        let pre = linker.instantiate_pre(&component).map_err(LoadError::Link)?;
        let handler = world.find(&pre).map_err(LoadError::Link)?;
        // Otherwise made when the first request arrives.
        component.initialize_copy_on_write_image().map_err(LoadError::Link)?;
        pool.engine.loaded();
        let image = component.image_range();
        let bytes = image.end.addr().saturating_sub(image.start.addr());
        let version = Arc::clone(&inspection.version);
        let imports_spin = inspection.imports_spin();
        Ok(Self { pool, pre, world, handler, version, needs, draft2, bytes, imports_spin })
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

    /// Whether it imports an interface of Spin's.
    pub(crate) fn imports_spin(&self) -> bool {
        self.imports_spin
    }

    /// Whether no further instance of it is to be made: it has to be loaded anew.
    pub(crate) fn is_retired(&self) -> bool {
        self.pool.is_retired()
    }

    pub(super) fn engine(&self) -> &wasmtime::Engine {
        self.pool.engine.wasmtime()
    }
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
