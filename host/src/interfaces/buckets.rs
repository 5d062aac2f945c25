//! Which buckets a guest may open, and which buckets of the store those are.

use std::{collections::HashSet, sync::Arc};

use tally_state::{Bucket, Rejection};

/// The buckets of a guest, by the names it opens them with.
#[derive(Clone, Debug, Default)]
pub(crate) struct Buckets {
    /// The guest's name and the store's. Few, so a search beats a map.
    open: Vec<(String, Bucket)>,
    /// Names that any guest opens buckets by.
    others: Arc<HashSet<String>>,
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
}

/// Names that begin so belong to the host.
pub(crate) const RESERVED: &str = tally_state::RESERVED;

/// The name that `""` stands for as well.
const DEFAULT: &str = "default";

/// What became of opening a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opened {
    /// Its place in the list.
    Bucket(u32),
    NoSuchStore,
    AccessDenied,
}

impl Buckets {
    /// Reads a list of `NAME` or `NAME=BUCKET OF THE STORE`.
    pub(crate) fn parse<'a>(
        entries: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, BucketsError> {
        let mut buckets = Self::default();
        for entry in entries {
            let (name, stored) = entry.split_once('=').unwrap_or((entry, entry));
            let bucket =
                Bucket::new(stored).and_then(|bucket| match stored.starts_with(RESERVED) {
                    true => Err(Rejection::Bucket(format!(
                        "names that begin with '{RESERVED}' are reserved"
                    ))),
                    false => Ok(bucket),
                });
            let bucket =
                bucket.map_err(|reason| BucketsError::Name { name: entry.to_owned(), reason })?;
            if buckets.open.iter().any(|(other, _)| other == name) {
                return Err(BucketsError::Twice(name.to_owned()));
            }
            buckets.open.push((name.to_owned(), bucket));
        }
        Ok(buckets)
    }

    /// Finds the bucket that a guest opens by this name.
    pub(crate) fn open(&self, name: &str) -> Opened {
        let name = if name.is_empty() { DEFAULT } else { name };
        match self.open.iter().position(|(open, _)| open == name) {
            Some(place) => u32::try_from(place).map_or(Opened::NoSuchStore, Opened::Bucket),
            None if name.starts_with(RESERVED) || self.others.contains(name) => {
                Opened::AccessDenied
            }
            None => Opened::NoSuchStore,
        }
    }

    /// The names it opens buckets by.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.open.iter().map(|(name, _)| name.as_str())
    }

    /// As they are configured.
    pub(crate) fn entries(&self) -> impl Iterator<Item = String> {
        self.open.iter().map(|(name, stored)| match stored.as_str() {
            stored if stored == name => name.clone(),
            stored => format!("{name}={stored}"),
        })
    }

    /// The buckets of the store.
    pub(crate) fn stored(&self) -> impl Iterator<Item = &Bucket> {
        self.open.iter().map(|(_, bucket)| bucket)
    }

    /// Learns the names by which any guest opens buckets.
    pub(crate) fn know(&mut self, names: &Arc<HashSet<String>>) {
        self.others = Arc::clone(names);
    }

    /// The bucket at a place that [`Buckets::open`] has given.
    pub(crate) fn get(&self, place: u32) -> Option<&Bucket> {
        self.open.get(usize::try_from(place).ok()?).map(|(_, bucket)| bucket)
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
        assert_eq!(buckets.get(0).unwrap().as_str(), "main");
        assert_eq!(buckets.open("other"), Opened::Bucket(1));
    }

    #[test]
    fn unknown_buckets_do_not_exist_and_the_hosts_own_are_denied() {
        let buckets = Buckets::parse(["default"]).unwrap();
        assert_eq!(buckets.open("elsewhere"), Opened::NoSuchStore);
        assert_eq!(buckets.open("tally.health"), Opened::AccessDenied);
        let mut buckets = buckets;
        buckets.know(&Arc::new(["default".into(), "theirs".into()].into()));
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
        ] {
            let error = Buckets::parse(entries).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
