//! The releases that this host runs, on its own disk: for a start while the store is away, and so that a component is
//! read from the store once.
//!
//! One file for each component, named after its digest, and one that says which release of each guest runs. Hosts of one
//! machine and one store may share the folder. What is broken or missing is read from the store.

use std::{
    collections::{BTreeMap, HashSet},
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;

use super::{
    model::{Component, Release, random_id},
    store::digest,
};

/// What runs.
const RUNNING: &str = "running.json";

/// The ending of components.
const COMPONENT: &str = "wasm";

/// The release of each guest that runs.
pub(super) type Running = BTreeMap<String, Release>;

/// The folder. Cheap to clone.
#[derive(Clone)]
pub(super) struct Disk {
    dir: Arc<PathBuf>,
    /// Held while the folder is written.
    writing: Arc<Mutex<()>>,
}

impl Disk {
    pub(super) fn new(dir: &Path) -> Self {
        Self { dir: Arc::new(dir.to_owned()), writing: Arc::default() }
    }

    fn of(&self, component: &Component) -> PathBuf {
        self.dir.join(&component.digest).with_extension(COMPONENT)
    }

    /// A component, if it is there and whole. Blocks.
    pub(super) fn component(&self, component: &Component) -> Option<Bytes> {
        let bytes = fs::read(self.of(component)).ok()?;
        (digest(&bytes) == component.digest).then(|| bytes.into())
    }

    /// Keeps a component. Blocks.
    pub(super) fn keep(&self, component: &Component, bytes: &[u8]) {
        if let Err(error) = self.write(&self.of(component), bytes) {
            tracing::debug!(%error, "a component is not kept on the disk");
        }
    }

    /// What ran last. Blocks.
    pub(super) fn running(&self) -> Option<Running> {
        serde_json::from_slice(&fs::read(self.dir.join(RUNNING)).ok()?).ok()
    }

    /// Keeps what runs, and nothing else. Blocks.
    pub(super) fn keep_running(&self, running: &Running) {
        let text = serde_json::to_vec(running).unwrap_or_default();
        let kept = self.write(&self.dir.join(RUNNING), &text).and_then(|()| self.tidy(running));
        if let Err(error) = kept {
            tracing::debug!(%error, "what runs is not kept on the disk");
        }
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let _one_at_a_time = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        fs::create_dir_all(&*self.dir)?;
        // Under another name first, so that nobody reads a part of it.
        let new = self.dir.join(format!(".{}", random_id()));
        let written = fs::write(&new, bytes).and_then(|()| fs::rename(&new, path));
        written.inspect_err(|_| drop(fs::remove_file(&new)))
    }

    fn tidy(&self, running: &Running) -> io::Result<()> {
        let digests: HashSet<&str> =
            running.values().map(|release| &*release.component.digest).collect();
        for entry in fs::read_dir(&*self.dir)? {
            let path = entry?.path();
            let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            if path.extension().is_some_and(|ending| ending == COMPONENT) && !digests.contains(stem)
            {
                // Another host may have done so.
                let _ = fs::remove_file(path);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runs_is_kept_and_what_is_broken_is_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::new(&dir.path().join("below"));
        assert!(disk.running().is_none());
        let component = |bytes: &[u8]| Component {
            digest: digest(bytes),
            bytes: bytes.len(),
            upload: "u".into(),
        };
        let (old, new) = (component(b"old"), component(b"new"));
        disk.keep(&old, b"old");
        disk.keep(&new, b"new");
        assert_eq!(disk.component(&old).as_deref(), Some(&b"old"[..]));
        let release = Release { number: 2, component: new.clone(), settings: Default::default() };
        let guests = BTreeMap::from([("g".to_owned(), release)]);
        disk.keep_running(&guests);
        assert_eq!(disk.running(), Some(guests));
        assert_eq!(disk.component(&old), None, "it runs no longer");
        assert_eq!(disk.component(&new).as_deref(), Some(&b"new"[..]));
        disk.keep(&new, b"other");
        assert_eq!(disk.component(&new), None, "its digest is another");
    }
}
