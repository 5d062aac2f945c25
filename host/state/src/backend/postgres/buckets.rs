//! Which buckets there are: a step through the primary key's index for each, whatever they hold.

use tokio_postgres::Client;

use super::Failure;
use crate::BucketPage;

// Each `ORDER BY … LIMIT 1` keeps to the index: without it, a bucket that is a small part of the
// table could be looked for in all of it.
const BUCKETS: &str = r#"
WITH RECURSIVE found(bucket, number) AS (
    (SELECT bucket, 1::bigint FROM tally_kv WHERE bucket > $1 ORDER BY bucket LIMIT 1)
    UNION ALL
    SELECT (
        SELECT t.bucket FROM tally_kv t WHERE t.bucket > found.bucket ORDER BY t.bucket LIMIT 1
    ), number + 1
    FROM found WHERE found.bucket IS NOT NULL AND number < $2
)
SELECT bucket, (
    SELECT true FROM tally_kv t
    WHERE t.bucket = found.bucket
        AND (t.expires IS NULL OR t.expires > (extract(epoch FROM now()) * 1000)::bigint)
    ORDER BY t.bucket, t.key LIMIT 1
) IS NOT NULL
FROM found WHERE bucket IS NOT NULL ORDER BY number"#;

/// Buckets in order; the cursor is the last one that was looked at for the page before. A bucket
/// all of whose keys have expired is passed over.
///
/// Asked for by people, rarely: no session keeps it prepared.
pub(super) async fn page(
    client: &Client,
    cursor: Option<&str>,
    limit: usize,
) -> Result<BucketPage, Failure> {
    let most = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = client.query(BUCKETS, &[&cursor.unwrap_or_default(), &most]).await?;
    let mut page = BucketPage::default();
    for row in &rows {
        let name: String = row.try_get(0)?;
        if rows.len() == limit {
            page.cursor = Some(name.clone());
        }
        if row.try_get(1)? {
            page.buckets.push(name);
        }
    }
    Ok(page)
}
