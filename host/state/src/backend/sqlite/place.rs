//! Where an SQLite file is, and how it is opened: `sqlite:PATH[?mode=ro|rw|rwc][&vfs=NAME]`.
//!
//! The path is percent-decoded, as every part of a store URL is; what follows the question mark are
//! parameters as SQLite names them (<https://sqlite.org/uri.html>), or the URL is refused: a file of a
//! name that nobody meant is never made.

use std::path::{Path, PathBuf};

use rusqlite::OpenFlags;

use crate::{
    backend::url::{decode, parameters},
    error::OpenError,
};

/// What may be done with the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    ReadOnly,
    /// It must be there.
    ReadWrite,
    /// It is made if it is not there.
    Create,
}

/// A path, and what may be done with the file there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) path: PathBuf,
    pub(crate) mode: Mode,
    /// What SQLite reads and writes through, if not its own default (<https://sqlite.org/vfs.html>).
    pub(crate) vfs: Option<String>,
}

impl Place {
    /// Reads what follows `sqlite:`.
    pub(crate) fn parse(rest: &str) -> Result<Self, OpenError> {
        let wrong = |why: &str| {
            OpenError::Url(format!(
                "the SQLite URL is not valid: {why}; write sqlite:PATH, as in sqlite:tally.db or sqlite:/var/lib/tally/tally.db, where needed with ?mode=ro, rw or rwc"
            ))
        };
        if rest.contains('#') {
            return Err(wrong("it has a #; write it as %23"));
        }
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let path = decode(path.strip_prefix("//").unwrap_or(path))
            .map_err(|why| wrong(&format!("its path {why}")))?;
        let (mut mode, mut vfs) = (Mode::Create, None);
        for (name, value) in parameters(query).map_err(|why| wrong(&why))? {
            match (name.as_str(), value.as_str()) {
                ("mode", "ro") => mode = Mode::ReadOnly,
                ("mode", "rw") => mode = Mode::ReadWrite,
                ("mode", "rwc") => mode = Mode::Create,
                ("mode", _) => return Err(wrong("mode is ro, rw or rwc")),
                ("vfs", _) => vfs = Some(value),
                _ => {
                    let known = "of parameters there are mode and vfs; write a ? in a path as %3F";
                    return Err(wrong(known));
                }
            }
        }
        if path.starts_with("file:") {
            return Err(wrong("leave out file: before the path"));
        }
        if path.is_empty() {
            return Err(wrong("it has no path"));
        }
        if path == ":memory:" {
            return Err(OpenError::Url(
                "an SQLite database in memory cannot be shared between threads; write memory: instead"
                    .into(),
            ));
        }
        Ok(Self { path: PathBuf::from(path), mode, vfs })
    }
}

impl Mode {
    pub(super) fn flags(self) -> OpenFlags {
        let access = match self {
            Self::ReadOnly => OpenFlags::SQLITE_OPEN_READ_ONLY,
            Self::ReadWrite => OpenFlags::SQLITE_OPEN_READ_WRITE,
            Self::Create => OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE,
        };
        // Paths are no URLs for SQLite: ours have been read already.
        access | OpenFlags::SQLITE_OPEN_NO_MUTEX
    }
}

/// The file that a store URL names, if it is one of SQLite's that can be understood.
#[must_use]
pub fn sqlite_path(url: &str) -> Option<PathBuf> {
    let place = Place::parse(url.strip_prefix("sqlite:")?).ok()?;
    Some(place.path)
}

/// A path beside another, such as that of its log.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_decoded_and_parameters_known() {
        for (rest, path, mode) in [
            ("x.db", "x.db", Mode::Create),
            ("//x.db", "x.db", Mode::Create),
            ("///var/x.db", "/var/x.db", Mode::Create),
            ("/a%20b%3Fc%23d%25+.db?mode=rw", "/a b?c#d%+.db", Mode::ReadWrite),
            ("x.db?mode=ro", "x.db", Mode::ReadOnly),
            ("x.db?mode=rwc", "x.db", Mode::Create),
        ] {
            let place = Place::parse(rest).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(place, Place { path: path.into(), mode, vfs: None });
        }
        for (rest, says) in [
            ("", "no path"),
            ("?mode=ro", "no path"),
            ("x.db?mode=no", "ro, rw or rwc"),
            ("x.db?cache=shared", "there are mode and vfs"),
            ("file:x.db", "leave out file:"),
            ("x.db?mode", "NAME=VALUE"),
            ("x#.db", "%23"),
            ("100%.db", "%25"),
            (":memory:", "memory:"),
        ] {
            let Err(error) = Place::parse(rest) else { panic!("{rest} was taken") };
            assert!(error.to_string().contains(says), "{rest}: {error}");
        }
    }
}
