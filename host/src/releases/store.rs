//! Releases in the store.
//!
//! All changes of all guests are one log: entry r of it is the key `log:r`, which is written once, by whoever finds
//! it missing. That write is the one moment in which a change happens. Everything else follows from the log and is
//! written again by anybody who finds it unfinished: the head of each guest, the names of all guests, and the
//! revision up to which this was done. Entry r + 1 is written only after that was done for entry r.
//!
//! | key | holds | changes |
//! | --- | --- | --- |
//! | `log:R` | a [`Change`] | never |
//! | `guest:NAME` | the [`Head`] of a guest | by compare-and-swap, to a later revision |
//! | `names:S` | names of guests, in 64 parts | by compare-and-swap, only grows |
//! | `revision` | the last entry for which all is done | by compare-and-swap, only grows |
//! | `piece:UPLOAD:I` | a part of a component | never; gone when no kept release names it |
//! | `host:…`, `hosts` | which hosts there are (see `hosts`) | |

use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde::{Serialize, de::DeserializeOwned};
use sha2::{Digest as _, Sha256};
use tally_state::{Bucket, Error as StateError, Handle, Owner, Swapped};

use super::model::{Change, Component, Head, PIECE_BYTES, Release, random_id};

/// Where it is kept. Guests can open no bucket whose name begins so.
pub(super) const BUCKET: &str = "tally.releases";

/// Parts of the list of names: with 10,000 guests, some 5 KiB each, which one change writes.
const NAME_PARTS: u64 = 64;

/// Entries that are read one after the other, rather than all heads at once.
const MOST_BEHIND: u64 = 200;

/// Heads that are read at once.
const HEADS_AT_ONCE: usize = 500;

/// Pieces on their way at once: 2 MiB, a small part of a queue.
const PIECES_AT_ONCE: usize = 4;

/// How long the pieces of an upload live that no release names, and those that are no longer named: a host that
/// reads one has begun to by then.
const UPLOAD_LIFE: Duration = Duration::from_secs(24 * 60 * 60);

/// How long pieces live after the last kept release that named them.
const REMOVED_LIFE: Duration = Duration::from_secs(20);

/// How often a write without an answer is tried again, and the pause before: it is the same write each time.
const MOST_TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(100);

/// Why something could not be done with releases in the store.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The store failed, and nothing was changed, or only what the next change would do anyway.
    #[error("the store: {0}")]
    Store(#[from] StateError),
    /// The store holds something that this version cannot read.
    #[error("the store holds '{key}' in a form that this version does not know: {reason}")]
    Unreadable {
        /// Which key.
        key: String,
        /// What is wrong.
        reason: String,
    },
    /// The change was sent, and it is not known whether it was made.
    #[error(
        "it is not known whether this was done, as the store did not answer; `tally history` shows it once the store is back"
    )]
    Unknown,
    /// Another change of the guest came first.
    #[error(
        "guest '{guest}' was changed meanwhile, by {who}: entry {number} of its history, {kind}; look at it and try again"
    )]
    Conflict {
        /// The guest.
        guest: String,
        /// Who changed it.
        who: String,
        /// Its number.
        number: u64,
        /// What it did.
        kind: String,
    },
    /// What is asked for makes no sense as things are.
    #[error("{0}")]
    Refused(String),
    /// There is no such guest.
    #[error("{0}")]
    Absent(String),
    /// A piece of a component is not there.
    #[error("piece {piece} of component {digest} is not in the store")]
    Missing {
        /// Which piece.
        piece: usize,
        /// The component's digest.
        digest: String,
    },
    /// A component is not what its digest says.
    #[error("the component in the store has another digest than {digest}: a piece of it is broken")]
    Broken {
        /// The digest that it should have.
        digest: String,
    },
}

/// Releases in a store. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Store {
    pub(super) state: Handle,
    pub(super) bucket: Bucket,
}

/// What a look at the log has shown.
#[derive(Debug, PartialEq)]
pub(super) enum Look {
    /// There is no further entry.
    End {
        /// The last entry for which all is done.
        settled: u64,
    },
    /// The next entry.
    Entry(Box<Change>),
    /// There are so many more entries that all is to be read anew.
    Far,
    /// The log is not the one that was seen before.
    Lost {
        /// The last entry that there is now.
        settled: u64,
    },
}

