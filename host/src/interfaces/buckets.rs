//! Which buckets a guest may open, and which buckets of the store those are.
//!
//! A configuration lists them, or opens all names with `*`. Names that a guest chooses are checked when it
//! opens them, and belong to its request: the host keeps nothing of them.

use std::{collections::HashSet, sync::Arc};

use tally_state::{Bucket, Rejection};

/// The buckets of a guest, by the names it opens them with.
#[derive(Clone, Debug, Default)]
pub(crate) struct Buckets {
    /// The guest's name and the store's. Few, so a search beats a map.
    open: Vec<(String, Bucket)>,
    /// With `*`: what the names of the store's buckets begin with, where no entry lists the name.
    any: Option<Box<str>>,
    known: Arc<Known>,
}

/// What the configurations of all guests list.
#[derive(Debug, Default)]
pub(crate) struct Known {
    /// Names that guests open buckets by.
    pub(crate) names: HashSet<String>,
    /// Buckets of the store.
    pub(crate) stored: HashSet<String>,
}

/// Why buckets cannot be configured so.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BucketsError {
    /// One of the names cannot be a bucket's.
    #[error("bucket '{name}': {reason}")]
    Name {
        /// The name as configured.
        name: String,
        /// What is wrong with it.
        reason: Rejection,
    },
    /// A name stands there twice, for different buckets.
    #[error("bucket '{0}' is configured twice")]
    Twice(String),
    /// All names are mapped to one bucket, or to a pattern that is none.
    #[error(
        "bucket '{0}': write * for all names, or *=PREFIX* to put a prefix before them in the store"
    )]
    Pattern(String),
}

/// Names that begin so belong to the host.
pub(crate) const RESERVED: &str = tally_state::RESERVED;

/// The name that `""` stands for as well.
const DEFAULT: &str = "default";

/// The name that stands for all names.
const ANY: &str = "*";

/// Buckets that one request may open by names that no configuration lists. More than a handler needs, and few
/// enough to be found by a search.
const MAX_OPENED: usize = 100;

/// What became of opening a bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Opened {
    /// Its place in the list.
    Bucket(u32),
    /// One that the guest chose, where it may open all.
    Chosen(Bucket),
    NoSuchStore,
    AccessDenied,
    /// No bucket can have this name.
    Invalid(Rejection),
}

/// The buckets that one request opened by names of its own choice. Their handles follow those of the list.
#[derive(Default)]
pub(crate) struct Chosen(Vec<Bucket>);

impl Chosen {
    /// The place of a bucket, which is added if it is a new one and there is room.
    fn place(&mut self, bucket: Bucket) -> Option<usize> {
        match self.0.iter().position(|other| *other == bucket) {
            Some(place) => Some(place),
            None if self.0.len() < MAX_OPENED => {
                self.0.push(bucket);
                self.0.len().checked_sub(1)
            }
            None => None,
        }
    }
}

impl Buckets {
    /// Reads a list of `NAME`, `NAME=BUCKET OF THE STORE`, `*` or `*=PREFIX*`.
    pub(crate) fn parse<'a>(
        entries: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, BucketsError> {
        let mut buckets = Self::default();
        for entry in entries {
            let (name, stored) = entry.split_once('=').unwrap_or((entry, entry));
            let wrong = |reason| BucketsError::Name { name: entry.to_owned(), reason };
            if name == ANY {
                let pattern = || BucketsError::Pattern(entry.to_owned());
                let prefix = stored.strip_suffix(ANY).ok_or_else(pattern)?;
                if prefix.contains(ANY) {
                    return Err(pattern());
                }
                if buckets.any.is_some() {
                    return Err(BucketsError::Twice(ANY.to_owned()));
                }
                // Shows what is wrong with the prefix: a name of its own is added to it.
                checked(&format!("{prefix}{DEFAULT}")).map_err(wrong)?;
                buckets.any = Some(prefix.into());
                continue;
            }
            let bucket = checked(stored).map_err(wrong)?;
            if buckets.open.iter().any(|(other, _)| other == name) {
                return Err(BucketsError::Twice(name.to_owned()));
            }
            buckets.open.push((name.to_owned(), bucket));
        }
        // What the host keeps for a guest is in a bucket that is known beforehand.
        if let Some(prefix) = &buckets.any
            && !buckets.open.iter().any(|(name, _)| name == DEFAULT)
            && let Ok(bucket) = checked(&format!("{prefix}{DEFAULT}"))
        {
            buckets.open.insert(0, (DEFAULT.to_owned(), bucket));
        }
        Ok(buckets)
    }

