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
    AsContextMut as _, Result, StoreContextMut,
    component::{ComponentNamedList, ComponentType, Lift, Linker, LinkerInstance, Lower},
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

/// How a guest calls the functions of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Calls {
    /// They are plain functions: one returns before the next is called.
    InTurn,
    /// They are `async`: several may be on their way.
    AtOnce,
}

/// Defines a function.
fn define<P, R>(
    instance: &mut LinkerInstance<'_, Context>,
    calls: Calls,
    name: &str,
    operation: Operation<P, R>,
) -> Result<()>
where
    P: ComponentNamedList + Lift + Send + 'static,
    R: ComponentType + Lower + Send + 'static,
{
    define_finished(instance, calls, name, operation, |_, done| Ok(done))
}

/// Defines a function whose result its request has to learn of when the work is done.
fn define_finished<P, T, R>(
    instance: &mut LinkerInstance<'_, Context>,
    calls: Calls,
    name: &str,
    operation: Operation<P, T>,
    finish: fn(StoreContextMut<'_, Context>, T) -> Result<R>,
) -> Result<()>
where
    P: ComponentNamedList + Lift + Send + 'static,
    T: Send + 'static,
    R: ComponentType + Lower + Send + 'static,
{
    match calls {
        Calls::InTurn => instance.func_wrap_async(name, move |mut store, parameters: P| {
            let work = operation(store.data_mut(), parameters);
            Box::new(async move {
                let done = work?.await?;
                Ok((finish(store, done)?,))
            })
        }),
        Calls::AtOnce => instance.func_wrap_concurrent(name, move |store, parameters: P| {
            let work = store.with(|mut store| operation(store.get(), parameters));
            Box::pin(async move {
                let done = work?.await?;
                Ok((store.with(|mut store| finish(store.as_context_mut(), done))?,))
            })
        }),
    }
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

/// Offers what guests of WASI 0.3 may import besides: functions that are `async`.
///
/// # Errors
/// When the linker's engine runs no calls beside each other, or does not hold the others yet, which is a bug.
pub(super) fn add_0_3_to_linker(linker: &mut Linker<Context>) -> Result<()> {
    variables::add_0_3_to_linker(linker)?;
    redis::add_0_3_to_linker(linker)?;
    // Functions of interfaces whose other functions are there already.
    linker.allow_shadowing(true);
    sqlite::add_0_3_to_linker(linker)?;
    postgres::add_0_3_to_linker(linker)?;
    linker.allow_shadowing(false);
    Ok(())
}