impl Store {
    pub(crate) fn new(state: Handle) -> Result<Self, StateError> {
        // No guest's operations keep these waiting.
        Ok(Self { state: state.of(Owner::another()), bucket: Bucket::new(BUCKET)? })
    }

    /// Looks for the entry after one that was seen. One small exchange with the store.
    pub(super) async fn look(&self, seen: u64) -> Result<Look, Error> {
        let next = log_key(seen.saturating_add(1));
        let keys = ["revision".to_owned(), next.clone()];
        let values = self.state.get_many(&self.bucket, &keys, usize::MAX).await?;
        let mut values = values.into_iter();
        let settled = number(values.next().flatten().as_ref());
        match values.next().flatten() {
            _ if settled > seen.saturating_add(MOST_BEHIND) => Ok(Look::Far),
            // The one before the last may be unfinished, and the two are not read at the same moment.
            _ if settled.saturating_add(1) < seen => Ok(Look::Lost { settled }),
            Some(entry) => Ok(Look::Entry(Box::new(parse(&next, &entry)?))),
            None if settled > seen => match self.entry(seen.saturating_add(1)).await? {
                Some(entry) => Ok(Look::Entry(Box::new(entry))),
                None => Ok(Look::Lost { settled }),
            },
            None => Ok(Look::End { settled }),
        }
    }

    /// The last entry for which all is done.
    pub(super) async fn revision(&self) -> Result<u64, Error> {
        Ok(number(self.state.get(&self.bucket, "revision").await?.as_ref()))
    }

    /// Finishes what entries say that nobody has finished, and gives the last entry there is.
    pub(super) async fn settle(&self) -> Result<u64, Error> {
        let mut revision = self.revision().await?;
        loop {
            let next = revision.saturating_add(1);
            let Some(change) = self.entry(next).await? else { return Ok(revision) };
            self.finish(next, &change).await?;
            revision = next;
        }
    }

    /// An entry of the log.
    pub(super) async fn entry(&self, revision: u64) -> Result<Option<Change>, Error> {
        let key = log_key(revision);
        let entry = self.state.get(&self.bucket, &key).await?;
        entry.map(|entry| parse(&key, &entry)).transpose()
    }

    /// The head of a guest; an empty one if it was never deployed.
    pub(crate) async fn head(&self, guest: &str) -> Result<Head, Error> {
        let key = guest_key(guest);
        let head = self.state.get(&self.bucket, &key).await?;
        head.map_or_else(|| Ok(Head::default()), |head| parse(&key, &head))
    }

    /// All guests that were ever deployed, with what of each runs, and an entry of the log up to which they are
    /// complete at least.
    pub(crate) async fn all(&self) -> Result<(u64, Vec<(String, Head)>), Error> {
        let revision = self.revision().await?;
        let keys: Vec<String> = (0..NAME_PARTS).map(names_key).collect();
        let parts = self.state.get_many(&self.bucket, &keys, usize::MAX).await?;
        let mut names = Vec::new();
        for (key, part) in keys.iter().zip(parts) {
            if let Some(part) = part {
                names.extend(parse::<Vec<String>>(key, &part)?);
            }
        }
        let mut heads = Vec::with_capacity(names.len());
        for names in names.chunks(HEADS_AT_ONCE) {
            let keys: Vec<String> = names.iter().map(|name| guest_key(name)).collect();
            let values = self.state.get_many(&self.bucket, &keys, usize::MAX).await?;
            for ((name, key), value) in names.iter().zip(&keys).zip(values) {
                if let Some(value) = value {
                    heads.push((name.clone(), parse(key, &value)?));
                }
            }
        }
        heads.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok((revision, heads))
    }

    /// The last entries of a guest's history with their revisions, the newest first.
    pub(crate) async fn history(&self, guest: &str, most: usize) -> Result<Vec<Change>, Error> {
        self.settle().await?;
        let mut revision = self.head(guest).await?.revision;
        let mut entries = Vec::new();
        while revision > 0 && entries.len() < most {
            let key = log_key(revision);
            let Some(change) = self.entry(revision).await? else {
                return Err(Error::Unreadable { key, reason: "it is missing".into() });
            };
            revision = change.previous;
            entries.push(change);
        }
        Ok(entries)
    }

