//! `fermyon:spin/postgres` and `spin:postgres`: connections to PostgreSQL servers that the guest may
//! reach.
//!
//! Each handle has a connection of its own, closed with it: a session has settings, temporary tables
//! and a transaction, which are none of another request's business.

#![expect(clippy::result_large_err, reason = "the error is a type of the interface")]

mod builder;
mod date;
mod numeric;
mod streams;
mod values;
mod versions;

use std::{error::Error as _, sync::Arc};

use futures_util::{StreamExt as _, pin_mut};
use rustls::ClientConfig;
use tokio_postgres::{
    Client, Config, Error as PostgresError, Row, config::Host, error::SqlState, tls::MakeTlsConnect,
};
use tokio_postgres_rustls::MakeRustlsConnect;
use wasmtime::{Result, StoreContextMut};

use self::values::{BadParameter, Decoded, Parameter};
pub(super) use self::{builder::Builder, streams::add_0_3_to_linker, versions::add_to_linker};
use super::{
    Context, Work,
    connections::{MAX_CONNECTIONS, Readable},
    redis::Driver,
};
use crate::interfaces::{
    Outgoing,
    bindings::spin_postgres_4::spin::postgres::postgres::{
        Column, DbError, DbValue, Error, ParameterValue, QueryError, RowSet,
    },
    outgoing::{Bounded, Connected, tls_config},
};

/// The port of a server that none is given for.
const PORT: u16 = 5432;

/// Bytes that a value takes in the host besides its own.
const VALUE_BYTES: usize = 64;

/// A guest's connection to a server.
#[derive(Clone)]
#[allow(unreachable_pub, reason = "the generated code re-exports it")]
pub struct Connection {
    client: Arc<Client>,
    readable: Readable,
    _driver: Arc<Driver>,
}

type Handle = wasmtime::component::Resource<Connection>;
type Answer<T> = Result<T, Error>;

/// How to encrypt; with the roots of the operating system, if nothing else is said.
type Tls = Option<Arc<ClientConfig>>;

/// Connects; `tls` is how, where the server speaks TLS.
fn open(context: &mut Context, address: String, tls: Tls) -> Work<Answer<Connection>> {
    context.effects.look_outside();
    let settings = Arc::clone(&context.settings);
    let connections = context.connections();
    let (has_room, readable) = (connections.postgres.has_room(), connections.readable.clone());
    Box::pin(async move {
        match has_room {
            true => Ok(connect(&settings.outgoing, &address, tls, &readable).await),
            false => Ok(Err(too_many())),
        }
    })
}

fn too_many() -> Error {
    Error::ConnectionFailed(format!(
        "one request may have {MAX_CONNECTIONS} connections to PostgreSQL open"
    ))
}

/// The handle of a connection that was made.
fn opened(context: &mut Context, connection: Answer<Connection>) -> Answer<Handle> {
    context.connections().postgres.push(connection?).ok_or_else(too_many)
}

/// The same, when the connection's work is done.
fn finished(
    mut store: StoreContextMut<'_, Context>,
    connection: Answer<Connection>,
) -> Result<Answer<Handle>> {
    Ok(opened(store.data_mut(), connection))
}

/// Connects to the first server of several that can be connected to.
async fn connect(
    allowed: &Outgoing,
    address: &str,
    tls: Tls,
    readable: &Readable,
) -> Answer<Connection> {
    let failed = |reason: &str| Error::ConnectionFailed(reason.to_owned());
    let Some(tls) = tls.or_else(tls_config) else { return Err(failed("TLS cannot be used")) };
    // The crate's text could repeat a password.
    let config: Config = address.parse().map_err(|_| {
        failed("the address cannot be read; write postgres://USER:PASSWORD@HOST/DATABASE or host=… user=… dbname=…")
    })?;
    if !config.get_hostaddrs().is_empty() {
        return Err(failed("hostaddr is not supported; give the address as the host"));
    }
    let mut last = failed("the address has no host");
    for (number, host) in config.get_hosts().iter().enumerate() {
        let Host::Tcp(host) = host else {
            return Err(failed(
                "sockets in the file system are the host's; give a name or an address",
            ));
        };
        let ports = config.get_ports();
        let port = ports.get(number).or(ports.first()).copied().unwrap_or(PORT);
        match connect_to(allowed, &config, host, port, &tls, readable).await {
            Ok(connection) => return Ok(connection),
            Err(reason) => last = Error::ConnectionFailed(reason),
        }
    }
    Err(last)
}

async fn connect_to(
    allowed: &Outgoing,
    config: &Config,
    host: &str,
    port: u16,
    tls: &ClientConfig,
    readable: &Readable,
) -> Result<Connection, String> {
    let Connected { stream, place } =
        allowed.connect(host, port).await.map_err(|error| error.to_string())?;
    let charged = readable.clone();
    let stream = Bounded::new(stream, move |bytes| charged.charge(bytes));
    let mut tls = MakeRustlsConnect::new(tls.clone());
    let tls = tls_for(&mut tls, host, &stream)?;
    let (client, driver) = config.connect_raw(stream, tls).await.map_err(|error| text(&error))?;
    let task = tokio::spawn(async move { drop(driver.await) }).abort_handle();
    let driver = Arc::new(Driver { task, _place: place });
    Ok(Connection { client: Arc::new(client), readable: readable.clone(), _driver: driver })
}

/// TLS to a host, over such a stream.
fn tls_for<S, M: MakeTlsConnect<S>>(
    make: &mut M,
    host: &str,
    _stream: &S,
) -> Result<M::TlsConnect, String> {
    make.make_tls_connect(host).map_err(|error| error.into().to_string())
}

