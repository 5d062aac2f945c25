//! The token of the admin listener: from the configuration, or made at the start and kept in a file
//! that only this user can read, where `tally deploy` finds it.

use std::{
    env, fs,
    io::{self, Read as _, Write as _},
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use subtle::ConstantTimeEq as _;

use crate::config::Secret;

/// The shortest token that is taken: 16 letters and digits by chance cannot be guessed over a network.
const MIN_LENGTH: usize = 16;

/// Bytes of a file that are read: a token fits in many times over.
const MAX_FILE: u64 = 4 << 10;

/// The name of a token that has none.
const ONLY: &str = "admin";

/// Bytes of chance in a token that is made.
const RANDOM_BYTES: usize = 32;

/// How to get a token, at the end of errors.
pub(crate) const ADVICE: &str = "set TALLY_ADMIN_TOKEN, or write it to a file and give that as --admin-token-file; \
     `openssl rand -hex 32` makes one";

/// Why a token cannot be used. The text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// It is in two places.
    #[error(
        "the admin token is in TALLY_ADMIN_TOKEN and in admin-token-file; give it in one of them"
    )]
    Twice,
    /// Its file cannot be read.
    #[error("admin-token-file: cannot read {}: {reason}", path.display())]
    File {
        /// The file's path.
        path: PathBuf,
        /// What the operating system says.
        reason: io::Error,
    },
    /// Two tokens have one name.
    #[error("{place}: two tokens are named '{name}'; write a line for each, as in: alice TOKEN")]
    SameName {
        /// Where they are from.
        place: String,
        /// The name.
        name: String,
    },
    /// It is no token.
    #[error(
        "{place}: a token has at least {MIN_LENGTH} characters, of printable ASCII without spaces; `openssl rand -hex 32` makes one"
    )]
    Unfit {
        /// Where it is from.
        place: String,
    },
}

/// A token with the name of whoever has it.
#[derive(Clone, Debug)]
pub(crate) struct Named {
    name: String,
    token: Secret,
}

impl Named {
    /// The token of a host that has but one.
    pub(crate) fn only(token: Secret) -> Self {
        Self { name: ONLY.into(), token }
    }

    /// The token.
    pub(crate) fn token(&self) -> &Secret {
        &self.token
    }
}

/// Tokens that the configuration gives: one, or lines of a file with a name before each.
///
/// # Errors
/// [`TokenError`]. Blocks on the file.
pub(crate) fn configured(
    variable: Option<&Secret>,
    file: Option<&Path>,
) -> Result<Vec<Named>, TokenError> {
    let (text, place) = match (variable, file) {
        (None, None) => return Ok(Vec::new()),
        (Some(_), Some(_)) => return Err(TokenError::Twice),
        (Some(token), None) => (token.expose().to_owned(), crate::config::ADMIN_TOKEN.to_owned()),
        (None, Some(path)) => {
            let failed = |reason| TokenError::File { path: path.to_owned(), reason };
            (read(path).map_err(failed)?, path.display().to_string())
        }
    };
    let mut tokens = Vec::<Named>::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (name, token) = line.split_once(char::is_whitespace).unwrap_or((ONLY, line));
        let token = Secret::new(token).filter(|token| is_fit(token.expose()));
        let token = token.ok_or_else(|| TokenError::Unfit { place: place.clone() })?;
        if tokens.iter().any(|other| other.name == name) {
            return Err(TokenError::SameName { place, name: name.to_owned() });
        }
        tokens.push(Named { name: name.to_owned(), token });
    }
    if tokens.is_empty() { Err(TokenError::Unfit { place }) } else { Ok(tokens) }
}