    /// Appends a change to the log. It is made from the head of its guest as that is then, and has to be the same
    /// one if it is made from the same head. `base` is the number of the last entry that whoever asks has seen.
    ///
    /// # Errors
    /// [`Error::Conflict`] when the guest has changed since; [`Error::Unknown`] when the store did not say what became
    /// of it; else nothing was changed.
    pub(super) async fn append(
        &self,
        guest: &str,
        base: u64,
        make: impl Fn(&Head) -> Result<Change, Error>,
    ) -> Result<(u64, Change), Error> {
        loop {
            let last = self.settle().await?;
            let head = self.head(guest).await?;
            if head.number != base {
                return Err(self.conflict(guest, &head).await?);
            }
            let change = make(&head)?;
            let revision = last.saturating_add(1);
            if self.write_entry(revision, &change).await? {
                // It is made, whatever becomes of this; others finish it.
                if let Err(error) = self.finish(revision, &change).await {
                    tracing::debug!(%error, "a change is left to others to finish");
                }
                return Ok((revision, change));
            }
        }
    }

    pub(super) async fn conflict(&self, guest: &str, head: &Head) -> Result<Error, Error> {
        let last = self.entry(head.revision).await?;
        let (who, kind) = last.map_or_else(
            || ("nobody".to_owned(), "nothing".to_owned()),
            |last| (format!("'{}'", last.who), last.kind.to_string()),
        );
        Ok(Error::Conflict { guest: guest.to_owned(), who, number: head.number, kind })
    }

    /// Writes an entry unless there is one; whether it is this one.
    async fn write_entry(&self, revision: u64, change: &Change) -> Result<bool, Error> {
        let (key, value) = (log_key(revision), to_bytes(change));
        let mut is_sent = false;
        for _ in 0..MOST_TRIES {
            match self.state.set_if_absent(&self.bucket, &key, value.clone(), None).await {
                Ok(true) => return Ok(true),
                // Perhaps by this one, the last time.
                Ok(false) if is_sent => {
                    if let Ok(Some(entry)) = self.entry(revision).await {
                        return Ok(entry.id == change.id);
                    }
                }
                Ok(false) => return Ok(false),
                Err(StateError::Unknown(_)) => is_sent = true,
                Err(error) if !is_sent => return Err(error.into()),
                Err(_) => {}
            }
            // To send the same again is safe: what is there is never written over.
            tokio::time::sleep(PAUSE).await;
        }
        Err(Error::Unknown)
    }

    /// Does what an entry says, as far as that is not done. Several may do so at once, and again.
    async fn finish(&self, revision: u64, change: &Change) -> Result<(), Error> {
        if let Some(release) = &change.release {
            self.live(&release.component, None).await?;
        }
        let head = self.advance(revision, change).await?;
        if let Some(Release { component, .. }) = &change.release
            && !head.kept.iter().any(|kept| kept.component == *component)
        {
            // Others were here long before, and it has been dropped since.
            self.live(component, Some(REMOVED_LIFE)).await?;
        }
        self.name(&change.guest).await?;
        // What a later entry has replaced was finished then.
        if head.revision == revision {
            for component in &head.garbage {
                self.live(component, Some(REMOVED_LIFE)).await?;
            }
        }
        self.raise(revision).await
    }

    /// Brings a guest's head to a revision, unless it is there.
    async fn advance(&self, revision: u64, change: &Change) -> Result<Head, Error> {
        let key = guest_key(&change.guest);
        let mut seen = self.state.get(&self.bucket, &key).await?;
        loop {
            let head: Head = match &seen {
                Some(seen) => parse(&key, seen)?,
                None => Head::default(),
            };
            if head.revision >= revision {
                return Ok(head);
            }
            let next = head.after(change, revision);
            match self.state.swap(&self.bucket, &key, seen, to_bytes(&next)).await? {
                Swapped::Yes => return Ok(next),
                Swapped::No(now) => seen = now,
            }
        }
    }

