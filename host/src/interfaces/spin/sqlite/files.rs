//! Which database files a guest may open, and what may be in them.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use rusqlite::{Connection, OpenFlags};
use tokio::sync::Semaphore;

/// Connections of one guest to one database at once. Further ones wait: one writes at a time in any
/// case, and each may keep a thread busy.
const AT_ONCE: usize = 8;

/// Bytes of a page, SQLite's own default: a database is so many pages at most.
const PAGE_BYTES: u64 = 4096;

/// Bytes of a database's name: as a file's it may take three times as much, and file systems end at
/// 255.
const LONGEST_NAME: usize = 64;

/// What stands for itself in the name of a file. No dot does: none of these names is special.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_');

/// The databases of a guest, by the names it opens them with. Few, so a search beats a map.
#[derive(Clone, Default)]
pub(crate) struct Databases(Vec<(String, Arc<File>)>);

impl fmt::Debug for Databases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, file)| (name, &file.path))).finish()
    }
}

/// Why databases cannot be configured so.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DatabasesError {
    /// A name cannot be a database's.
    #[error(
        "'{0}' is no database; write NAME, or NAME=SHARED for one that several guests share, of 1 to {LONGEST_NAME} bytes each"
    )]
    Name(String),
    /// A name stands there twice.
    #[error("'{0}' is there twice")]
    Twice(String),
}

impl Databases {
    /// Reads a list of `NAME`, for a file of the guest's own, or `NAME=SHARED`, for one that guests
    /// share.
    pub(crate) fn parse<'a>(
        entries: impl IntoIterator<Item = &'a str>,
        guest: &str,
        folder: &Path,
        most_bytes: u64,
    ) -> Result<Self, DatabasesError> {
        let mut databases: Vec<(String, Arc<File>)> = Vec::new();
        for entry in entries {
            let encode = |name: &str| utf8_percent_encode(name, PLAIN).to_string();
            let is_name = |name: &str| !name.is_empty() && name.len() <= LONGEST_NAME;
            let (name, path) = match entry.split_once('=') {
                Some((name, shared)) if is_name(name) && is_name(shared) => {
                    (name, folder.join(format!("{}.db", encode(shared))))
                }
                None if is_name(entry) => {
                    (entry, folder.join(encode(guest)).join(format!("{}.db", encode(entry))))
                }
                _ => return Err(DatabasesError::Name(entry.to_owned())),
            };
            if databases.iter().any(|(other, _)| other == name) {
                return Err(DatabasesError::Twice(name.to_owned()));
            }
            databases.push((name.to_owned(), Arc::new(File::new(path, most_bytes))));
        }
        Ok(Self(databases))
    }

    /// Whether there are any.
    pub(crate) fn any(&self) -> bool {
        !self.0.is_empty()
    }

    /// The one that a guest opens by this name.
    pub(super) fn get(&self, name: &str) -> Option<&Arc<File>> {
        self.0.iter().find(|(open, _)| open == name).map(|(_, file)| file)
    }
}

/// The file of a database.
pub(super) struct File {
    path: PathBuf,
    /// Pages that it may have.
    most_pages: u64,
    /// Connections that may be made.
    pub(super) places: Arc<Semaphore>,
    /// A connection that nobody uses: when the last one is closed, SQLite writes the log back into
    /// the file and removes it, which would happen after each request.
    kept: Mutex<Option<Connection>>,
}

impl File {
    fn new(path: PathBuf, most_bytes: u64) -> Self {
        let places = Arc::new(Semaphore::new(AT_ONCE));
        Self { path, most_pages: (most_bytes / PAGE_BYTES).max(1), places, kept: Mutex::default() }
    }

    /// Connects, and makes the file if it is not there. Blocks.
    pub(super) fn connect(&self) -> rusqlite::Result<Connection> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.is_none() {
            if let Some(folder) = self.path.parent()
                && let Err(error) = std::fs::create_dir_all(folder)
            {
                tracing::warn!(%error, "cannot make the folder {}", folder.display());
            }
            *kept = Some(self.connect_once()?);
        }
        drop(kept);
        self.connect_once()
    }

    fn connect_once(&self) -> rusqlite::Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.path, flags)?;
        // As durable as the store: a transaction is on disk when its statement returns.
        connection.execute_batch(&format!(
            "PRAGMA busy_timeout = 5000; PRAGMA page_size = {PAGE_BYTES}; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA max_page_count = {}",
            self.most_pages
        ))?;
        Ok(connection)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(entries: &[&str], guest: &str) -> Result<Databases, DatabasesError> {
        Databases::parse(entries.iter().copied(), guest, Path::new("/d"), 1 << 20)
    }

    #[test]
    fn a_file_is_the_guests_own_unless_it_is_shared() {
        let databases = parse(&["default", "a=both"], "cart").unwrap();
        let path = |name| databases.get(name).unwrap().path.display().to_string();
        assert_eq!(path("default"), "/d/cart/default.db");
        assert_eq!(path("a"), "/d/both.db");
        assert!(databases.get("both").is_none() && databases.get("").is_none());
    }

    #[test]
    fn no_name_leads_out_of_the_folder_or_to_another_guests_file() {
        for (name, guest) in [("../x", "g"), ("x", ".."), ("a/b", "g/h"), (".", "."), ("\0", "a=b")]
        {
            let databases = parse(&[name], guest).unwrap();
            let path = databases.get(name).unwrap().path.clone();
            let rest = path.strip_prefix("/d").unwrap().to_str().unwrap();
            assert_eq!(rest.split('/').count(), 2, "{rest}");
            assert!(!rest.contains("..") && !rest.contains('\0'), "{rest}");
        }
        assert_ne!(
            parse(&["b"], "a/").unwrap().get("b").unwrap().path,
            parse(&["/b"], "a").unwrap().get("/b").unwrap().path,
        );
        // A shared file is never a guest's folder.
        assert_eq!(parse(&["x=g"], "g").unwrap().get("x").unwrap().path, Path::new("/d/g.db"));
    }

    #[test]
    fn what_is_no_database_is_explained() {
        for entries in [&[""][..], &["a="], &["=a"], &[&"x".repeat(65)], &["a", "a=b"]] {
            let error = parse(entries, "g").unwrap_err().to_string();
            assert!(error.contains("NAME=SHARED") || error.contains("twice"), "{error}");
        }
    }
}
