//! Statements of SQLite: `DATABASE=STATEMENT`, and further statements behind commas.

use probing::{Answer, Failure, list, pair};

use crate::{
    bindings::{fermyon::spin::sqlite as v2, spin::sqlite::sqlite as v3},
    show,
};

pub fn operate(path: &str, argument: &str) -> Answer {
    match path {
        // The columns, and the rows of the last statement.
        "/sqlite" => {
            let (database, statements) = statements(argument);
            let connection = v2::Connection::open(&database)?;
            let mut last = String::new();
            for statement in statements {
                let result = connection.execute(&statement, &[])?;
                let rows = result.rows.into_iter().map(|row| row.values.iter().map(text).collect());
                last = format!("{}: {}", result.columns.join("|"), show(rows));
            }
            Ok(last)
        }
        // What version 3 adds.
        "/sqlite-changes" => {
            let (database, statements) = statements(argument);
            let connection = v3::Connection::open(&database)?;
            for statement in statements {
                connection.execute(&statement, &[])?;
            }
            Ok(format!("{} changes, row {}", connection.changes(), connection.last_insert_rowid()))
        }
        // Every kind of value, there and back.
        "/sqlite-values" => {
            let connection = v3::Connection::open("default")?;
            let values = [
                v3::Value::Integer(i64::MIN),
                v3::Value::Real(1.5),
                v3::Value::Text("a\u{e4}".into()),
                v3::Value::Blob(vec![0, 255]),
                v3::Value::Null,
            ];
            let result = connection.execute("SELECT ?1, ?2, ?3, ?4, ?5", &values)?;
            Ok(format!("{:?}", result.rows))
        }
        // As many connections as there may be, and one more.
        "/sqlite-many" => {
            let mut open = Vec::new();
            loop {
                open.push(v2::Connection::open("default")?);
            }
        }
        _ => Err(Failure::NoSuchPath),
    }
}

fn statements(argument: &str) -> (String, Vec<String>) {
    let mut parts = list(argument);
    let (database, first) = pair(parts.next().unwrap_or_default());
    let further = parts.map(probing::decode);
    (database, std::iter::once(first).chain(further).collect())
}

fn text(value: &v2::Value) -> String {
    match value {
        v2::Value::Integer(value) => value.to_string(),
        v2::Value::Real(value) => value.to_string(),
        v2::Value::Text(value) => value.clone(),
        v2::Value::Blob(value) => format!("{value:?}"),
        v2::Value::Null => "null".into(),
    }
}
