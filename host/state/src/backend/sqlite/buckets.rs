//! Which buckets there are: a step through the primary key's index for each, whatever they hold.

use rusqlite::{Connection as Database, OptionalExtension as _, params};

use crate::{BucketPage, semantics::Moment};

const NEXT: &str = "SELECT bucket FROM tally_kv WHERE bucket > ?1 ORDER BY bucket LIMIT 1";
const IS_LIVE: &str = "SELECT EXISTS (SELECT 1 FROM tally_kv
    WHERE bucket = ?1 AND (expires IS NULL OR expires > ?2))";

/// Buckets in order; the cursor is the last one that was looked at for the page before. A bucket
/// all of whose keys have expired is passed over.
pub(super) fn page(
    database: &Database,
    cursor: Option<&str>,
    limit: usize,
    now: Moment,
) -> rusqlite::Result<BucketPage> {
    let mut next = database.prepare_cached(NEXT)?;
    let mut is_live = database.prepare_cached(IS_LIVE)?;
    let mut last = cursor.unwrap_or_default().to_owned();
    let mut buckets = Vec::new();
    for _ in 0..limit {
        let Some(name) = next.query_row([&last], |row| row.get(0)).optional()? else {
            return Ok(BucketPage { buckets, cursor: None });
        };
        last = name;
        if is_live.query_row(params![last, now], |row| row.get(0))? {
            buckets.push(last.clone());
        }
    }
    Ok(BucketPage { buckets, cursor: Some(last) })
}
