//! What SQLite asked of its files, in order.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard},
};

/// One request that a file or the folder was given. Files are numbered as they are created: one
/// that is deleted and created again is another file.
pub(crate) enum Event {
    Created {
        file: usize,
        name: String,
    },
    /// With `synced`, the folder is synced before SQLite goes on.
    Deleted {
        name: String,
        synced: bool,
    },
    Wrote {
        file: usize,
        offset: usize,
        bytes: Vec<u8>,
    },
    Truncated {
        file: usize,
        size: usize,
    },
    /// What was asked of the file before is on disk, and of the folder too if it says so.
    Synced {
        file: usize,
        folder: bool,
    },
}

/// The requests so far.
#[derive(Default)]
pub(crate) struct Log {
    events: Vec<Event>,
    files: usize,
    names: HashMap<String, usize>,
    syncs: usize,
    lie_every: Option<usize>,
}

impl Log {
    pub(crate) fn position(&self) -> usize {
        self.events.len()
    }

    pub(crate) fn push(&mut self, event: Event) {
        self.events.push(event);
    }

    /// The number of the file of this name, which is new if there is none.
    pub(crate) fn opened(&mut self, name: &str) -> usize {
        if let Some(file) = self.names.get(name) {
            return *file;
        }
        let file = self.files;
        self.files += 1;
        self.names.insert(name.to_owned(), file);
        self.push(Event::Created { file, name: name.to_owned() });
        file
    }

    pub(crate) fn deleted(&mut self, name: &str, synced: bool) {
        self.names.remove(name);
        self.push(Event::Deleted { name: name.to_owned(), synced });
    }

    /// Enters a sync, unless it is one that was to be a lie.
    pub(crate) fn synced(&mut self, file: usize, folder: bool) {
        self.syncs += 1;
        if self.lie_every.is_none_or(|every| !self.syncs.is_multiple_of(every)) {
            self.push(Event::Synced { file, folder });
        }
    }
}

/// A disk that keeps a log of all it is asked for.
#[derive(Default)]
pub(crate) struct Disk(Mutex<Log>);

impl Disk {
    /// A disk that says "synced" each so many times without having done so.
    pub(crate) fn that_lies(every: usize) -> Self {
        Self(Mutex::new(Log { lie_every: Some(every), ..Log::default() }))
    }

    /// The log. Held while a request is carried out, it keeps the order of the requests.
    pub(crate) fn log(&self) -> MutexGuard<'_, Log> {
        self.0.lock().unwrap()
    }

    pub(crate) fn position(&self) -> usize {
        self.log().position()
    }

    /// Takes what has been asked for up to now.
    pub(crate) fn take(&self) -> Vec<Event> {
        std::mem::take(&mut self.log().events)
    }
}
