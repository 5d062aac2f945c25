//! Listing keys and buckets by `SCAN`, which never holds up the server as `KEYS` would.

use redis::Value;

use super::{
    Live,
    command::{bucket_of, place, refused},
};
use crate::{
    BucketPage, Page, Rejection,
    error::Error,
    name::{Bucket, check_key},
    operation::Outcome,
    plan::Reply,
};

/// Keys that one `SCAN` looks at: a short command for the server.
const SCAN_COUNT: usize = 1_000;

/// `SCAN`s for one page. A bucket that is a small part of a large database yields pages with few
/// keys, rather than holding up the lane.
const SCANS_A_PAGE: usize = 8;

impl Live {
    /// A page of a bucket's keys.
    pub(super) async fn list(
        &mut self,
        bucket: &Bucket,
        prefix: &str,
        cursor: Option<&str>,
        limit: usize,
    ) -> Reply {
        let bucket = place(bucket, "");
        let pattern = format!("{}{}*", escape_glob(&bucket), escape_glob(prefix));
        // Keys of other programs that no guest could ask for are passed over.
        let key_of = |name: &str| {
            let key = name.strip_prefix(&bucket)?;
            check_key(key).is_ok().then(|| key.to_owned())
        };
        let (keys, cursor) = self.scan(&pattern, cursor, limit, key_of).await?;
        Ok(Outcome::Page(Page { keys, cursor }))
    }

    /// A page of buckets: those of the keys that it comes by.
    pub(super) async fn buckets(&mut self, cursor: Option<&str>) -> Reply {
        let name_of = |name: &str| Some(bucket_of(name)?.as_str().to_owned());
        let (buckets, cursor) = self.scan("*:*", cursor, usize::MAX, name_of).await?;
        Ok(Outcome::Buckets(BucketPage { buckets, cursor }))
    }

    /// Some of the names of string values that match a pattern, as `take` reads them, and where to
    /// go on.
    async fn scan(
        &mut self,
        pattern: &str,
        cursor: Option<&str>,
        limit: usize,
        take: impl Fn(&str) -> Option<String>,
    ) -> Result<(Vec<String>, Option<String>), Error> {
        let mut cursor: u64 = match cursor {
            None => 0,
            Some(text) => text.parse().map_err(|_| Rejection::Cursor)?,
        };
        let mut taken = Vec::new();
        for _ in 0..SCANS_A_PAGE {
            let mut pipeline = redis::pipe();
            pipeline.cmd("SCAN").arg(cursor).arg("MATCH").arg(pattern);
            pipeline.arg("COUNT").arg(SCAN_COUNT).arg("TYPE").arg("string");
            let answer = self.send(&pipeline).await?.pop().unwrap_or(Value::Nil);
            if let Value::ServerError(error) = answer {
                return Err(refused(&error));
            }
            let (next, found): (u64, Vec<Vec<u8>>) = redis::from_redis_value(answer)
                .map_err(|error| Error::not_applied(format!("Redis: {error}")))?;
            taken.extend(found.iter().filter_map(|name| take(std::str::from_utf8(name).ok()?)));
            cursor = next;
            if cursor == 0 || taken.len() >= limit {
                break;
            }
        }
        // SCAN may name a key twice while its table grows or shrinks.
        taken.sort_unstable();
        taken.dedup();
        Ok((taken, (cursor != 0).then(|| cursor.to_string())))
    }
}

/// Takes the meaning from what `MATCH` would read as a pattern.
fn escape_glob(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        if matches!(character, '*' | '?' | '[' | ']' | '^' | '-' | '\\') {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn glob_characters_in_a_bucket_match_only_themselves() {
        assert_eq!(escape_glob("a*[b]?:"), "a\\*\\[b\\]\\?:");
    }
}