/// Whether a text can be a token, and a header's value as it is.
fn is_fit(text: &str) -> bool {
    text.len() >= MIN_LENGTH && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// The name of the token that a client sent; takes as long wherever they differ.
pub(super) fn who(tokens: &[Named], sent: &[u8]) -> Option<String> {
    let mut who = None;
    // All of them, whichever it is.
    for Named { name, token } in tokens {
        if token.expose().as_bytes().ct_eq(sent).into() {
            who = Some(name.clone());
        }
    }
    who
}

/// A token that was made for this process, in a file that goes with it.
pub(crate) struct Kept {
    token: Secret,
    /// One for each address of the listener: a client knows the one that it asks.
    paths: Vec<PathBuf>,
}

impl Kept {
    /// Makes a token for a listener, and keeps it in the first folder that can take it.
    ///
    /// # Errors
    /// Why none could, and what was tried.
    pub(crate) fn make(listener: &[SocketAddr]) -> Result<Self, String> {
        let mut bytes = [0; RANDOM_BYTES];
        getrandom::fill(&mut bytes).map_err(|error| format!("there is no randomness: {error}"))?;
        let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut tried = Vec::new();
        for folder in folders() {
            let kept = listener.iter().map(|address| keep(&folder, *address, &text));
            match kept.collect() {
                Ok(paths) => {
                    let token = Secret::new(&text).ok_or("a token without text")?;
                    return Ok(Self { token, paths });
                }
                Err(error) => tried.push(format!("{}: {error}", folder.display())),
            }
        }
        match tried.is_empty() {
            true => Err("neither XDG_RUNTIME_DIR nor HOME is set".into()),
            false => Err(tried.join("; ")),
        }
    }

    /// The token.
    pub(crate) fn token(&self) -> &Secret {
        &self.token
    }

    /// Its files.
    pub(crate) fn paths(&self) -> &[PathBuf] {
        &self.paths
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        for path in &self.paths {
            // Another host may have begun to listen at the same address, with a token of its own.
            if read(path).is_ok_and(|text| text.trim() == self.token.expose()) {
                let _ = fs::remove_file(path);
            }
        }
    }
}

/// Tokens that hosts of this user keep for a listener: one, or more where a host was killed.
pub(crate) fn find(listener: SocketAddr) -> Vec<Secret> {
    let read = |folder: PathBuf| read(&folder.join(file_name(listener))).ok();
    let found = folders().filter_map(read).filter_map(|text| Secret::new(&text));
    found.filter(|token| is_fit(token.expose())).collect()
}

/// Folders of this user's alone: one that ends with the session and is on no disk, and one that stays.
fn folders() -> impl Iterator<Item = PathBuf> {
    let folder =
        |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = folder("XDG_STATE_HOME")
        .or_else(|| folder("HOME").map(|home| home.join(".local").join("state")));
    folder("XDG_RUNTIME_DIR").into_iter().chain(state).map(|folder| folder.join("tally"))
}

fn file_name(listener: SocketAddr) -> String {
    format!("admin-{listener}.token")
}

fn keep(folder: &Path, listener: SocketAddr, token: &str) -> io::Result<PathBuf> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let metadata = fs::symlink_metadata(folder)?;
    let is_own = metadata.is_dir() && metadata.uid() == rustix::process::geteuid().as_raw();
    if !is_own || metadata.mode() & 0o022 != 0 {
        return Err(io::Error::other("the folder is not this user's alone to write"));
    }
    // Under another name first, so that nobody reads half a token.
    let new = folder.join(format!(".{}.{}", file_name(listener), std::process::id()));
    let _ = fs::remove_file(&new);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    let path = folder.join(file_name(listener));
    file.write_all(format!("{token}\n").as_bytes())
        .and_then(|()| fs::rename(&new, &path))
        .inspect_err(|_| drop(fs::remove_file(&new)))?;
    Ok(path)
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    fs::File::open(path)?.take(MAX_FILE).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_compared_whole() {
        let tokens = [Named::only(Secret::new("0123456789abcdef").unwrap())];
        assert_eq!(who(&tokens, b"0123456789abcdef").as_deref(), Some("admin"));
        for other in ["", "0", "0123456789abcdeF", "0123456789abcdef0", "1123456789abcdef"] {
            assert_eq!(who(&tokens, other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn a_token_comes_from_one_place_and_is_long_enough() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        fs::write(&path, "0123456789abcdef\n").unwrap();
        let from_file = configured(None, Some(&path)).unwrap();
        let [Named { name, token }] = from_file.as_slice() else { panic!("{from_file:?}") };
        assert_eq!((name.as_str(), token.expose()), ("admin", "0123456789abcdef"));
        assert!(matches!(configured(Some(token), Some(&path)), Err(TokenError::Twice)));
        assert!(configured(None, None).unwrap().is_empty());
        fs::write(&path, "ann 0123456789abcdef\n\nbob\t0123456789abcdeg\n").unwrap();
        let several = configured(None, Some(&path)).unwrap();
        assert_eq!(who(&several, b"0123456789abcdeg").as_deref(), Some("bob"));
        fs::write(&path, "ann 0123456789abcdef\nann 0123456789abcdeg\n").unwrap();
        let error = configured(None, Some(&path)).unwrap_err().to_string();
        assert!(error.contains("two tokens are named 'ann'"), "{error}");
        for (text, part) in
            [("short", "at least 16"), ("", "at least 16"), ("0123456789 abcdef", "spaces")]
        {
            fs::write(&path, text).unwrap();
            let error = configured(None, Some(&path)).unwrap_err().to_string();
            assert!(error.contains(part) && error.contains("token"), "{error}");
        }
        let error = configured(None, Some(&dir.path().join("none"))).unwrap_err().to_string();
        assert!(error.contains("cannot read"), "{error}");
    }

    #[test]
    fn a_token_is_kept_where_only_this_user_can_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, listener) = (dir.path().join("tally"), "127.0.0.1:3001".parse().unwrap());
        let path = keep(&folder, listener, "a").unwrap();
        let path = keep(&folder, listener, "b").map(|again| assert_eq!(path, again)).map(|()| path);
        let path = path.unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "b\n");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(&folder).unwrap().mode() & 0o777, 0o700);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "nothing is left over");
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(keep(&folder, listener, "c").is_err(), "others could put another token there");
    }
}
