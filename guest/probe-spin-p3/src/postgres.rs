//! Statements of PostgreSQL.

use futures::future::join_all;
use probing::{Answer, Failure};

use crate::{
    bindings::spin::{
        postgres::postgres::{
            Connection, ConnectionBuilder, DbValue, Interval, ParameterValue as P,
            RangeBoundKind::{Exclusive, Inclusive},
        },
        variables::variables,
    },
    show,
};

pub async fn operate(path: &str, text: String) -> Answer {
    if path == "/pg-open" {
        Connection::open_async(text).await?;
        return Ok("opened".into());
    }
    let address = variables::get("postgres".into()).await?;
    match path {
        "/pg4" => {
            let connection = Connection::open_async(address).await?;
            let (_, rows) = query(&connection, text, vec![]).await?;
            Ok(show(rows.iter().map(|row| row.iter().map(|value| format!("{value:?}")).collect())))
        }
        "/pg-columns" => {
            let connection = Connection::open_async(address).await?;
            Ok(query(&connection, text, vec![]).await?.0)
        }
        "/pg-execute" => {
            let connection = Connection::open_async(address).await?;
            Ok(connection.execute_async(text, vec![]).await?.to_string())
        }
        "/pg-text" => {
            let connection = Connection::open_async(address).await?;
            let (_, rows) = query(&connection, text, vec![P::Str("x".into())]).await?;
            Ok(format!("{rows:?}"))
        }
        "/pg-values" => values(address).await,
        // The statement, so many times at once on one connection: `COUNT STATEMENT`.
        "/pg-at-once" => {
            let (count, statement) = text.split_once(' ').ok_or(Failure::Argument("a count"))?;
            let connection = Connection::open_async(address).await?;
            let running = (0..count.parse()?)
                .map(|_: usize| connection.execute_async(statement.into(), vec![]));
            let ran: Vec<u64> = join_all(running).await.into_iter().collect::<Result<_, _>>()?;
            Ok(ran.iter().sum::<u64>().to_string())
        }
        // A connection with a certificate of the setting `authority`; its function may be `async` or not.
        "/pg-build" | "/pg-build-async" => {
            let builder = ConnectionBuilder::new(&address);
            match variables::get("authority".into()).await {
                Ok(authority) => builder.set_ca_root(&authority)?,
                Err(_) if text.is_empty() => {}
                Err(_) => builder.set_ca_root(&text)?,
            }
            let connection = match path {
                "/pg-build" => builder.build()?,
                _ => builder.build_async().await?,
            };
            let statement = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
            let (_, rows) = query(&connection, statement.into(), vec![]).await?;
            Ok(format!("{rows:?}"))
        }
        _ => Err(Failure::NoSuchPath),
    }
}

/// Columns as text, and rows.
async fn query(
    connection: &Connection,
    statement: String,
    parameters: Vec<P>,
) -> Result<(String, Vec<Vec<DbValue>>), Failure> {
    let (columns, rows, outcome) = connection.query_async(statement, parameters).await?;
    let rows = rows.collect().await;
    outcome.await?;
    let columns = columns.iter().map(|column| format!("{} {:?}", column.name, column.data_type));
    Ok((columns.collect::<Vec<_>>().join(", "), rows))
}

/// Every kind of value that versions before 4 lack, there and back.
async fn values(address: String) -> Answer {
    let statement = "SELECT $1::date, $2::time, $3::timestamp, $4::timestamptz, $5::uuid, $6::jsonb, $7::numeric, $8::int4range, $9::int8range, $10::numrange, $11::int4[], $12::int8[], $13::numeric[], $14::text[], $15::interval";
    let parameters = vec![
        P::Date((2026, 11, 27)),
        P::Time((23, 59, 58, 123_456_000)),
        P::Datetime((1999, 12, 31, 23, 59, 59, 999_999_000)),
        P::Timestamp(86_400),
        P::Uuid("00112233-4455-6677-8899-aabbccddeeff".into()),
        P::Jsonb(b"{\"a\": 1}".into()),
        P::Decimal("-12345.6780".into()),
        P::RangeInt32((Some((1, Inclusive)), Some((5, Exclusive)))),
        P::RangeInt64((None, Some((9, Exclusive)))),
        P::RangeDecimal((Some(("0.5".into(), Exclusive)), None)),
        P::ArrayInt32(vec![Some(1), None]),
        P::ArrayInt64(vec![]),
        P::ArrayDecimal(vec![Some("1.50".into()), None]),
        P::ArrayStr(vec![Some("a".into()), None]),
        P::Interval(Interval { micros: 1, days: -2, months: 3 }),
    ];
    let connection = Connection::open_async(address).await?;
    Ok(format!("{:?}", query(&connection, statement.into(), parameters).await?.1))
}
