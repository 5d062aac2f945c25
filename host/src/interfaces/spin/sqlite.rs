//! `fermyon:spin/sqlite` and `spin:sqlite`: database files of the guest's own.
//!
//! Each handle has a connection of its own, made when it is first used and closed with it: a
//! connection has settings, temporary tables and an open transaction, none of which may be found by
//! another request. Statements run on threads where they may block, and are interrupted when their
//! request ends.

mod files;
mod session;

use std::sync::Arc;

use wasmtime::{
    Result, StoreContextMut,
    component::{ComponentType, Lift, Linker, Lower, Resource, ResourceType},
};

pub(crate) use self::files::Databases;
use self::session::Statement;
use super::{Context, Work, connections::MAX_CONNECTIONS, define};

pub(super) use self::session::Connection;

/// The names it is imported by. The second stands for 3.0.0 as well.
const NAMES: [&str; 2] = ["fermyon:spin/sqlite@2.0.0", "spin:sqlite/sqlite@3.1.0"];

/// `sqlite.error`.
#[expect(
    dead_code,
    reason = "handles cannot be invalid, and names that are not allowed are denied"
)]
#[derive(Debug, ComponentType, Lower)]
#[component(variant)]
enum Error {
    #[component(name = "no-such-database")]
    NoSuchDatabase,
    #[component(name = "access-denied")]
    AccessDenied,
    #[component(name = "invalid-connection")]
    InvalidConnection,
    #[component(name = "database-full")]
    DatabaseFull,
    #[component(name = "io")]
    Io(String),
}

/// `sqlite.value`.
#[derive(Clone, Debug, PartialEq, ComponentType, Lift, Lower)]
#[component(variant)]
enum Value {
    #[component(name = "integer")]
    Integer(i64),
    #[component(name = "real")]
    Real(f64),
    #[component(name = "text")]
    Text(String),
    #[component(name = "blob")]
    Blob(Vec<u8>),
    #[component(name = "null")]
    Null,
}

/// `sqlite.row-result`.
#[derive(Debug, PartialEq, ComponentType, Lower)]
#[component(record)]
struct Row {
    values: Vec<Value>,
}

/// `sqlite.query-result`.
#[derive(Debug, Default, PartialEq, ComponentType, Lower)]
#[component(record)]
struct Rows {
    columns: Vec<String>,
    rows: Vec<Row>,
}

type Handle = Resource<Connection>;

fn open(context: &mut Context, (name,): (String,)) -> Result<Work<Result<Handle, Error>>> {
    let settings = Arc::clone(&context.settings);
    let opened = match settings.databases.get(&name) {
        None => Err(Error::AccessDenied),
        Some(file) => {
            let connection = Connection::new(Arc::clone(file), context.memory.limit());
            context.connections().sqlite.push(connection).ok_or_else(|| {
                Error::Io(format!(
                    "one request may have {MAX_CONNECTIONS} connections to SQLite open"
                ))
            })
        }
    };
    Ok(Box::pin(async { Ok(opened) }))
}

fn execute(
    context: &mut Context,
    (this, text, parameters): (Handle, String, Vec<Value>),
) -> Result<Work<Result<Rows, Error>>> {
    context.effects.look_outside();
    let effects = context.effects.clone();
    let connections = context.connections();
    let readable = connections.readable.clone();
    let connection = connections.sqlite.get(&this)?.clone();
    let statement = Statement { text, parameters, readable, effects };
    Ok(Box::pin(async move { Ok(connection.execute(statement).await) }))
}

fn last_insert_rowid(context: &mut Context, (this,): (Handle,)) -> Result<Work<i64>> {
    let connection = context.connections().sqlite.get(&this)?.clone();
    Ok(Box::pin(async move { Ok(connection.last_insert_rowid().await) }))
}

fn changes(context: &mut Context, (this,): (Handle,)) -> Result<Work<u64>> {
    let connection = context.connections().sqlite.get(&this)?.clone();
    Ok(Box::pin(async move { Ok(connection.changes().await) }))
}

/// Offers it to a linker.
///
/// # Errors
/// When it is there already, which is a bug.
pub(super) fn add_to_linker(linker: &mut Linker<Context>) -> Result<()> {
    for name in NAMES {
        let mut instance = linker.instance(name)?;
        instance.resource(
            "connection",
            ResourceType::host::<Connection>(),
            |mut store: StoreContextMut<'_, Context>, rep| {
                store.data_mut().connections().sqlite.remove(rep);
                Ok(())
            },
        )?;
        define(&mut instance, "[static]connection.open", open)?;
        define(&mut instance, "[method]connection.execute", execute)?;
        if name.starts_with("spin:") {
            define(&mut instance, "[method]connection.last-insert-rowid", last_insert_rowid)?;
            define(&mut instance, "[method]connection.changes", changes)?;
        }
    }
    Ok(())
}
