//! Statements of SQLite: `DATABASE=STATEMENT`, and further statements behind commas.

use futures::future::join_all;
use probing::{Answer, Failure, decode, list, pair};

use crate::{
    bindings::spin::sqlite::sqlite::{Connection, Value},
    show,
};

pub async fn operate(path: &str, argument: &str) -> Answer {
    match path {
        // The columns, and the rows of the last statement.
        "/sqlite" => {
            let (database, statements) = statements(argument);
            let connection = Connection::open_async(database).await?;
            let mut last = String::new();
            for statement in statements {
                let (columns, rows, outcome) = connection.execute_async(statement, vec![]).await?;
                let rows = rows.collect().await;
                outcome.await?;
                let rows = rows.into_iter().map(|row| row.values.iter().map(text).collect());
                last = format!("{}: {}", columns.join("|"), show(rows));
            }
            Ok(last)
        }
        // The first statement's rows, one at a time, with a run of the second between them. The rest is not taken.
        "/sqlite-between" => {
            let (database, statements) = statements(argument);
            let [first, second] = statements.try_into().map_err(|_| "two statements")?;
            let connection = Connection::open_async(database).await?;
            let (_, mut rows, outcome) = connection.execute_async(first, vec![]).await?;
            let mut taken = 0;
            while taken < 2 && rows.next().await.is_some() {
                taken += 1;
                connection.execute_async(second.clone(), vec![]).await?.2.await?;
            }
            drop(rows);
            outcome.await?;
            Ok(taken.to_string())
        }
        "/sqlite-changes" => {
            let (database, statements) = statements(argument);
            let connection = Connection::open_async(database).await?;
            for statement in statements {
                connection.execute_async(statement, vec![]).await?.2.await?;
            }
            let changes = connection.changes_async().await;
            let row = connection.last_insert_rowid_async().await;
            let plain = (connection.changes(), connection.last_insert_rowid());
            assert_eq!(plain, (changes, row), "the plain functions say the same");
            Ok(format!("{changes} changes, row {row}"))
        }
        // Every kind of value, there and back.
        "/sqlite-values" => {
            let connection = Connection::open_async("default".into()).await?;
            let values = vec![
                Value::Integer(i64::MIN),
                Value::Real(1.5),
                Value::Text("a\u{e4}".into()),
                Value::Blob(vec![0, 255]),
                Value::Null,
            ];
            let statement = "SELECT ?1, ?2, ?3, ?4, ?5".into();
            let (_, rows, outcome) = connection.execute_async(statement, values).await?;
            let rows = rows.collect().await;
            outcome.await?;
            Ok(format!("{rows:?}"))
        }
        // As many connections as there may be, and one more.
        "/sqlite-many" => {
            let mut open = Vec::new();
            loop {
                open.push(Connection::open_async("default".into()).await?);
            }
        }
        // Every statement so many times at once, on one connection; how many succeeded.
        "/sqlite-at-once" => {
            let (count, statements) = statements(argument);
            let connection = &Connection::open_async("default".into()).await?;
            let count: usize = count.parse()?;
            let statements = statements.iter().flat_map(|text| std::iter::repeat_n(text, count));
            let running = statements.map(async |statement| {
                let ran = connection.execute_async(statement.clone(), vec![]).await?;
                ran.2.await
            });
            let (done, failed): (Vec<_>, Vec<_>) =
                join_all(running).await.into_iter().partition(Result::is_ok);
            Ok(format!("{} {failed:?}", done.len()))
        }
        _ => Err(Failure::NoSuchPath),
    }
}

fn statements(argument: &str) -> (String, Vec<String>) {
    let mut parts = list(argument);
    let (database, first) = pair(parts.next().unwrap_or_default());
    let further = parts.map(decode);
    (database, std::iter::once(first).chain(further).collect())
}

fn text(value: &Value) -> String {
    match value {
        Value::Integer(value) => value.to_string(),
        Value::Real(value) => value.to_string(),
        Value::Text(value) => value.clone(),
        Value::Blob(value) => format!("{value:?}"),
        Value::Null => "null".into(),
    }
}