fn query(
    context: &mut Context,
    this: &Handle,
    statement: String,
    parameters: Vec<ParameterValue>,
) -> Result<Work<Answer<RowSet>>> {
    run(context, this, statement, parameters, |set, _| set)
}

fn execute(
    context: &mut Context,
    this: &Handle,
    statement: String,
    parameters: Vec<ParameterValue>,
) -> Result<Work<Answer<u64>>> {
    run(context, this, statement, parameters, |_, affected| affected)
}

/// Runs a statement. Whatever it says, a function that it calls may change something: it is an effect
/// of the request from the moment it is sent, unless the server refuses it.
fn run<T: Send + 'static>(
    context: &mut Context,
    this: &Handle,
    statement: String,
    parameters: Vec<ParameterValue>,
    take: fn(RowSet, u64) -> T,
) -> Result<Work<Answer<T>>> {
    context.effects.look_outside();
    let effects = context.effects.clone();
    let connection = context.connections().postgres.get(this)?.clone();
    Ok(Box::pin(async move {
        let prepared = match connection.client.prepare(&statement).await {
            Ok(prepared) => prepared,
            Err(error) => return Ok(Err(explain(&error))),
        };
        effects.begin_elsewhere();
        let ran = connection.run(&prepared, parameters).await;
        match &ran {
            Ok(_) => effects.end_elsewhere(true),
            Err(failed) if failed.is_certain => effects.end_elsewhere(false),
            Err(_) => {}
        }
        Ok(match (ran, connection.readable.exceeded()) {
            (Ok((set, affected)), _) => Ok(take(set, affected)),
            (Err(_), Some(exceeded)) => Err(Error::Other(exceeded.to_string())),
            (Err(failed), None) => Err(failed.error),
        })
    }))
}

/// A statement that failed.
struct Failed {
    error: Error,
    /// Whether it certainly changed nothing.
    is_certain: bool,
}

impl From<PostgresError> for Failed {
    fn from(error: PostgresError) -> Self {
        let is_certain = match error.as_db_error() {
            Some(reason) => is_rolled_back(reason.code()),
            // It was never sent.
            None => is_bad_parameter(&error),
        };
        Self { error: explain(&error), is_certain }
    }
}

/// Whether a statement that failed so was rolled back: all but those that the server was stopped in,
/// and those whose outcome it does not know itself.
fn is_rolled_back(code: &SqlState) -> bool {
    let code = code.code();
    !(code.starts_with("08")
        || code.starts_with("XX")
        || ["57P01", "57P02", "40003"].contains(&code))
}

fn is_bad_parameter(error: &PostgresError) -> bool {
    error.source().is_some_and(|source| source.is::<BadParameter>())
}

impl Connection {
    async fn run(
        &self,
        prepared: &tokio_postgres::Statement,
        parameters: Vec<ParameterValue>,
    ) -> Result<(RowSet, u64), Failed> {
        let (wanted, given) = (prepared.params().len(), parameters.len());
        if wanted != given {
            let text = format!("the statement has {wanted} parameters, and {given} were given");
            return Err(Failed { error: Error::BadParameter(text), is_certain: true });
        }
        let columns = prepared.columns().iter().map(|column| Column {
            name: column.name().to_owned(),
            data_type: values::data_type(column.type_()),
        });
        let columns: Vec<Column> = columns.collect();
        let stream = self.client.query_raw(prepared, parameters.into_iter().map(Parameter)).await?;
        pin_mut!(stream);
        let mut rows = Vec::new();
        while let Some(row) = stream.next().await {
            let (row, uncertain) = (row?, |error| Failed { error, is_certain: false });
            let bytes = row.len().saturating_mul(VALUE_BYTES);
            let charged = self.readable.charge(bytes);
            charged.map_err(|error| uncertain(Error::Other(error.to_string())))?;
            rows.push(decode(&row).map_err(uncertain)?);
        }
        Ok((RowSet { columns, rows }, stream.rows_affected().unwrap_or_default()))
    }
}

fn decode(row: &Row) -> Answer<Vec<DbValue>> {
    let value = |column| match row.try_get::<_, Decoded>(column) {
        Ok(Decoded(value)) => Ok(value),
        Err(error) => Err(Error::ValueConversionFailed(text(&error))),
    };
    (0..row.len()).map(value).collect()
}

/// An error in the guest's terms.
fn explain(error: &PostgresError) -> Error {
    let Some(reason) = error.as_db_error() else {
        return match is_bad_parameter(error) {
            true => Error::BadParameter(text(error)),
            false => Error::QueryFailed(QueryError::Text(text(error))),
        };
    };
    let extras = [
        ("hint", reason.hint()),
        ("schema", reason.schema()),
        ("table", reason.table()),
        ("column", reason.column()),
        ("datatype", reason.datatype()),
        ("constraint", reason.constraint()),
    ];
    let extras = extras.into_iter().filter_map(|(name, value)| Some((name.into(), value?.into())));
    Error::QueryFailed(QueryError::DbError(DbError {
        as_text: reason.to_string(),
        severity: reason.severity().into(),
        code: reason.code().code().into(),
        message: reason.message().into(),
        detail: reason.detail().map(Into::into),
        extras: extras.collect(),
    }))
}

/// An error with its reason, which the crate keeps apart.
fn text(error: &PostgresError) -> String {
    match error.source() {
        Some(reason) => format!("{error}: {reason}"),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_server_has_rolled_back_is_certain() {
        for (code, certain) in [
            ("23505", true),
            ("42601", true),
            ("40001", true),
            ("57014", true),
            ("40003", false),
            ("08006", false),
            ("57P01", false),
            ("XX000", false),
        ] {
            assert_eq!(is_rolled_back(&SqlState::from_code(code)), certain, "{code}");
        }
    }
}
