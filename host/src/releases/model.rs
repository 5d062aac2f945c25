//! What the store holds of releases: pure data, and what a change makes of it.

use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use crate::config::ReleaseSettings;

/// Bytes of a component in one value: half of the largest value that a store takes.
pub(super) const PIECE_BYTES: usize = 512 << 10;

/// Digits of a digest that are shown as a version.
const VERSION_DIGITS: usize = 12;

/// Longest name of a guest that is deployed, in bytes: it is a part of keys.
pub(crate) const MAX_NAME_BYTES: usize = 200;

/// Longest note, in bytes: history is read as a whole.
pub(crate) const MAX_NOTE_BYTES: usize = 1_000;

/// A component in the store, in pieces of [`PIECE_BYTES`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Component {
    /// Its SHA-256 digest, in hexadecimal.
    pub(crate) digest: String,
    /// Its length.
    pub(crate) bytes: usize,
    /// Names its pieces. Every upload has a name of its own, so that the pieces of one that is no longer named by
    /// any kept release will never be named again, and can be removed by anybody at any time.
    pub(crate) upload: String,
}

impl Component {
    /// Its version: the first digits of its digest.
    pub(crate) fn version(&self) -> &str {
        self.digest.get(..VERSION_DIGITS).unwrap_or(&self.digest)
    }

    /// How many pieces it has.
    pub(crate) fn pieces(&self) -> usize {
        self.bytes.div_ceil(PIECE_BYTES)
    }
}

/// A release of a guest: a component and its settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Release {
    /// The number of the entry in the guest's history that made it.
    pub(crate) number: u64,
    pub(crate) component: Component,
    /// What a release says of the guest's settings; the rest is as `tally.toml` has it.
    #[serde(default)]
    pub(crate) settings: ReleaseSettings,
}

/// What an entry in a guest's history did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// A new release runs.
    Deploy,
    /// An earlier release runs again.
    Rollback,
    /// No release runs: the guest is as `tally.toml` has it, or gone.
    Remove,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Deploy => "deploy",
            Self::Rollback => "rollback",
            Self::Remove => "remove",
        })
    }
}

/// An entry in the log of all changes, and in the history of its guest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Change {
    pub(crate) guest: String,
    /// Its number in the history of the guest: 1, 2, 3, …
    pub(crate) number: u64,
    /// The revision of the entry before it in the history of the guest; 0 for the first.
    pub(crate) previous: u64,
    /// Tells it from another change of the same number, for who got no answer when he made it.
    pub(crate) id: String,
    pub(crate) kind: Kind,
    /// Milliseconds since 1970.
    pub(crate) time: u64,
    /// The name of the token that made it.
    pub(crate) who: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) note: String,
    /// What runs from here on.
    pub(crate) release: Option<Release>,
    /// How many releases are kept, the one that runs included.
    pub(crate) keep: usize,
}

/// A release that can be gone back to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kept {
    pub(crate) number: u64,
    /// The revision of the entry that made it.
    pub(crate) revision: u64,
    pub(crate) component: Component,
}

/// What a guest is after all changes so far: a summary of its history.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Head {
    /// The number of its last entry.
    pub(crate) number: u64,
    /// The revision of that entry.
    pub(crate) revision: u64,
    /// What runs; none where the guest is as `tally.toml` has it.
    pub(crate) release: Option<Release>,
    /// Releases whose components are in the store, the oldest first.
    #[serde(default)]
    pub(crate) kept: Vec<Kept>,
    /// Components that no kept release names any more, of the last entry.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) garbage: Vec<Component>,
}

impl Head {
    /// What the guest is after one more change, at a revision.
    pub(super) fn after(&self, change: &Change, revision: u64) -> Self {
        let mut kept = self.kept.clone();
        if let (Kind::Deploy, Some(release)) = (change.kind, &change.release) {
            let component = release.component.clone();
            kept.push(Kept { number: release.number, revision, component });
        }
        let runs = change.release.as_ref().map(|release| release.number);
        let mut garbage = Vec::new();
        while kept.len() > change.keep.max(1) {
            let Some(oldest) = kept.iter().position(|kept| Some(kept.number) != runs) else {
                break;
            };
            garbage.push(kept.remove(oldest).component);
        }
        Self { number: change.number, revision, release: change.release.clone(), kept, garbage }
    }

    /// The release before the one that runs, among those that are kept; after a removal, the last one.
    pub(crate) fn before(&self) -> Option<&Kept> {
        let current = self.release.as_ref().map_or(u64::MAX, |release| release.number);
        self.kept.iter().rev().find(|kept| kept.number < current)
    }
}

/// Milliseconds since 1970.
pub(crate) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A name that nobody else chooses.
pub(super) fn random_id() -> String {
    let mut bytes = [0_u8; 16];
    if getrandom::fill(&mut bytes).is_err() {
        fastrand::fill(&mut bytes);
    }
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(number: u64, kind: Kind, release: Option<u64>, keep: usize) -> Change {
        let component = |number: u64| Component {
            digest: format!("d{number}"),
            bytes: 1,
            upload: format!("u{number}"),
        };
        Change {
            guest: "g".into(),
            number,
            previous: 0,
            id: number.to_string(),
            kind,
            time: 0,
            who: "w".into(),
            note: String::new(),
            release: release.map(|number| Release {
                number,
                component: component(number),
                settings: ReleaseSettings::default(),
            }),
            keep,
        }
    }

    #[test]
    fn so_many_releases_are_kept_and_the_one_that_runs_always() {
        let mut head = Head::default();
        let mut garbage = Vec::new();
        let mut apply = |head: &Head, change: Change| {
            let next = head.after(&change, change.number);
            garbage.extend(next.garbage.iter().map(|gone| gone.upload.clone()));
            next
        };
        for number in 1..=3 {
            head = apply(&head, change(number, Kind::Deploy, Some(number), 3));
        }
        assert_eq!(head.before().map(|kept| kept.number), Some(2));
        // Goes back to the oldest, which then outlives the next one.
        head = apply(&head, change(4, Kind::Rollback, Some(1), 3));
        assert_eq!(head.before(), None);
        head = apply(&head, change(5, Kind::Deploy, Some(5), 2));
        head = apply(&head, change(6, Kind::Remove, None, 2));
        assert_eq!(head.before().map(|kept| kept.number), Some(5));
        let numbers: Vec<u64> = head.kept.iter().map(|kept| kept.number).collect();
        assert_eq!((numbers, head.number, head.release), (vec![3, 5], 6, None));
        assert_eq!(garbage, ["u1", "u2"]);
    }

    #[test]
    fn the_current_release_outlives_older_ones() {
        let mut head = Head::default();
        for number in 1..=2 {
            head = head.after(&change(number, Kind::Deploy, Some(number), 9), number);
        }
        head = head.after(&change(3, Kind::Rollback, Some(1), 1), 3);
        let numbers: Vec<u64> = head.kept.iter().map(|kept| kept.number).collect();
        assert_eq!(numbers, [1]);
    }

    #[test]
    fn pieces_cover_the_whole() {
        let of = |bytes| Component { digest: String::new(), bytes, upload: String::new() }.pieces();
        assert_eq!([of(0), of(1), of(PIECE_BYTES), of(PIECE_BYTES + 1)], [0, 1, 1, 2]);
    }
}