    /// Adds a guest to the list of names.
    async fn name(&self, guest: &str) -> Result<(), Error> {
        let key = names_key(part_of(guest));
        let mut seen = self.state.get(&self.bucket, &key).await?;
        loop {
            let mut names: BTreeSet<String> = match &seen {
                Some(seen) => parse(&key, seen)?,
                None => BTreeSet::new(),
            };
            if !names.insert(guest.to_owned()) {
                return Ok(());
            }
            match self.state.swap(&self.bucket, &key, seen, to_bytes(&names)).await? {
                Swapped::Yes => return Ok(()),
                Swapped::No(now) => seen = now,
            }
        }
    }

    /// Raises the revision, unless it is there.
    async fn raise(&self, revision: u64) -> Result<(), Error> {
        let mut seen = self.state.get(&self.bucket, "revision").await?;
        while number(seen.as_ref()) < revision {
            let next = Bytes::from(revision.to_string());
            match self.state.swap(&self.bucket, "revision", seen, next).await? {
                Swapped::Yes => return Ok(()),
                Swapped::No(now) => seen = now,
            }
        }
        Ok(())
    }

    /// Gives the pieces of a component so long to live; for ever with `None`.
    async fn live(&self, component: &Component, life: Option<Duration>) -> Result<(), Error> {
        let keys = (0..component.pieces()).map(|piece| piece_key(component, piece));
        let expiring = keys
            .map(|key| async move { self.state.expire(&self.bucket, &key, life).await.map(drop) });
        stream::iter(expiring).buffer_unordered(64).try_collect::<()>().await?;
        Ok(())
    }

    /// Writes a component in pieces, which are gone after a day unless a release names them.
    pub(crate) async fn upload(&self, bytes: &Bytes) -> Result<Component, Error> {
        let component =
            Component { digest: digest(bytes), bytes: bytes.len(), upload: random_id() };
        let writing = (0..component.pieces()).map(|piece| {
            let (key, start) = (piece_key(&component, piece), piece.saturating_mul(PIECE_BYTES));
            let end = start.saturating_add(PIECE_BYTES).min(bytes.len());
            let part = bytes.slice(start..end);
            async move { self.state.set_for(&self.bucket, &key, part, Some(UPLOAD_LIFE)).await }
        });
        stream::iter(writing).buffer_unordered(PIECES_AT_ONCE).try_collect::<()>().await?;
        Ok(component)
    }

    /// Reads a component, and checks it against its digest.
    pub(crate) async fn fetch(&self, component: &Component) -> Result<Bytes, Error> {
        let reading = (0..component.pieces()).map(|piece| async move {
            let found = self.state.get(&self.bucket, &piece_key(component, piece)).await?;
            found.ok_or_else(|| Error::Missing { piece, digest: component.digest.clone() })
        });
        let mut pieces = stream::iter(reading).buffered(PIECES_AT_ONCE);
        let mut bytes = Vec::with_capacity(component.bytes);
        while let Some(piece) = pieces.try_next().await? {
            bytes.extend_from_slice(&piece);
        }
        match bytes.len() == component.bytes && digest(&bytes) == component.digest {
            true => Ok(bytes.into()),
            false => Err(Error::Broken { digest: component.digest.clone() }),
        }
    }
}

/// The SHA-256 digest of a component, in hexadecimal.
pub(super) fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn log_key(revision: u64) -> String {
    format!("log:{revision}")
}

fn guest_key(guest: &str) -> String {
    format!("guest:{guest}")
}

fn names_key(part: u64) -> String {
    format!("names:{part}")
}

/// The part of the names that a name is in, the same on all hosts.
pub(super) fn part_of(guest: &str) -> u64 {
    let hash = Sha256::digest(guest.as_bytes());
    u64::from(hash.first().copied().unwrap_or_default()) % NAME_PARTS
}

fn piece_key(component: &Component, piece: usize) -> String {
    format!("piece:{}:{piece}", component.upload)
}

pub(super) fn number(value: Option<&Bytes>) -> u64 {
    let text = value.and_then(|value| std::str::from_utf8(value).ok());
    text.and_then(|text| text.parse().ok()).unwrap_or_default()
}

pub(super) fn parse<T: DeserializeOwned>(key: &str, value: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(value)
        .map_err(|error| Error::Unreadable { key: key.to_owned(), reason: error.to_string() })
}

pub(super) fn to_bytes(value: &impl Serialize) -> Bytes {
    // These are maps with texts for keys, which JSON can always write.
    serde_json::to_vec(value).unwrap_or_default().into()
}
