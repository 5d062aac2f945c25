//! The versions of the interface. The last has all types; the others have some of them.

use wasmtime::{
    Result,
    component::{HasSelf, Linker},
};

use super::{Connection, Context, Handle, builder, execute, open, opened, query};
use crate::interfaces::bindings::{
    spin_postgres_2::fermyon::spin::{postgres as v2, rdbms_types as v2_types},
    spin_postgres_3::spin::postgres::postgres as v3,
    spin_postgres_4::spin::postgres::postgres as v4,
};

/// The name of the last version, which stands for all of 4.
pub(super) const LAST: &str = "spin:postgres/postgres@4.0.0";

/// Offers all versions to a linker.
///
/// # Errors
/// When one is there already, which is a bug.
pub(in crate::interfaces::spin) fn add_to_linker(linker: &mut Linker<Context>) -> Result<()> {
    v2_types::add_to_linker::<_, HasSelf<Context>>(linker, |context| context)?;
    v2::add_to_linker::<_, HasSelf<Context>>(linker, |context| context)?;
    v3::add_to_linker::<_, HasSelf<Context>>(linker, |context| context)?;
    let mut last = linker.instance(LAST)?;
    v4::add_to_linker_instance::<_, HasSelf<Context>>(&mut last, |context| context)?;
    builder::add(&mut last)
}

impl v2_types::Host for Context {}

/// One version's functions, over those of the last version.
macro_rules! version {
    ($interface:ident, $types:ident) => {
        impl $interface::Host for Context {}

        impl $interface::HostConnection for Context {
            async fn open(&mut self, address: String) -> Result<Result<Handle, $types::Error>> {
                let connection = open(self, address, None).await?;
                Ok(opened(self, connection).map_err(Into::into))
            }

            async fn query(
                &mut self,
                this: Handle,
                statement: String,
                parameters: Vec<$types::ParameterValue>,
            ) -> Result<Result<$types::RowSet, $types::Error>> {
                let parameters = parameters.into_iter().map(Into::into).collect();
                let ran = query(self, &this, statement, parameters)?.await?;
                Ok(ran.map(Into::into).map_err(Into::into))
            }

            async fn execute(
                &mut self,
                this: Handle,
                statement: String,
                parameters: Vec<$types::ParameterValue>,
            ) -> Result<Result<u64, $types::Error>> {
                let parameters = parameters.into_iter().map(Into::into).collect();
                Ok(execute(self, &this, statement, parameters)?.await?.map_err(Into::into))
            }

            async fn drop(
                &mut self,
                this: wasmtime::component::Resource<Connection>,
            ) -> Result<()> {
                self.connections().postgres.remove(this.rep());
                Ok(())
            }
        }
    };
}

version!(v2, v2_types);
version!(v3, v3);
version!(v4, v4);

/// The parts of an older version that are the same in all: errors, columns and rows.
macro_rules! same {
    ($types:ident) => {
        impl From<v4::Error> for $types::Error {
            fn from(error: v4::Error) -> Self {
                match error {
                    v4::Error::ConnectionFailed(reason) => Self::ConnectionFailed(reason),
                    v4::Error::BadParameter(reason) => Self::BadParameter(reason),
                    v4::Error::QueryFailed(v4::QueryError::Text(reason)) => {
                        Self::QueryFailed(reason)
                    }
                    v4::Error::QueryFailed(v4::QueryError::DbError(error)) => {
                        Self::QueryFailed(error.as_text)
                    }
                    v4::Error::ValueConversionFailed(reason) => Self::ValueConversionFailed(reason),
                    v4::Error::Other(reason) => Self::Other(reason),
                }
            }
        }

        impl From<v4::RowSet> for $types::RowSet {
            fn from(set: v4::RowSet) -> Self {
                let columns = set.columns.into_iter().map(|column| $types::Column {
                    name: column.name,
                    data_type: column.data_type.into(),
                });
                let rows = set.rows.into_iter();
                let rows = rows.map(|row| row.into_iter().map(Into::into).collect()).collect();
                Self { columns: columns.collect(), rows }
            }
        }
    };
}

same!(v2_types);
same!(v3);

impl From<v4::DbDataType> for v2_types::DbDataType {
    fn from(ty: v4::DbDataType) -> Self {
        match ty {
            v4::DbDataType::Boolean => Self::Boolean,
            v4::DbDataType::Int8 => Self::Int8,
            v4::DbDataType::Int16 => Self::Int16,
            v4::DbDataType::Int32 => Self::Int32,
            v4::DbDataType::Int64 => Self::Int64,
            v4::DbDataType::Floating32 => Self::Floating32,
            v4::DbDataType::Floating64 => Self::Floating64,
            v4::DbDataType::Str => Self::Str,
            v4::DbDataType::Binary => Self::Binary,
            _ => Self::Other,
        }
    }
}

