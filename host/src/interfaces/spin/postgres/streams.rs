//! The functions that are `async`, which version 4.2 has besides. Rows are a stream.

use wasmtime::{
    Result, StoreContextMut,
    component::{FutureReader, Linker, StreamReader},
};

use super::{
    super::{Calls, Work, define, define_finished},
    Answer, Column, Connection, Context, DbValue, Handle, ParameterValue, RowSet, builder, execute,
    finished, open, query,
    versions::LAST,
};

type Statement = (Handle, String, Vec<ParameterValue>);

/// Columns, rows, and whether these are all.
type Streamed = (Vec<Column>, StreamReader<Vec<DbValue>>, FutureReader<Answer<()>>);

/// A query's result, with its rows as a stream. The query is over by then: what it changed does not hang on whether
/// the guest takes all rows, and the connection is free for the next one.
fn streamed(
    mut store: StoreContextMut<'_, Context>,
    ran: Answer<RowSet>,
) -> Result<Answer<Streamed>> {
    let RowSet { columns, rows } = match ran {
        Ok(set) => set,
        Err(error) => return Ok(Err(error)),
    };
    let rows = StreamReader::new(&mut store, rows)?;
    let outcome = async { wasmtime::error::Ok(Ok(())) };
    Ok(Ok((columns, rows, FutureReader::new(store, outcome)?)))
}

/// Adds them to the interface.
///
/// # Errors
/// As for all that is `async`.
pub(in crate::interfaces::spin) fn add_0_3_to_linker(linker: &mut Linker<Context>) -> Result<()> {
    let (mut instance, calls) = (linker.instance(LAST)?, Calls::AtOnce);
    let open = |context: &mut Context, (address,): (String,)| -> Result<Work<Answer<Connection>>> {
        Ok(open(context, address, None))
    };
    define_finished(&mut instance, calls, "[static]connection.open-async", open, finished)?;
    let query = |context: &mut Context, (this, text, parameters): Statement| {
        query(context, &this, text, parameters)
    };
    define_finished(&mut instance, calls, "[method]connection.query-async", query, streamed)?;
    let execute = |context: &mut Context, (this, text, parameters): Statement| {
        execute(context, &this, text, parameters)
    };
    define(&mut instance, calls, "[method]connection.execute-async", execute)?;
    let name = "[method]connection-builder.build-async";
    define_finished(&mut instance, calls, name, builder::build, finished)
}
