//! What a power loss leaves on the disk.
//!
//! What was asked of a file before its last sync is there. Each request since is there, is
//! not, or, if it is a write, is there in some of its sectors. The folder is a file of this kind,
//! whose requests are the names that come and go. Files are independent of each other.
//!
//! Later requests may be there without earlier ones, as if the disk had taken them in another
//! order. An earlier one does not overwrite a later one: a cache holds the newest content only.

use std::collections::BTreeMap;

use fastrand::Rng;

use crate::log::Event;

/// What a disk writes wholly or not at all, in bytes.
const SECTOR: usize = 512;

/// Requests that no sync covers yet.
type Pending<'a> = Vec<&'a Event>;

#[derive(Default)]
struct File<'a> {
    durable: Vec<u8>,
    pending: Pending<'a>,
}

/// The disk after some prefix of a log.
#[derive(Default)]
pub(crate) struct Storage<'a> {
    files: Vec<File<'a>>,
    names: BTreeMap<&'a str, usize>,
    renamed: Pending<'a>,
}

/// What becomes of the requests that no sync covers.
#[derive(Clone, Copy)]
enum Fate {
    Lost,
    Kept,
    Mixed,
}

impl<'a> Storage<'a> {
    /// Takes the next request of the log.
    pub(crate) fn take(&mut self, event: &'a Event) {
        match event {
            Event::Created { .. } => {
                self.files.push(File::default());
                self.renamed.push(event);
            }
            Event::Deleted { synced, .. } => {
                self.renamed.push(event);
                if *synced {
                    self.sync_folder();
                }
            }
            Event::Wrote { file, .. } | Event::Truncated { file, .. } => {
                self.files[*file].pending.push(event);
            }
            Event::Synced { file, folder } => {
                let file = &mut self.files[*file];
                for event in file.pending.drain(..) {
                    apply(&mut file.durable, event);
                }
                if *folder {
                    self.sync_folder();
                }
            }
        }
    }

    fn sync_folder(&mut self) {
        for event in self.renamed.drain(..) {
            rename(&mut self.names, event);
        }
    }

    /// The files as a power loss might leave them now.
    pub(crate) fn after_loss(&self, random: &mut Rng) -> Vec<(&'a str, Vec<u8>)> {
        // The extremes by themselves: among many requests, chance would hardly come to them.
        let fate = *random.choice(&[Fate::Lost, Fate::Kept, Fate::Mixed, Fate::Mixed]).unwrap();
        let mut names = self.names.clone();
        for event in &self.renamed {
            if fate.keeps(random) {
                rename(&mut names, event);
            }
        }
        names
            .into_iter()
            .map(|(name, file)| (name, self.files[file].contents(fate, random)))
            .collect()
    }
}

impl File<'_> {
    fn contents(&self, fate: Fate, random: &mut Rng) -> Vec<u8> {
        let mut contents = self.durable.clone();
        for event in &self.pending {
            match event {
                Event::Wrote { offset, bytes, .. }
                    if matches!(fate, Fate::Mixed) && random.bool() =>
                {
                    tear(&mut contents, *offset, bytes, random);
                }
                event if fate.keeps(random) => apply(&mut contents, event),
                _ => {}
            }
        }
        contents
    }
}

impl Fate {
    fn keeps(self, random: &mut Rng) -> bool {
        match self {
            Self::Lost => false,
            Self::Kept => true,
            Self::Mixed => random.bool(),
        }
    }
}

fn rename<'a>(names: &mut BTreeMap<&'a str, usize>, event: &'a Event) {
    match event {
        Event::Created { file, name } => drop(names.insert(name, *file)),
        Event::Deleted { name, .. } => drop(names.remove(name.as_str())),
        _ => {}
    }
}

fn apply(contents: &mut Vec<u8>, event: &Event) {
    match event {
        Event::Wrote { offset, bytes, .. } => write(contents, *offset, bytes),
        Event::Truncated { size, .. } => contents.resize(*size, 0),
        _ => {}
    }
}

fn write(contents: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if contents.len() < end {
        contents.resize(end, 0);
    }
    contents[offset..end].copy_from_slice(bytes);
}

/// Writes some of the sectors.
fn tear(contents: &mut Vec<u8>, mut offset: usize, mut bytes: &[u8], random: &mut Rng) {
    while !bytes.is_empty() {
        let (sector, rest) = bytes.split_at((SECTOR - offset % SECTOR).min(bytes.len()));
        if random.bool() {
            write(contents, offset, sector);
        }
        offset += sector.len();
        bytes = rest;
    }
}
