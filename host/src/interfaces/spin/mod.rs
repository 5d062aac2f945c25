//! What guests of Spin import, besides key-value stores: their variables, a database file of their
//! own, and connections to Redis and PostgreSQL.
//!
//! Versions of one interface often differ in their names alone, or in functions that were added. So
//! these are linked by hand, one implementation under each name, rather than from bindings of each
//! version.

mod connections;
mod postgres;
mod redis;
mod sqlite;
mod variables;

use std::pin::Pin;

use wasmtime::{
    Result,
    component::{ComponentType, Lift, Linker, LinkerInstance, Lower},
};

pub(super) use self::connections::Connections;
#[allow(unreachable_pub, reason = "the generated code re-exports it")]
pub use self::postgres::Connection as PostgresConnection;
pub(crate) use self::sqlite::Databases;
use super::Context;

/// What an imported function does once it has taken from its request what it needs. It borrows
/// nothing, so that a guest may have several on their way.
type Work<T> = Pin<Box<dyn Future<Output = Result<T>> + Send>>;

/// A function of these interfaces: looks at the request, and gives the work.
type Operation<P, R> = fn(&mut Context, P) -> Result<Work<R>>;

/// Defines a function that waits for its work.
fn define<P, R>(
    instance: &mut LinkerInstance<'_, Context>,
    name: &str,
    operation: Operation<P, R>,
) -> Result<()>
where
    P: wasmtime::component::ComponentNamedList + Lift + Send + 'static,
    R: ComponentType + Lower + Send + 'static,
{
    instance.func_wrap_async(name, move |mut store, parameters: P| {
        let work = operation(store.data_mut(), parameters);
        Box::new(async move { Ok((work?.await?,)) })
    })
}

/// Defines a function whose result its request has to learn of when the work is done.
fn define_finished<P, T, R>(
    instance: &mut LinkerInstance<'_, Context>,
    name: &str,
    operation: Operation<P, T>,
    finish: fn(&mut Context, T) -> R,
) -> Result<()>
where
    P: wasmtime::component::ComponentNamedList + Lift + Send + 'static,
    T: Send + 'static,
    R: ComponentType + Lower + Send + 'static,
{
    instance.func_wrap_async(name, move |mut store, parameters: P| {
        let work = operation(store.data_mut(), parameters);
        Box::new(async move {
            let done = work?.await?;
            Ok((finish(store.data_mut(), done),))
        })
    })
}

/// Offers these interfaces to a linker.
///
/// # Errors
/// When one of the names is taken, which is a bug.
pub(super) fn add_to_linker(linker: &mut Linker<Context>) -> Result<()> {
    variables::add_to_linker(linker)?;
    sqlite::add_to_linker(linker)?;
    redis::add_to_linker(linker)?;
    postgres::add_to_linker(linker)
}