impl From<v4::DbDataType> for v3::DbDataType {
    fn from(ty: v4::DbDataType) -> Self {
        match ty {
            v4::DbDataType::Boolean => Self::Boolean,
            v4::DbDataType::Int8 => Self::Int8,
            v4::DbDataType::Int16 => Self::Int16,
            v4::DbDataType::Int32 => Self::Int32,
            v4::DbDataType::Int64 => Self::Int64,
            v4::DbDataType::Floating32 => Self::Floating32,
            v4::DbDataType::Floating64 => Self::Floating64,
            v4::DbDataType::Str => Self::Str,
            v4::DbDataType::Binary => Self::Binary,
            v4::DbDataType::Date => Self::Date,
            v4::DbDataType::Time => Self::Time,
            v4::DbDataType::Datetime => Self::Datetime,
            v4::DbDataType::Timestamp => Self::Timestamp,
            _ => Self::Other,
        }
    }
}

impl From<v4::DbValue> for v2_types::DbValue {
    fn from(value: v4::DbValue) -> Self {
        match value {
            v4::DbValue::Boolean(value) => Self::Boolean(value),
            v4::DbValue::Int8(value) => Self::Int8(value),
            v4::DbValue::Int16(value) => Self::Int16(value),
            v4::DbValue::Int32(value) => Self::Int32(value),
            v4::DbValue::Int64(value) => Self::Int64(value),
            v4::DbValue::Floating32(value) => Self::Floating32(value),
            v4::DbValue::Floating64(value) => Self::Floating64(value),
            v4::DbValue::Str(value) => Self::Str(value),
            v4::DbValue::Binary(value) => Self::Binary(value),
            v4::DbValue::DbNull => Self::DbNull,
            _ => Self::Unsupported,
        }
    }
}

impl From<v4::DbValue> for v3::DbValue {
    fn from(value: v4::DbValue) -> Self {
        match value {
            v4::DbValue::Boolean(value) => Self::Boolean(value),
            v4::DbValue::Int8(value) => Self::Int8(value),
            v4::DbValue::Int16(value) => Self::Int16(value),
            v4::DbValue::Int32(value) => Self::Int32(value),
            v4::DbValue::Int64(value) => Self::Int64(value),
            v4::DbValue::Floating32(value) => Self::Floating32(value),
            v4::DbValue::Floating64(value) => Self::Floating64(value),
            v4::DbValue::Str(value) => Self::Str(value),
            v4::DbValue::Binary(value) => Self::Binary(value),
            v4::DbValue::Date(value) => Self::Date(value),
            v4::DbValue::Time(value) => Self::Time(value),
            v4::DbValue::Datetime(value) => Self::Datetime(value),
            v4::DbValue::Timestamp(value) => Self::Timestamp(value),
            v4::DbValue::DbNull => Self::DbNull,
            _ => Self::Unsupported,
        }
    }
}

impl From<v2_types::ParameterValue> for v4::ParameterValue {
    fn from(value: v2_types::ParameterValue) -> Self {
        use v2_types::ParameterValue as Old;
        match value {
            Old::Boolean(value) => Self::Boolean(value),
            Old::Int8(value) => Self::Int8(value),
            Old::Int16(value) => Self::Int16(value),
            Old::Int32(value) => Self::Int32(value),
            Old::Int64(value) => Self::Int64(value),
            Old::Uint8(value) => Self::Int64(value.into()),
            Old::Uint16(value) => Self::Int64(value.into()),
            Old::Uint32(value) => Self::Int64(value.into()),
            // PostgreSQL has no such type; what is larger than its largest fits a decimal number.
            Old::Uint64(value) => {
                i64::try_from(value).map_or_else(|_| Self::Decimal(value.to_string()), Self::Int64)
            }
            Old::Floating32(value) => Self::Floating32(value),
            Old::Floating64(value) => Self::Floating64(value),
            Old::Str(value) => Self::Str(value),
            Old::Binary(value) => Self::Binary(value),
            Old::DbNull => Self::DbNull,
        }
    }
}

impl From<v3::ParameterValue> for v4::ParameterValue {
    fn from(value: v3::ParameterValue) -> Self {
        use v3::ParameterValue as Old;
        match value {
            Old::Boolean(value) => Self::Boolean(value),
            Old::Int8(value) => Self::Int8(value),
            Old::Int16(value) => Self::Int16(value),
            Old::Int32(value) => Self::Int32(value),
            Old::Int64(value) => Self::Int64(value),
            Old::Floating32(value) => Self::Floating32(value),
            Old::Floating64(value) => Self::Floating64(value),
            Old::Str(value) => Self::Str(value),
            Old::Binary(value) => Self::Binary(value),
            Old::Date(value) => Self::Date(value),
            Old::Time(value) => Self::Time(value),
            Old::Datetime(value) => Self::Datetime(value),
            Old::Timestamp(value) => Self::Timestamp(value),
            Old::DbNull => Self::DbNull,
        }
    }
}
