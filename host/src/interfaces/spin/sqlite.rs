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
    component::{
        ComponentType, FutureReader, Lift, Linker, Lower, Resource, ResourceType, StreamReader,
    },
};

pub(crate) use self::files::Databases;
use self::session::Statement;
use super::{Calls, Context, Work, connections::MAX_CONNECTIONS, define, define_finished};

pub(super) use self::session::Connection;

/// The names it is imported by.
const NAMES: [&str; 2] = ["fermyon:spin/sqlite@2.0.0", LAST];

/// The last version, which stands for all of 3.
const LAST: &str = "spin:sqlite/sqlite@3.1.0";

/// `sqlite.error`.
#[derive(Debug, ComponentType, Lift, Lower)]
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
#[derive(Debug, PartialEq, ComponentType, Lift, Lower)]
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

/// Columns, rows, and whether these are all.
type StreamedRows = (Vec<String>, StreamReader<Row>, FutureReader<Result<(), Error>>);

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

/// What a statement gave, with its rows as a stream. The statement is over by then: what it changed does not hang on
/// whether the guest takes all rows, and the connection is free for the next one.
fn streamed(
    mut store: StoreContextMut<'_, Context>,
    ran: Result<Rows, Error>,
) -> Result<Result<StreamedRows, Error>> {
    let Rows { columns, rows } = match ran {
        Ok(rows) => rows,
        Err(error) => return Ok(Err(error)),
    };
    let rows = StreamReader::new(&mut store, rows)?;
    let outcome = async { wasmtime::error::Ok(Ok(())) };
    Ok(Ok((columns, rows, FutureReader::new(store, outcome)?)))
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
        let calls = Calls::InTurn;
        define(&mut instance, calls, "[static]connection.open", open)?;
        define(&mut instance, calls, "[method]connection.execute", execute)?;
        if name == LAST {
            let rowid = "[method]connection.last-insert-rowid";
            define(&mut instance, calls, rowid, last_insert_rowid)?;
            define(&mut instance, calls, "[method]connection.changes", changes)?;
        }
    }
    Ok(())
}

/// Adds the functions that are `async`, which version 3.1 has besides.
///
/// # Errors
/// As for all that is `async`.
pub(super) fn add_0_3_to_linker(linker: &mut Linker<Context>) -> Result<()> {
    let (mut instance, calls) = (linker.instance(LAST)?, Calls::AtOnce);
    define(&mut instance, calls, "[static]connection.open-async", open)?;
    let name = "[method]connection.execute-async";
    define_finished(&mut instance, calls, name, execute, streamed)?;
    let name = "[method]connection.last-insert-rowid-async";
    define(&mut instance, calls, name, last_insert_rowid)?;
    define(&mut instance, calls, "[method]connection.changes-async", changes)
}
