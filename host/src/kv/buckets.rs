//! Which buckets a store has.

use std::collections::HashSet;

use anyhow::Result;
use serde::Serialize;

use super::{commands::Session, output::one_line};

/// Names that are remembered so that none is printed twice, as Redis may tell of one on any page:
/// some megabytes.
const REMEMBERED: usize = 100_000;

/// Pages that are looked at to find out whether a bucket is there: of Redis, which is walked from
/// end to end, half a million keys.
const PAGES_LOOKED_AT: usize = 64;

/// Names that a message has room for.
const NAMED: usize = 10;

#[derive(Serialize)]
struct Name<'a> {
    bucket: &'a str,
}

impl Session {
    /// Lists the buckets, page by page.
    pub(super) async fn buckets(&mut self) -> Result<()> {
        let mut seen = HashSet::new();
        let mut cursor = None;
        loop {
            let page = self.handle.buckets(cursor.as_deref()).await?;
            for bucket in page.buckets {
                if seen.contains(&bucket) {
                    continue;
                }
                match self.output.is_json() {
                    true => self.output.document(&Name { bucket: &bucket })?,
                    false => self.output.line(&one_line(bucket.as_bytes()))?,
                }
                if seen.len() < REMEMBERED {
                    seen.insert(bucket);
                }
            }
            self.output.flush()?;
            cursor = page.cursor;
            if cursor.is_none() {
                return Ok(());
            }
        }
    }

    /// What to say where the bucket is not there. `None` where it is, or where that is not known:
    /// it was not found in the part of a large store that was looked at.
    pub(super) async fn no_bucket(&self) -> Result<Option<String>> {
        let mut cursor = None;
        for _ in 0..PAGES_LOOKED_AT {
            let page = self.handle.list(&self.bucket, "", cursor.as_deref()).await?;
            if !page.keys.is_empty() {
                return Ok(None);
            }
            cursor = page.cursor;
            if cursor.is_none() {
                let bucket = one_line(self.bucket.as_str().as_bytes());
                let others = self.others().await?;
                return Ok(Some(format!("there is no bucket '{bucket}' in this store; {others}")));
            }
        }
        Ok(None)
    }

    /// The buckets that there are, or some of them, in words.
    async fn others(&self) -> Result<String> {
        let mut names: Vec<String> = Vec::new();
        let mut cursor = None;
        let mut is_all = false;
        for _ in 0..PAGES_LOOKED_AT {
            let page = self.handle.buckets(cursor.as_deref()).await?;
            names.extend(page.buckets);
            names.sort_unstable();
            names.dedup();
            cursor = page.cursor;
            is_all = cursor.is_none() && names.len() <= NAMED;
            if cursor.is_none() || names.len() > NAMED {
                break;
            }
        }
        names.truncate(NAMED);
        if names.is_empty() {
            return Ok("it holds no keys".into());
        }
        let quoted: Vec<String> =
            names.iter().map(|name| format!("'{}'", one_line(name.as_bytes()))).collect();
        let more = if is_all { "" } else { " and more, which tally kv buckets lists" };
        Ok(format!("there are: {}{more}; name one with --bucket", quoted.join(", ")))
    }
}
