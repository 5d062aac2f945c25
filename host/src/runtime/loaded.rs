//! A version of a guest, loaded: compiled, checked, and linked to what the host offers.

use std::sync::Arc;

use wasmtime::component::{
    Component, InstancePre, Linker,
    types::{ComponentItem, Type},
};

use super::{
    adapt::adapt,
    class::Needs,
    inspection::{Inspection, calling_fails},
    load_error::LoadError,
    not_offered,
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
    /// Functions that it imports from interfaces that are offered, and that these do not have here.
    pub(super) missing_functions: Arc<[String]>,
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
        let engine = pool.engine.wasmtime();
        let bytes = inspection.component(bytes);
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
        let (pre, missing_functions) = link(&linker, &component, inspection)?;
        let handler = world.find(&pre).map_err(LoadError::Link)?;
        // Otherwise made when the first request arrives.
        component.initialize_copy_on_write_image().map_err(LoadError::Link)?;
        pool.engine.loaded();
        let image = component.image_range();
        let bytes = image.end.addr().saturating_sub(image.start.addr());
        let version = Arc::clone(&inspection.version);
        Ok(Self {
            pool,
            pre,
            world,
            handler,
            version,
            needs,
            draft2,
            bytes,
            missing_functions,
            imports_spin: inspection.imports_spin(),
        })
    }

    /// Notes for the log and for the answer to a deployment, besides those of [`Facts`](super::release::Facts).
    pub(crate) fn notes(&self) -> Vec<String> {
        match &*self.missing_functions {
            [] => Vec::new(),
            missing => vec![format!(
                "the guest runs; {}, because this host does not offer it",
                calling_fails(missing)
            )],
        }
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

/// Links a component to what the host offers, which other guests share. What it imports besides is defined for it
/// alone. The second part is what is missing of interfaces that are offered.
fn link(
    offered: &Linker<Context>,
    component: &Component,
    inspection: &Inspection,
) -> Result<(InstancePre<Context>, Arc<[String]>), LoadError> {
    let missing = inspection.missing();
    let mut own = link_labels(offered, component).map_err(LoadError::Link)?;
    if !missing.is_empty() {
        let own = own.get_or_insert_with(|| offered.clone());
        not_offered::define_interfaces(own, component, &missing).map_err(LoadError::Link)?;
    }
    let error = match own.as_ref().unwrap_or(offered).instantiate_pre(component) {
        Ok(pre) => return Ok((pre, Arc::default())),
        Err(error) => error,
    };
    if inspection.is_strict() {
        return Err(LoadError::Link(error));
    }
    let mut own = own.unwrap_or_else(|| offered.clone());
    let functions = not_offered::define_functions(&mut own, component, &missing);
    match functions.map_err(LoadError::Link)? {
        functions if functions.is_empty() => Err(LoadError::Link(error)),
        functions => {
            let pre = own.instantiate_pre(component).map_err(LoadError::Link)?;
            Ok((pre, functions.into()))
        }
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
