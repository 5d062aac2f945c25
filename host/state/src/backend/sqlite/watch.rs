//! Noticing that a file has been removed or replaced while it is open.
//!
//! An open file goes on when its name is removed or given to another: what is written then is gone at
//! the next start. So the files that the names lead to are compared with those that were opened, by
//! device and inode, before a transaction begins and once it is committed. The log and the index of the
//! log count as well: without them the next start lacks what has not been copied into the file yet
//! (<https://sqlite.org/howtocorrupt.html#unlinking_or_renaming_a_database_file_while_in_use>).

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use super::place::beside;

/// Which file a name leads to.
type Identity = (u64, u64);

/// The files of a database, as they were when they were opened.
#[derive(Debug)]
pub(super) struct Watch {
    files: [(PathBuf, Option<Identity>); 3],
}

impl Watch {
    /// The files of a database that is open and has been read, so that its log is there.
    pub(super) fn new(path: &Path) -> io::Result<Self> {
        // The log is beside the file itself, wherever links lead.
        let real = fs::canonicalize(path)?;
        let file = |path: PathBuf| {
            let found = identity(&path).ok();
            (path, found)
        };
        Ok(Self {
            files: [
                (path.to_owned(), Some(identity(path)?)),
                file(beside(&real, "-wal")),
                file(beside(&real, "-shm")),
            ],
        })
    }

    /// Whether all are still there.
    ///
    /// # Errors
    /// What has become of one that is not.
    pub(super) fn check(&self) -> Result<(), String> {
        for (path, before) in &self.files {
            let Some(before) = before else { continue };
            let what = match identity(path) {
                Ok(now) if now == *before => continue,
                Ok(_) => "has been replaced".to_owned(),
                Err(error) if error.kind() == io::ErrorKind::NotFound => "was removed".to_owned(),
                Err(error) => format!("cannot be found any more ({error})"),
            };
            return Err(format!(
                "the SQLite file {} {what}; put the same file back, or start the host again to use what is there now",
                path.display()
            ));
        }
        Ok(())
    }
}

fn identity(path: &Path) -> io::Result<Identity> {
    let metadata = fs::metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}
