//! Values on their way to and from PostgreSQL, in its binary format.

use std::error::Error as StdError;

use bytes::{Buf as _, BufMut as _, BytesMut};
use tokio_postgres::types::{FromSql, IsNull, Kind, ToSql, Type, to_sql_checked};
use uuid::Uuid;

use super::{date, numeric};
use crate::interfaces::bindings::spin_postgres_4::spin::postgres::postgres::{
    DbDataType, DbValue, Interval, ParameterValue, RangeBoundKind,
};

type AnyError = Box<dyn StdError + Sync + Send>;

/// A parameter that is none of the type that the statement wants.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct BadParameter(String);

/// A value that the guest's interface cannot say.
#[derive(Debug, thiserror::Error)]
#[error("a value of type {0} that cannot be converted")]
struct Inconvertible(String);

/// What a column holds.
pub(super) fn data_type(ty: &Type) -> DbDataType {
    match *ty {
        Type::BOOL => DbDataType::Boolean,
        Type::CHAR => DbDataType::Int8,
        Type::INT2 => DbDataType::Int16,
        Type::INT4 => DbDataType::Int32,
        Type::INT8 => DbDataType::Int64,
        Type::FLOAT4 => DbDataType::Floating32,
        Type::FLOAT8 => DbDataType::Floating64,
        Type::TEXT | Type::VARCHAR | Type::BPCHAR | Type::NAME => DbDataType::Str,
        Type::BYTEA => DbDataType::Binary,
        Type::DATE => DbDataType::Date,
        Type::TIME => DbDataType::Time,
        Type::TIMESTAMP | Type::TIMESTAMPTZ => DbDataType::Datetime,
        Type::UUID => DbDataType::Uuid,
        Type::JSONB => DbDataType::Jsonb,
        Type::NUMERIC => DbDataType::Decimal,
        Type::INT4_RANGE => DbDataType::RangeInt32,
        Type::INT8_RANGE => DbDataType::RangeInt64,
        Type::NUM_RANGE => DbDataType::RangeDecimal,
        Type::INT4_ARRAY => DbDataType::ArrayInt32,
        Type::INT8_ARRAY => DbDataType::ArrayInt64,
        Type::NUMERIC_ARRAY => DbDataType::ArrayDecimal,
        Type::TEXT_ARRAY | Type::VARCHAR_ARRAY | Type::BPCHAR_ARRAY => DbDataType::ArrayStr,
        Type::INTERVAL => DbDataType::Interval,
        _ => DbDataType::Other(ty.name().to_owned()),
    }
}

/// A value as it comes from the server.
pub(super) struct Decoded(pub(super) DbValue);

impl<'a> FromSql<'a> for Decoded {
    fn from_sql(ty: &Type, raw: &'a [u8]) -> Result<Self, AnyError> {
        decode(ty, raw).map(Self)
    }

