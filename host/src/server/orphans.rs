//! State that no guest can reach any more: a guest's default bucket is named after it, so that another name or
//! route for it, or a guest less, leaves a bucket behind. The start says so, as it is easily done by
//! mistake.

use std::collections::HashSet;

use tally_state::{Bucket, Handle};

use crate::config::GuestConfig;

/// Pages of buckets or keys that are looked at: enough for a thousand buckets.
const PAGES: usize = 5;

/// Buckets that are named.
const MOST_NAMED: usize = 10;

/// Looks for buckets with keys that no guest opens, and logs them. With `is_shared`, others keep keys in
/// the store as well: then only buckets are looked for that guests would have without a name of their own, or
/// had when they were named after their routes.
pub(super) async fn report(guests: &[GuestConfig], state: &Handle, is_shared: bool) {
    let opened: HashSet<&str> =
        guests.iter().flat_map(|guest| guest.buckets.stored()).map(Bucket::as_str).collect();
    let orphans = match is_shared {
        true => of_renamed(guests, &opened, state).await,
        false => all(&opened, state).await,
    };
    let mut orphans = orphans.unwrap_or_else(|error| {
        tracing::debug!(%error, "buckets that no guest opens could not be looked for");
        Vec::new()
    });
    // One that may open any bucket may open these.
    orphans.retain(|bucket| !guests.iter().any(|guest| guest.buckets.may_open(bucket)));
    if orphans.is_empty() {
        tracing::debug!("no bucket is left that no guest opens");
        return;
    }
    let more = orphans.len().saturating_sub(MOST_NAMED);
    let mut named: Vec<String> =
        orphans.iter().take(MOST_NAMED).map(|bucket| format!("'{bucket}'")).collect();
    if more > 0 {
        named.push(format!("and {more} more"));
    }
    tracing::warn!(
        "the store has state in buckets that no guest opens: {}; a guest goes on with one by buckets = [\"default=BUCKET\"]",
        named.join(", ")
    );
}

/// The buckets that guests would have without a name of their own, or had when they were named after their
/// routes, where they hold keys.
async fn of_renamed(
    guests: &[GuestConfig],
    opened: &HashSet<&str>,
    state: &Handle,
) -> Result<Vec<String>, tally_state::Error> {
    let file = |guest: &GuestConfig| Some(guest.file.file_stem()?.to_str()?.to_owned());
    let mut names: Vec<String> = guests.iter().map(|guest| guest.pattern.to_string()).collect();
    names.extend(guests.iter().filter_map(file));
    let mut orphans: Vec<String> = Vec::new();
    for name in names {
        if opened.contains(name.as_str()) || orphans.contains(&name) {
            continue;
        }
        let Ok(bucket) = Bucket::new(&name) else { continue };
        let mut cursor = None;
        for _ in 0..PAGES {
            let page = state.list(&bucket, "", cursor.as_deref()).await?;
            if !page.keys.is_empty() {
                orphans.push(name);
                break;
            }
            match page.cursor {
                Some(next) => cursor = Some(next),
                None => break,
            }
        }
    }
    Ok(orphans)
}

async fn all(opened: &HashSet<&str>, state: &Handle) -> Result<Vec<String>, tally_state::Error> {
    let (mut orphans, mut cursor) = (Vec::new(), None);
    for _ in 0..PAGES {
        let page = state.buckets(cursor.as_deref()).await?;
        orphans.extend(page.buckets.into_iter().filter(|bucket| !opened.contains(bucket.as_str())));
        match page.cursor {
            Some(next) => cursor = Some(next),
            None => break,
        }
    }
    Ok(orphans)
}
