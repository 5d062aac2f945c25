//! The worlds that guests are built for.
//!
//! A world is one file: how a component of it is recognized, what it may import, what its engine has to be
//! able to do, and how a fresh instance is called. A further world is one more file and one more line in
//! [`WORLDS`]; nothing else asks which world a guest is of.

mod http;
mod plugin;
mod service;

use std::{fmt, sync::Arc};

use futures_util::future::BoxFuture;
use wasmtime::component::InstancePre;

use super::{Request, Response, call::Call, failure::Cause};
use crate::interfaces::{self, Context, Interface};

/// The worlds that are served. A component that is of several is called as the first of them.
static WORLDS: [&dyn World; 3] = [&plugin::Plugin, &service::Service, &http::Http];

/// A world.
pub(crate) trait World: Send + Sync {
    /// Its name for people.
    fn name(&self) -> &'static str;

    /// What a component of this world exports, for people.
    fn handler(&self) -> &'static str;

    /// Whether a component that exports this is of this world.
    fn has(&self, export: Interface<'_>) -> bool;

    /// Whether a component of it may import this.
    fn offers(&self, import: Interface<'_>) -> bool {
        interfaces::is_offered(import)
    }

    /// Whether its guests want bodies in full, before they are given a place in the pool.
    fn takes_whole_bodies(&self) -> bool;

    /// Whether its guests wait in several places at a time, for which they need an engine of their own.
    fn is_concurrent(&self) -> bool {
        false
    }

    /// Finds the handler that a linked component exports.
    ///
    /// # Errors
    /// When it has another type than the world says.
    fn find(&self, guest: &InstancePre<Context>) -> wasmtime::Result<Arc<dyn Handler>>;
}

/// A component's handler, looked up once.
pub(crate) trait Handler: Send + Sync {
    /// Answers a request in a fresh instance, or says why not: the guest is thrown away then, and does
    /// nothing more.
    fn answer(
        self: Arc<Self>,
        call: Call,
        request: Request,
    ) -> BoxFuture<'static, Result<Response, Cause>>;
}

impl fmt::Debug for dyn World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Each world has a name of its own.
impl PartialEq for dyn World {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

/// The world of a component, by what it exports.
pub(super) fn of(exports: &[String]) -> Option<&'static dyn World> {
    let has = |world: &&dyn World| exports.iter().any(|name| world.has(Interface::of(name)));
    WORLDS.into_iter().find(has)
}

/// What components of the worlds that are served export, for people.
pub(super) fn handlers() -> String {
    WORLDS.map(World::handler).join(" or ")
}