    /// Finds the bucket that a guest opens by this name.
    pub(crate) fn open(&self, name: &str) -> Opened {
        let name = if name.is_empty() { DEFAULT } else { name };
        if let Some(place) = self.open.iter().position(|(open, _)| open == name) {
            return u32::try_from(place).map_or(Opened::NoSuchStore, Opened::Bucket);
        }
        let Some(prefix) = self.any.as_ref().filter(|_| !name.starts_with(RESERVED)) else {
            return match name.starts_with(RESERVED) || self.known.names.contains(name) {
                true => Opened::AccessDenied,
                false => Opened::NoSuchStore,
            };
        };
        let stored = format!("{prefix}{name}");
        // Another guest's, unless this one lists it as well.
        let is_own = self.open.iter().any(|(_, bucket)| bucket.as_str() == stored);
        if stored.starts_with(RESERVED) || self.known.stored.contains(&stored) && !is_own {
            return Opened::AccessDenied;
        }
        match Bucket::new(&stored) {
            Ok(bucket) => Opened::Chosen(bucket),
            Err(reason) => Opened::Invalid(reason),
        }
    }

    /// Whether it may open buckets that are not listed.
    pub(crate) fn are_open(&self) -> bool {
        self.any.is_some()
    }

    /// Whether it opens this bucket of the store by one name or another.
    pub(crate) fn may_open(&self, stored: &str) -> bool {
        let is_listed = self.stored().any(|bucket| bucket.as_str() == stored);
        is_listed || self.any.as_ref().is_some_and(|prefix| stored.starts_with(&**prefix))
    }

    /// The number of the handle of a bucket that a request opened by a name of its own choice, if it may
    /// open one more.
    pub(crate) fn keep(&self, chosen: &mut Chosen, bucket: Bucket) -> Option<u32> {
        let place = chosen.place(bucket)?;
        u32::try_from(self.open.len().checked_add(place)?).ok()
    }

    /// The names it opens buckets by.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.open.iter().map(|(name, _)| name.as_str())
    }

    /// The buckets of the store.
    pub(crate) fn stored(&self) -> impl Iterator<Item = &Bucket> {
        self.open.iter().map(|(_, bucket)| bucket)
    }

    /// Learns what the configurations of all guests list.
    pub(crate) fn know(&mut self, known: &Arc<Known>) {
        self.known = Arc::clone(known);
    }

    /// The bucket of a handle's number, which [`Buckets::open`] or [`Buckets::keep`] has given.
    pub(crate) fn get<'a>(&'a self, chosen: &'a Chosen, place: u32) -> Option<&'a Bucket> {
        let place = usize::try_from(place).ok()?;
        match self.open.get(place) {
            Some((_, bucket)) => Some(bucket),
            None => chosen.0.get(place.checked_sub(self.open.len())?),
        }
    }
}

impl Buckets {
    /// The name that a guest opens a bucket by.
    pub(crate) fn name<'a>(&'a self, chosen: &'a Chosen, place: u32) -> Option<&'a str> {
        match self.open.get(usize::try_from(place).ok()?) {
            Some((name, _)) => Some(name),
            None => self.get(chosen, place)?.as_str().strip_prefix(self.any.as_deref()?),
        }
    }
}

/// What is told of a request that opens more than it may.
pub(crate) fn too_many_opened() -> String {
    format!(
        "one request may open {MAX_OPENED} buckets that its guest's configuration does not list"
    )
}

