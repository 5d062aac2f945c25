//! Statements of PostgreSQL, in each version of the interface.

use probing::{Answer, Failure};

use crate::{
    bindings::{
        fermyon::spin::{postgres as v2, variables},
        spin::{postgres3_0_0::postgres as v3, postgres4_0_0::postgres as v4},
    },
    show,
};

pub fn operate(path: &str, text: &str) -> Answer {
    let address = variables::get("postgres")?;
    match path {
        "/pg-open" => {
            v4::Connection::open(text)?;
            Ok("opened".into())
        }
        "/pg2" => {
            let set = v2::Connection::open(&address)?.query(text, &[])?;
            let columns: Vec<_> = set
                .columns
                .iter()
                .map(|column| format!("{} {:?}", column.name, column.data_type))
                .collect();
            let rows =
                set.rows.iter().map(|row| row.iter().map(|value| format!("{value:?}")).collect());
            Ok(format!("{}: {}", columns.join(", "), show(rows)))
        }
        "/pg3" => {
            let set = v3::Connection::open(&address)?.query(text, &[])?;
            let rows =
                set.rows.iter().map(|row| row.iter().map(|value| format!("{value:?}")).collect());
            Ok(show(rows))
        }
        "/pg4" => {
            let set = v4::Connection::open(&address)?.query(text, &[])?;
            let rows =
                set.rows.iter().map(|row| row.iter().map(|value| format!("{value:?}")).collect());
            Ok(show(rows))
        }
        "/pg-execute" => Ok(v4::Connection::open(&address)?.execute(text, &[])?.to_string()),
        "/pg-text" => {
            let parameters = [v4::ParameterValue::Str("x".into())];
            let set = v4::Connection::open(&address)?.query(text, &parameters)?;
            Ok(format!("{:?}", set.rows))
        }
        "/pg-old-values" => old_values(&address),
        "/pg-values" => values(&address),
        _ => Err(Failure::NoSuchPath),
    }
}

/// Every kind of value of version 2, there and back.
fn old_values(address: &str) -> Answer {
    use v2_types::ParameterValue as P;
    let statement = "SELECT $1::bool, $2::int2, $3::int2, $4::int4, $5::int8, $6::int2, $7::int4, $8::int8, $9::numeric::text, $10::float4, $11::float8, $12::text, $13::bytea, $14::text";
    let parameters = [
        P::Boolean(true),
        P::Int8(-8),
        P::Int16(-16),
        P::Int32(-32),
        P::Int64(-64),
        P::Uint8(8),
        P::Uint16(16),
        P::Uint32(32),
        P::Uint64(u64::MAX),
        P::Floating32(0.5),
        P::Floating64(-0.25),
        P::Str("\u{e4}".into()),
        P::Binary(vec![0, 255]),
        P::DbNull,
    ];
    let set = v2::Connection::open(address)?.query(statement, &parameters)?;
    Ok(format!("{:?}", set.rows))
}

use crate::bindings::fermyon::spin::rdbms_types as v2_types;

/// Every kind of value that version 4 has more, there and back.
fn values(address: &str) -> Answer {
    use v4::{
        ParameterValue as P,
        RangeBoundKind::{Exclusive, Inclusive},
    };
    let statement = "SELECT $1::date, $2::time, $3::timestamp, $4::timestamptz, $5::uuid, $6::jsonb, $7::numeric, $8::int4range, $9::int8range, $10::numrange, $11::int4[], $12::int8[], $13::numeric[], $14::text[], $15::interval";
    let parameters = [
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
        P::Interval(v4::Interval { micros: 1, days: -2, months: 3 }),
    ];
    let set = v4::Connection::open(address)?.query(statement, &parameters)?;
    Ok(format!("{:?}", set.rows))
}