    fn from_sql_null(_: &Type) -> Result<Self, AnyError> {
        Ok(Self(DbValue::DbNull))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

fn decode(ty: &Type, raw: &[u8]) -> Result<DbValue, AnyError> {
    let wrong = || Inconvertible(ty.name().to_owned());
    Ok(match data_type(ty) {
        DbDataType::Boolean => DbValue::Boolean(FromSql::from_sql(ty, raw)?),
        DbDataType::Int8 => DbValue::Int8(FromSql::from_sql(ty, raw)?),
        DbDataType::Int16 => DbValue::Int16(FromSql::from_sql(ty, raw)?),
        DbDataType::Int32 => DbValue::Int32(FromSql::from_sql(ty, raw)?),
        DbDataType::Int64 => DbValue::Int64(FromSql::from_sql(ty, raw)?),
        DbDataType::Floating32 => DbValue::Floating32(FromSql::from_sql(ty, raw)?),
        DbDataType::Floating64 => DbValue::Floating64(FromSql::from_sql(ty, raw)?),
        DbDataType::Str => DbValue::Str(FromSql::from_sql(ty, raw)?),
        DbDataType::Binary => DbValue::Binary(raw.to_vec()),
        DbDataType::Date => {
            let days = i32::from_be_bytes(raw.try_into()?);
            DbValue::Date(
                finite(days, i32::MIN, i32::MAX)
                    .and_then(|days| date::date(days.into()))
                    .ok_or_else(wrong)?,
            )
        }
        DbDataType::Time => {
            DbValue::Time(date::time(i64::from_be_bytes(raw.try_into()?)).ok_or_else(wrong)?)
        }
        DbDataType::Datetime => {
            let micros = finite(i64::from_be_bytes(raw.try_into()?), i64::MIN, i64::MAX);
            let ((year, month, day), (hour, minute, second, nanos)) =
                micros.and_then(date::moment).ok_or_else(wrong)?;
            DbValue::Datetime((year, month, day, hour, minute, second, nanos))
        }
        DbDataType::Uuid => DbValue::Uuid(Uuid::from_slice(raw)?.hyphenated().to_string()),
        // The first byte is the version of the format.
        DbDataType::Jsonb => match raw {
            [1, json @ ..] => DbValue::Jsonb(json.to_vec()),
            _ => return Err(wrong().into()),
        },
        DbDataType::Decimal => DbValue::Decimal(numeric::decode(raw).ok_or_else(wrong)?),
        DbDataType::RangeInt32 => {
            let whole = |raw: &[u8]| Some(i32::from_be_bytes(raw.try_into().ok()?));
            DbValue::RangeInt32(range(raw, whole).ok_or_else(wrong)?)
        }
        DbDataType::RangeInt64 => {
            let whole = |raw: &[u8]| Some(i64::from_be_bytes(raw.try_into().ok()?));
            DbValue::RangeInt64(range(raw, whole).ok_or_else(wrong)?)
        }
        DbDataType::RangeDecimal => {
            DbValue::RangeDecimal(range(raw, numeric::decode).ok_or_else(wrong)?)
        }
        DbDataType::ArrayInt32 => DbValue::ArrayInt32(FromSql::from_sql(ty, raw)?),
        DbDataType::ArrayInt64 => DbValue::ArrayInt64(FromSql::from_sql(ty, raw)?),
        DbDataType::ArrayDecimal => {
            let all = Vec::<Option<Decimal>>::from_sql(ty, raw)?;
            DbValue::ArrayDecimal(all.into_iter().map(|one| one.map(|Decimal(one)| one)).collect())
        }
        DbDataType::ArrayStr => DbValue::ArrayStr(FromSql::from_sql(ty, raw)?),
        DbDataType::Interval => {
            let (micros, days, months) = interval(raw).ok_or_else(wrong)?;
            DbValue::Interval(Interval { micros, days, months })
        }
        // An enumeration comes as its label.
        DbDataType::Other(_) if matches!(ty.kind(), Kind::Enum(_)) => {
            DbValue::Str(std::str::from_utf8(raw)?.to_owned())
        }
        DbDataType::Timestamp | DbDataType::Other(_) => DbValue::Unsupported(raw.to_vec()),
    })
}

/// A number that does not stand for infinity, before or after all others.
fn finite<T: PartialEq>(value: T, least: T, most: T) -> Option<T> {
    (value != least && value != most).then_some(value)
}

fn interval(mut raw: &[u8]) -> Option<(i64, i32, i32)> {
    Some((raw.try_get_i64().ok()?, raw.try_get_i32().ok()?, raw.try_get_i32().ok()?))
}

/// `numeric` within an array.
#[derive(Debug)]
struct Decimal(String);

impl<'a> FromSql<'a> for Decimal {
    fn from_sql(ty: &Type, raw: &'a [u8]) -> Result<Self, AnyError> {
        numeric::decode(raw).map(Self).ok_or_else(|| Inconvertible(ty.name().to_owned()).into())
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::NUMERIC
    }
}

impl ToSql for Decimal {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, AnyError> {
        put_decimal(&self.0, out)?;
        Ok(IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::NUMERIC
    }

    to_sql_checked!();
}

fn put_decimal(text: &str, out: &mut BytesMut) -> Result<(), AnyError> {
    numeric::encode(text, out).ok_or_else(|| {
        BadParameter(format!("'{}' is no decimal number", text.escape_debug())).into()
    })
}

/// A bound of a range, unless it is open there.
type Bound<T> = Option<(T, RangeBoundKind)>;

/// What stands at the beginning of a range.
const EMPTY: u8 = 1;
const LOWER_INCLUSIVE: u8 = 2;
const UPPER_INCLUSIVE: u8 = 4;
const LOWER_OPEN: u8 = 8;
const UPPER_OPEN: u8 = 16;

fn range<T>(raw: &[u8], one: impl Fn(&[u8]) -> Option<T>) -> Option<(Bound<T>, Bound<T>)> {
    let (flags, mut rest) = raw.split_first()?;
    // The interface has no word for a range without values.
    if flags & EMPTY != 0 {
        return None;
    }
    let mut bound = |open: u8, inclusive: u8| {
        if flags & open != 0 {
            return Some(None);
        }
        let length = usize::try_from(rest.try_get_i32().ok()?).ok()?;
        let (value, behind) = rest.split_at_checked(length)?;
        rest = behind;
        let kind = match flags & inclusive {
            0 => RangeBoundKind::Exclusive,
            _ => RangeBoundKind::Inclusive,
        };
        Some(Some((one(value)?, kind)))
    };
    Some((bound(LOWER_OPEN, LOWER_INCLUSIVE)?, bound(UPPER_OPEN, UPPER_INCLUSIVE)?))
}

fn put_range<T>(
    (lower, upper): &(Bound<T>, Bound<T>),
    out: &mut BytesMut,
    put: impl Fn(&T, &mut BytesMut) -> Result<(), AnyError>,
) -> Result<(), AnyError> {
    let flag = |bound: &Bound<T>, open: u8, inclusive: u8| match bound {
        None => open,
        Some((_, RangeBoundKind::Inclusive)) => inclusive,
        Some((_, RangeBoundKind::Exclusive)) => 0,
    };
    let flags = flag(lower, LOWER_OPEN, LOWER_INCLUSIVE) | flag(upper, UPPER_OPEN, UPPER_INCLUSIVE);
    out.put_u8(flags);
    for (value, _) in [lower, upper].into_iter().flatten() {
        let mut bound = BytesMut::new();
        put(value, &mut bound)?;
        out.put_i32(i32::try_from(bound.len())?);
        out.extend_from_slice(&bound);
    }
    Ok(())
}

/// A value as it goes to the server.
#[derive(Debug)]
pub(super) struct Parameter(pub(super) ParameterValue);

impl ToSql for Parameter {
    fn to_sql(&self, ty: &Type, out: &mut BytesMut) -> Result<IsNull, AnyError> {
        if matches!(self.0, ParameterValue::DbNull) {
            return Ok(IsNull::Yes);
        }
        encode(&self.0, ty, out)?;
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn to_sql_checked(&self, ty: &Type, out: &mut BytesMut) -> Result<IsNull, AnyError> {
        self.to_sql(ty, out)
    }
}

/// Writes a value as the type that the statement has at its place. Numbers fit where they are in range,
/// as guests often have no other than their widest.
fn encode(value: &ParameterValue, ty: &Type, out: &mut BytesMut) -> Result<(), AnyError> {
    use ParameterValue as P;
    let wrong = |what: &str| {
        let reason = format!("{what} is given where the statement wants {}; add a cast", ty.name());
        BadParameter(reason)
    };
    let invalid = |what: &str| BadParameter(format!("this is no {what}"));
    match value {
        P::Boolean(value) if *ty == Type::BOOL => out.put_u8((*value).into()),
        P::Boolean(_) => return Err(wrong("a boolean").into()),
        P::Int8(value) => whole((*value).into(), ty, out)?,
        P::Int16(value) => whole((*value).into(), ty, out)?,
        P::Int32(value) => whole((*value).into(), ty, out)?,
        P::Int64(value) => whole(*value, ty, out)?,
        P::Floating32(value) => real((*value).into(), ty, out).ok_or_else(|| wrong("a number"))?,
        P::Floating64(value) => real(*value, ty, out).ok_or_else(|| wrong("a number"))?,
        P::Str(text) => match *ty {
            Type::TEXT
            | Type::VARCHAR
            | Type::BPCHAR
            | Type::NAME
            | Type::UNKNOWN
            | Type::JSON
            | Type::XML => {
                out.extend_from_slice(text.as_bytes());
            }
            Type::JSONB => put_json(text.as_bytes(), out),
            Type::UUID => out
                .extend_from_slice(Uuid::parse_str(text).map_err(|_| invalid("UUID"))?.as_bytes()),
            Type::NUMERIC => put_decimal(text, out)?,
            _ if matches!(ty.kind(), Kind::Enum(_)) || ty.name() == "citext" => {
                out.extend_from_slice(text.as_bytes());
            }
            _ => return Err(wrong("a text").into()),
        },
        P::Binary(bytes) if *ty == Type::BYTEA => out.extend_from_slice(bytes),
        P::Binary(_) => return Err(wrong("a list of bytes").into()),
        P::Date(date) if *ty == Type::DATE => {
            let days = date::days(*date).and_then(|days| i32::try_from(days).ok());
            out.put_i32(days.ok_or_else(|| invalid("date"))?);
        }
        P::Date(_) => return Err(wrong("a date").into()),
        P::Time(time) if *ty == Type::TIME => {
            out.put_i64(date::micros(*time).ok_or_else(|| invalid("time"))?);
        }
        P::Time(_) => return Err(wrong("a time").into()),
        P::Datetime((year, month, day, hour, minute, second, nanos)) if is_moment(ty) => {
            let moment = date::since_2000((*year, *month, *day), (*hour, *minute, *second, *nanos));
            out.put_i64(moment.ok_or_else(|| invalid("date and time"))?);
        }
        P::Datetime(_) => return Err(wrong("a date and time").into()),
        P::Timestamp(seconds) if is_moment(ty) => {
            let seconds = seconds.checked_sub(date::UNIX_SECONDS);
            let micros = seconds.and_then(|seconds| seconds.checked_mul(1_000_000));
            out.put_i64(micros.ok_or_else(|| invalid("moment that PostgreSQL knows"))?);
        }
        P::Timestamp(_) => return Err(wrong("a timestamp").into()),
        P::Uuid(text) if *ty == Type::UUID => {
            out.extend_from_slice(Uuid::parse_str(text).map_err(|_| invalid("UUID"))?.as_bytes());
        }
        P::Uuid(_) => return Err(wrong("a UUID").into()),
        P::Jsonb(json) if *ty == Type::JSONB => put_json(json, out),
        P::Jsonb(json) if *ty == Type::JSON => out.extend_from_slice(json),
        P::Jsonb(_) => return Err(wrong("JSON").into()),
        P::Decimal(text) if *ty == Type::NUMERIC => put_decimal(text, out)?,
        P::Decimal(_) => return Err(wrong("a decimal number").into()),
        P::RangeInt32(range) if *ty == Type::INT4_RANGE => {
            put_range(range, out, |bound, out| {
                out.put_i32(*bound);
                Ok(())
            })?;
        }
        P::RangeInt64(range) if *ty == Type::INT8_RANGE => {
            put_range(range, out, |bound, out| {
                out.put_i64(*bound);
                Ok(())
            })?;
        }
        P::RangeDecimal(range) if *ty == Type::NUM_RANGE => {
            put_range(range, out, |bound, out| put_decimal(bound, out))?;
        }
        P::RangeInt32(_) | P::RangeInt64(_) | P::RangeDecimal(_) => {
            return Err(wrong("a range").into());
        }
        P::ArrayInt32(all) if *ty == Type::INT4_ARRAY => {
            all.to_sql(ty, out)?;
        }
        P::ArrayInt64(all) if *ty == Type::INT8_ARRAY => {
            all.to_sql(ty, out)?;
        }
        P::ArrayDecimal(all) if *ty == Type::NUMERIC_ARRAY => {
            let all: Vec<_> = all.iter().map(|one| one.clone().map(Decimal)).collect();
            all.to_sql(ty, out)?;
        }
        P::ArrayStr(all)
            if [Type::TEXT_ARRAY, Type::VARCHAR_ARRAY, Type::BPCHAR_ARRAY].contains(ty) =>
        {
            all.to_sql(ty, out)?;
        }
        P::ArrayInt32(_) | P::ArrayInt64(_) | P::ArrayDecimal(_) | P::ArrayStr(_) => {
            return Err(wrong("a list").into());
        }
        P::Interval(Interval { micros, days, months }) if *ty == Type::INTERVAL => {
            out.put_i64(*micros);
            out.put_i32(*days);
            out.put_i32(*months);
        }
        P::Interval(_) => return Err(wrong("an interval").into()),
        P::DbNull => {}
    }
    Ok(())
}

fn is_moment(ty: &Type) -> bool {
    [Type::TIMESTAMP, Type::TIMESTAMPTZ].contains(ty)
}

fn put_json(json: &[u8], out: &mut BytesMut) {
    out.put_u8(1);
    out.extend_from_slice(json);
}

fn whole(value: i64, ty: &Type, out: &mut BytesMut) -> Result<(), AnyError> {
    put_whole(value, ty, out).ok_or_else(|| {
        let wants = ty.name();
        BadParameter(format!("{value} is given where the statement wants {wants}; add a cast"))
            .into()
    })
}

fn put_whole(value: i64, ty: &Type, out: &mut BytesMut) -> Option<()> {
    match *ty {
        Type::CHAR => out.put_i8(value.try_into().ok()?),
        Type::INT2 => out.put_i16(value.try_into().ok()?),
        Type::INT4 => out.put_i32(value.try_into().ok()?),
        Type::OID => out.put_u32(value.try_into().ok()?),
        Type::INT8 => out.put_i64(value),
        Type::NUMERIC => numeric::encode(&value.to_string(), out)?,
        // Whole numbers that such a type holds exactly.
        #[expect(clippy::cast_precision_loss, reason = "no more than 2^53")]
        Type::FLOAT8 if value.unsigned_abs() <= 1 << 53 => out.put_f64(value as f64),
        _ => return None,
    }
    Some(())
}

fn real(value: f64, ty: &Type, out: &mut BytesMut) -> Option<()> {
    match *ty {
        Type::FLOAT8 => out.put_f64(value),
        #[expect(clippy::cast_possible_truncation, reason = "the column holds no more")]
        Type::FLOAT4 => out.put_f32(value as f32),
        _ => return None,
    }
    Some(())
}
