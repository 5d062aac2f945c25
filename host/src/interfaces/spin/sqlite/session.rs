//! One connection of a guest to a database file, and its statements.

use std::{
    collections::HashSet,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, Ordering},
    },
};

use rusqlite::{
    ErrorCode,
    config::DbConfig,
    hooks::{AuthAction, AuthContext, Authorization},
    limits::Limit,
    types::{ToSql, ToSqlOutput, ValueRef},
};
use tokio::{
    runtime::Handle,
    sync::{Mutex, OwnedSemaphorePermit},
};

use super::{Error, Row, Rows, Value, files::File};
use crate::interfaces::{Effects, spin::connections::Readable};

/// Instructions of SQLite's machine between two looks whether the request is still there: some
/// microseconds.
const BETWEEN_LOOKS: i32 = 1_000;

/// Bytes of one statement.
const MAX_STATEMENT_BYTES: i32 = 1 << 20;

/// Bytes that a value takes in the host besides its own.
const VALUE_BYTES: usize = 32;

/// Pragmas that tell something of the database, or change it for the guest's own statements alone.
static ALLOWED: LazyLock<HashSet<&str>> = LazyLock::new(|| {
    [
        "application_id",
        "collation_list",
        "compile_options",
        "defer_foreign_keys",
        "encoding",
        "foreign_key_check",
        "foreign_key_list",
        "foreign_keys",
        "freelist_count",
        "function_list",
        "index_info",
        "index_list",
        "index_xinfo",
        "integrity_check",
        "optimize",
        "page_count",
        "quick_check",
        "recursive_triggers",
        "table_info",
        "table_list",
        "table_xinfo",
        "user_version",
    ]
    .into()
});

/// Pragmas that are the host's: guests may ask, and what they set is ignored, as many set them
/// without need.
const IGNORED: [&str; 9] = [
    "auto_vacuum",
    "busy_timeout",
    "cache_size",
    "journal_mode",
    "max_page_count",
    "mmap_size",
    "page_size",
    "synchronous",
    "temp_store",
];

/// A statement to run, with its request.
pub(super) struct Statement {
    pub(super) text: String,
    pub(super) parameters: Vec<Value>,
    pub(super) readable: Readable,
    pub(super) effects: Effects,
}

/// A guest's handle of a database.
#[derive(Clone)]
#[allow(unreachable_pub, reason = "it is the type of a resource")]
pub(in crate::interfaces::spin) struct Connection(Arc<Inner>);

struct Inner {
    file: Arc<File>,
    /// Bytes that a value may have.
    longest: usize,
    /// Held by the statement that runs.
    session: Arc<Mutex<Session>>,
}

/// What a handle keeps between statements.
#[derive(Default)]
struct Session {
    /// Made with the first statement.
    open: Option<Open>,
    last_insert_rowid: i64,
    changes: u64,
}

/// An open connection, with its place among those of the guest.
struct Open {
    connection: rusqlite::Connection,
    /// Set while a commit is on its way.
    commits: Arc<AtomicBool>,
    _place: OwnedSemaphorePermit,
}

/// Stops a statement that nobody waits for any more.
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // A statement that still runs has the session, and closes it.
        let Ok(mut session) = Arc::clone(&self.session).try_lock_owned() else { return };
        let Some(open) = session.open.take() else { return };
        // Closing may block on the disk: a transaction that is open is rolled back.
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(move || drop(open))),
            Err(_) => drop(open),
        }
    }
}

impl Connection {
    pub(super) fn new(file: Arc<File>, longest: usize) -> Self {
        Self(Arc::new(Inner { file, longest, session: Arc::default() }))
    }

    pub(super) async fn last_insert_rowid(&self) -> i64 {
        self.0.session.lock().await.last_insert_rowid
    }

    pub(super) async fn changes(&self) -> u64 {
        self.0.session.lock().await.changes
    }

    /// Runs a statement, after those that were begun before on the same handle.
    ///
    /// # Cancel safety
    /// When the future is dropped, the statement is interrupted. A commit that is on its way is
    /// completed, and its effect unknown.
    pub(super) async fn execute(&self, statement: Statement) -> Result<Rows, Error> {
        let Inner { file, longest, session } = &*self.0;
        let mut session = Arc::clone(session).lock_owned().await;
        let place = match session.open {
            Some(_) => None,
            // Closed only with the process.
            None => Arc::clone(&file.places).acquire_owned().await.ok(),
        };
        // Each statement has its own: the next may begin before this future has learned that it is done.
        let stop = Arc::new(AtomicBool::new(false));
        let _stop = StopOnDrop(Arc::clone(&stop));
        let (file, longest) = (Arc::clone(file), *longest);
        let running = tokio::task::spawn_blocking(move || {
            if let Some(place) = place {
                session.open = Some(open(&file, longest, &statement.effects, place)?);
            }
            session.run(statement, stop)
        });
        running.await.unwrap_or_else(|_| Err(Error::Io("the statement panicked".into())))
    }
}