/// The name of a bucket that is not the host's own.
fn checked(stored: &str) -> Result<Bucket, Rejection> {
    match stored.starts_with(RESERVED) {
        true => Err(Rejection::Bucket(format!("names that begin with '{RESERVED}' are reserved"))),
        false => Bucket::new(stored),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_empty_name_is_the_default_bucket() {
        let buckets = Buckets::parse(["default=main", "other"]).unwrap();
        assert_eq!(buckets.open(""), Opened::Bucket(0));
        assert_eq!(buckets.open("default"), Opened::Bucket(0));
        assert_eq!(buckets.get(&Chosen::default(), 0).unwrap().as_str(), "main");
        assert_eq!(buckets.open("other"), Opened::Bucket(1));
    }

    #[test]
    fn unknown_buckets_do_not_exist_and_the_hosts_own_are_denied() {
        let buckets = Buckets::parse(["default"]).unwrap();
        assert_eq!(buckets.open("elsewhere"), Opened::NoSuchStore);
        assert_eq!(buckets.open("tally.health"), Opened::AccessDenied);
        let mut buckets = buckets;
        let names = ["default".into(), "theirs".into()].into();
        buckets.know(&Arc::new(Known { names, stored: HashSet::new() }));
        assert_eq!(buckets.open("theirs"), Opened::AccessDenied, "another guest's");
        assert_eq!(buckets.open("default"), Opened::Bucket(0));
    }

    #[test]
    fn names_with_separators_are_taken_and_wrong_ones_are_explained() {
        assert!(Buckets::parse(["a:b", "c/d"]).is_ok());
        for (entries, part) in [
            (vec!["default="], "must not be empty"),
            (vec!["a", "a=b"], "configured twice"),
            (vec!["a=tally.x"], "reserved"),
            (vec!["*=tally.*"], "reserved"),
            (vec!["*=all"], "*=PREFIX*"),
            (vec!["*=a*b*"], "*=PREFIX*"),
            (vec!["*", "*=a*"], "configured twice"),
        ] {
            let error = Buckets::parse(entries).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_guest_that_may_open_all_buckets_opens_neither_the_hosts_nor_those_of_others() {
        let mut buckets = Buckets::parse(["*", "own=mine"]).unwrap();
        let stored = ["theirs".to_owned(), "mine".to_owned()].into();
        buckets.know(&Arc::new(Known { names: HashSet::new(), stored }));
        let chosen = |name: &str| Opened::Chosen(Bucket::new(name).unwrap());
        assert_eq!(buckets.open("team-a"), chosen("team-a"));
        assert_eq!(buckets.open("mine"), chosen("mine"), "it lists this one");
        assert_eq!(buckets.open("own"), Opened::Bucket(1));
        assert_eq!(buckets.open(""), Opened::Bucket(0));
        assert_eq!(buckets.stored().next().unwrap().as_str(), "default");
        assert_eq!(buckets.open("theirs"), Opened::AccessDenied);
        assert_eq!(buckets.open("tally.health"), Opened::AccessDenied);
        assert!(matches!(buckets.open(&"b".repeat(256)), Opened::Invalid(_)));
        assert!(buckets.may_open("anything") && buckets.may_open("mine"));
    }

    #[test]
    fn a_prefix_keeps_the_names_that_a_guest_chooses_apart() {
        let buckets = Buckets::parse(["*=team-a/*"]).unwrap();
        assert_eq!(buckets.open("x"), Opened::Chosen(Bucket::new("team-a/x").unwrap()));
        assert_eq!(buckets.stored().next().unwrap().as_str(), "team-a/default");
        assert!(buckets.may_open("team-a/x") && !buckets.may_open("team-b/x"));
        // What is put together is the host's own.
        assert_eq!(Buckets::parse(["*=tal*"]).unwrap().open("ly.x"), Opened::AccessDenied);
    }

    #[test]
    fn a_request_opens_a_bounded_number_of_buckets() {
        let buckets = Buckets::parse(["*"]).unwrap();
        let mut chosen = Chosen::default();
        let bucket = |number: usize| Bucket::new(&format!("b{number}")).unwrap();
        for number in 0..MAX_OPENED {
            let place = buckets.keep(&mut chosen, bucket(number)).unwrap();
            assert_eq!(buckets.get(&chosen, place), Some(&bucket(number)));
        }
        assert_eq!(buckets.keep(&mut chosen, bucket(MAX_OPENED)), None);
        assert_eq!(buckets.keep(&mut chosen, bucket(7)), Some(8), "one that is open already");
        assert_eq!(buckets.get(&chosen, 1_000), None);
    }
}