/// Connects, with all that keeps the guest within its file.
fn open(
    file: &File,
    longest: usize,
    effects: &Effects,
    place: OwnedSemaphorePermit,
) -> Result<Open, Error> {
    let opening = || {
        let mut connection = file.connect()?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
        let longest = i32::try_from(longest).unwrap_or(i32::MAX);
        connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, longest)?;
        connection.set_limit(Limit::SQLITE_LIMIT_SQL_LENGTH, MAX_STATEMENT_BYTES)?;
        connection.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0)?;
        connection.set_limit(Limit::SQLITE_LIMIT_WORKER_THREADS, 0)?;
        connection.authorizer(Some(|context: AuthContext<'_>| authorize(&context.action)))?;
        let commits = Arc::new(AtomicBool::new(false));
        let (committing, effects) = (Arc::clone(&commits), effects.clone());
        // Called before a transaction that has written is committed, and then it may be.
        connection.commit_hook(Some(move || {
            if !committing.swap(true, Ordering::Relaxed) {
                effects.begin_elsewhere();
            }
            false
        }))?;
        Ok(Open { connection, commits, _place: place })
    };
    opening().map_err(|error: rusqlite::Error| {
        tracing::warn!(%error, "a guest's database cannot be opened");
        Error::Io("the database cannot be opened; the host's log says why".into())
    })
}

/// Whether a guest may do this: all that stays within its file.
fn authorize(action: &AuthAction<'_>) -> Authorization {
    match action {
        AuthAction::Attach { .. } | AuthAction::Detach { .. } | AuthAction::Unknown { .. } => {
            Authorization::Deny
        }
        AuthAction::Function { function_name }
            if function_name.eq_ignore_ascii_case("load_extension") =>
        {
            Authorization::Deny
        }
        AuthAction::Pragma { pragma_name, pragma_value } => {
            let name = pragma_name.to_ascii_lowercase();
            match pragma_value {
                _ if ALLOWED.contains(&*name) => Authorization::Allow,
                None if IGNORED.contains(&&*name) => Authorization::Allow,
                Some(_) if IGNORED.contains(&&*name) => Authorization::Ignore,
                _ => Authorization::Deny,
            }
        }
        _ => Authorization::Allow,
    }
}

impl Session {
    fn run(&mut self, statement: Statement, stop: Arc<AtomicBool>) -> Result<Rows, Error> {
        let Some(Open { connection, commits, .. }) = &mut self.open else {
            return Err(Error::Io("the host is stopping".into()));
        };
        let look = Some(move || stop.load(Ordering::Relaxed));
        connection.progress_handler(BETWEEN_LOOKS, look).map_err(explain)?;
        let effects = statement.effects.clone();
        let ran = run(connection, statement);
        if commits.swap(false, Ordering::Relaxed) && ran.is_ok() {
            // After a failure, it is not known whether the commit came to its end.
            effects.end_elsewhere(true);
        }
        self.last_insert_rowid = connection.last_insert_rowid();
        self.changes = connection.changes();
        ran
    }
}

/// Runs a statement and reads its rows, as many as the request may have.
fn run(connection: &rusqlite::Connection, statement: Statement) -> Result<Rows, Error> {
    let Statement { text, parameters, readable, .. } = statement;
    let mut prepared = match connection.prepare(&text) {
        // Comments alone, as in a script that was cut into statements.
        Err(rusqlite::Error::Empty) => return Ok(Rows::default()),
        prepared => prepared.map_err(explain)?,
    };
    let wanted = prepared.parameter_count();
    if wanted != parameters.len() {
        let given = parameters.len();
        return Err(Error::Io(format!(
            "the statement has {wanted} parameters, and {given} were given"
        )));
    }
    for (number, value) in (1..).zip(&parameters) {
        prepared.raw_bind_parameter(number, value).map_err(explain)?;
    }
    let columns: Vec<String> = prepared.column_names().map(str::to_owned).collect();
    let mut rows = Vec::new();
    let mut stepping = prepared.raw_query();
    while let Some(row) = stepping.next().map_err(explain)? {
        let mut values = Vec::with_capacity(columns.len());
        for column in 0..columns.len() {
            let value = row.get_ref(column).map_err(explain)?;
            let bytes = match value {
                ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes.len(),
                _ => 0,
            };
            readable
                .charge(bytes.saturating_add(VALUE_BYTES))
                .map_err(|error| Error::Io(error.to_string()))?;
            values.push(match value {
                ValueRef::Null => Value::Null,
                ValueRef::Integer(value) => Value::Integer(value),
                ValueRef::Real(value) => Value::Real(value),
                // SQLite stores what it is given, whether it is UTF-8 or not.
                ValueRef::Text(text) => Value::Text(String::from_utf8_lossy(text).into_owned()),
                ValueRef::Blob(blob) => Value::Blob(blob.to_vec()),
            });
        }
        rows.push(Row { values });
    }
    Ok(Rows { columns, rows })
}

impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Integer(value) => ValueRef::Integer(*value),
            Self::Real(value) => ValueRef::Real(*value),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
            Self::Blob(blob) => ValueRef::Blob(blob),
            Self::Null => ValueRef::Null,
        }))
    }
}

/// An error in the guest's terms.
#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn explain(error: rusqlite::Error) -> Error {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => Error::DatabaseFull,
        Some(ErrorCode::AuthorizationForStatementDenied) => {
            Error::Io(format!("{error}: a guest's statements stay within its database file"))
        }
        _ if matches!(error, rusqlite::Error::MultipleStatement) => {
            Error::Io("one statement at a time; none of these was run".into())
        }
        _ => Error::Io(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tally_state::Applied;
    use tempfile::TempDir;

    use super::{super::files::Databases, *};
    use crate::interfaces::spin::connections::Readable;

    const SIZE: u64 = 256 << 10;

    struct Guest {
        connection: Connection,
        effects: Effects,
        _dir: TempDir,
    }

    impl Guest {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let databases = Databases::parse(["default"], "g", dir.path(), SIZE).unwrap();
            let connection =
                Connection::new(Arc::clone(databases.get("default").unwrap()), 1 << 20);
            Self { connection, effects: Effects::default(), _dir: dir }
        }

        /// Another handle of the same file, as another request has it.
        fn another(&self) -> Connection {
            Connection::new(Arc::clone(&self.connection.0.file), 1 << 20)
        }

        async fn run(&self, text: &str) -> Result<Rows, Error> {
            execute(&self.connection, text, &self.effects).await
        }

        /// What a statement gives, as text, or the error.
        async fn says(&self, text: &str) -> String {
            match self.run(text).await {
                Ok(Rows { rows, .. }) => {
                    format!("{:?}", rows.iter().map(|row| &row.values).collect::<Vec<_>>())
                }
                Err(error) => format!("{error:?}"),
            }
        }
    }

    async fn execute(
        connection: &Connection,
        text: &str,
        effects: &Effects,
    ) -> Result<Rows, Error> {
        let readable = Readable::of(100_000);
        let (text, effects) = (text.to_owned(), effects.clone());
        connection.execute(Statement { text, parameters: Vec::new(), readable, effects }).await
    }

    #[tokio::test]
    async fn a_guest_stays_within_its_file() {
        let guest = Guest::new();
        guest.run("CREATE TABLE t (x)").await.unwrap();
        for text in [
            "ATTACH '/tmp/x.db' AS other",
            "ATTACH ':memory:' AS other",
            "VACUUM INTO '/tmp/x.db'",
            "VACUUM",
            "SELECT load_extension('/tmp/x.so')",
            "PRAGMA temp_store_directory = '/'",
            "PRAGMA writable_schema = ON",
            "PRAGMA wal_checkpoint(TRUNCATE)",
            "PRAGMA locking_mode = EXCLUSIVE",
            "PRAGMA hard_heap_limit = 1",
            "PRAGMA database_list",
            "INSERT INTO sqlite_schema VALUES ('table', 'a', 'a', 2, '')",
        ] {
            let said = guest.says(text).await;
            assert!(said.starts_with("Io("), "{text}: {said}");
        }
        // The host's own settings stay as they are.
        for (set, ask, says) in [
            ("PRAGMA max_page_count = 1000000", "PRAGMA max_page_count", "[[Integer(64)]]"),
            ("PRAGMA journal_mode = DELETE", "PRAGMA journal_mode", "[[Text(\"wal\")]]"),
            ("PRAGMA synchronous = OFF", "PRAGMA synchronous", "[[Integer(2)]]"),
        ] {
            guest.run(set).await.unwrap();
            assert_eq!(guest.says(ask).await, says, "{set}");
        }
        assert!(guest.says("PRAGMA table_info(t)").await.contains("\"x\""));
    }

    #[tokio::test]
    async fn size_results_and_statements_are_bounded() {
        let guest = Guest::new();
        guest.run("CREATE TABLE t (x)").await.unwrap();
        let fill = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000) INSERT INTO t SELECT randomblob(1000) FROM n";
        assert!(matches!(guest.run(fill).await, Err(Error::DatabaseFull)));
        assert_eq!(guest.says("SELECT count(*) FROM t").await, "[[Integer(0)]]");
        let many = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000) SELECT i FROM n";
        assert!(guest.says(many).await.contains("than its memory holds"));
        assert!(guest.says("SELECT zeroblob(2000000)").await.contains("too big"));
        assert!(guest.says("SELECT 1; SELECT 2").await.contains("one statement"));
        assert!(guest.says("SELECT ?").await.contains("1 parameters, and 0"));
        assert_eq!(guest.says("-- nothing").await, "[]");
    }

    #[tokio::test]
    async fn what_was_changed_is_known_to_the_request() {
        let guest = Guest::new();
        let applied = || guest.effects.applied();
        guest.run("SELECT 1").await.unwrap();
        assert_eq!(applied(), Applied::No, "reading");
        guest.run("BEGIN").await.unwrap();
        guest.run("CREATE TABLE t (x UNIQUE)").await.unwrap();
        guest.run("INSERT INTO t VALUES (1)").await.unwrap();
        assert_eq!(applied(), Applied::No, "nothing is committed");
        guest.run("ROLLBACK").await.unwrap();
        assert_eq!(applied(), Applied::No, "nor ever was");
        guest.run("INSERT INTO missing VALUES (1)").await.unwrap_err();
        assert_eq!(applied(), Applied::No, "a statement that failed");
        guest.run("CREATE TABLE t (x)").await.unwrap();
        assert_eq!(applied(), Applied::Unknown, "a table was made");
    }

    #[tokio::test]
    async fn nothing_of_a_handle_is_found_by_another() {
        let guest = Guest::new();
        for text in [
            "CREATE TABLE t (x)",
            "CREATE TEMP TABLE mark (x)",
            "BEGIN",
            "INSERT INTO t VALUES (1)",
        ] {
            guest.run(text).await.unwrap();
        }
        let other = guest.another();
        let effects = Effects::default();
        let mark = execute(&other, "SELECT * FROM mark", &effects).await;
        assert!(matches!(mark, Err(Error::Io(text)) if text.contains("no such table")));
        let rows = execute(&other, "SELECT * FROM t", &effects).await.unwrap().rows;
        assert_eq!(rows, [], "a transaction that is not committed");
        let file = Arc::clone(&guest.connection.0.file);
        drop(guest.connection);
        // The transaction ends with its handle.
        let writing = execute(&other, "INSERT INTO t VALUES (2)", &effects).await;
        writing.unwrap();
        drop(other);
        let third = Connection::new(file, 1 << 20);
        let rows = execute(&third, "SELECT * FROM t", &effects).await.unwrap().rows;
        assert_eq!(rows, [Row { values: vec![Value::Integer(2)] }]);
    }

    #[tokio::test]
    async fn a_statement_ends_with_its_request() {
        let guest = Guest::new();
        // Tens of seconds.
        let long = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200000000) SELECT count(*) FROM n";
        let running = guest.run(long);
        tokio::time::timeout(Duration::from_millis(50), running).await.unwrap_err();
        // It has the connection until it has stopped.
        let next = tokio::time::timeout(Duration::from_secs(10), guest.says("SELECT 1")).await;
        assert_eq!(next.expect("the statement before went on for 10 s"), "[[Integer(1)]]");
    }

    /// One that is done is not taken for the next one, which may run by then.
    #[tokio::test]
    async fn statements_of_one_handle_run_one_after_the_other() {
        let guest = Guest::new();
        guest.run("CREATE TABLE t (x)").await.unwrap();
        let long = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) INSERT INTO t SELECT count(*) FROM n";
        let ran = futures_util::future::join_all((0..50).map(|_| guest.run(long))).await;
        for ran in ran {
            ran.unwrap();
        }
        assert_eq!(guest.says("SELECT count(*) FROM t").await, "[[Integer(50)]]");
    }
}
