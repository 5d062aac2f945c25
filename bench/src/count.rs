//! Whether a load was counted exactly: once each, and none lost.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, bail};
use hyper::{Method, StatusCode};
use tokio::task::JoinSet;

use crate::{http, load::Target, traffic::Traffic};

/// Connections that reports of many counters are asked for on.
const READERS: usize = 8;

/// Sets the counter to zero, unless the load has new counters of its own.
pub(crate) async fn reset(address: SocketAddr, target: &Target) -> Result<()> {
    if target.prefix.is_some() {
        return Ok(());
    }
    let answer = http::request(address, Method::POST, "/reset").await?;
    if answer.status() != StatusCode::OK {
        bail!("POST /reset answered {}", answer.status());
    }
    Ok(())
}

/// Adds up the counters of a load.
pub(crate) async fn total(address: SocketAddr, target: &Target) -> Result<u64> {
    let reports = target.reports();
    let mut readers = JoinSet::new();
    for part in reports.chunks(reports.len().div_ceil(READERS)) {
        let part = part.to_vec();
        readers.spawn(async move { sum(address, &part).await });
    }
    let mut total = 0;
    while let Some(part) = readers.join_next().await {
        total += part??;
    }
    Ok(total)
}

async fn sum(address: SocketAddr, reports: &[String]) -> Result<u64> {
    let mut connection = http::Connection::open(address).await?;
    let mut sum = 0;
    for path in reports {
        let answer = connection.request(Method::GET, path).await?;
        if answer.status() != StatusCode::OK {
            bail!("GET {path} answered {}", answer.status());
        }
        let report: serde_json::Value =
            serde_json::from_slice(answer.body()).context("GET /report answered no JSON")?;
        let count = report.get("count").and_then(serde_json::Value::as_u64);
        sum += count.context("GET /report has no count")?;
    }
    Ok(sum)
}

/// How the count is wrong. Every acknowledged increment must be in it. Beyond those can only be
/// increments whose answers nobody waited for, or that failed.
pub(crate) fn miscounts(count: u64, loads: &[&Traffic]) -> Vec<String> {
    let mut notes = Vec::new();
    let acknowledged: u64 = loads.iter().map(|load| load.acknowledged()).sum();
    let lost = acknowledged.saturating_sub(count);
    if lost > 0 {
        notes.push(format!(
            "LOST UPDATES: {lost} of {acknowledged} acknowledged increments are not in the count {count}"
        ));
    }
    let unsure: u64 = loads.iter().map(|load| load.unsure()).sum();
    let surplus = count.saturating_sub(acknowledged);
    if surplus > unsure {
        notes.push(format!(
            "COUNTED TWICE: the count {count} is {surplus} above the {acknowledged} acknowledged increments, and at most {unsure} were unanswered"
        ));
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(requests: u64, refused: u64, unanswered: u64) -> Traffic {
        Traffic { requests, refused, unanswered, ..Traffic::default() }
    }

    #[test]
    fn a_count_within_what_was_acknowledged_or_unanswered_is_right() {
        let loads = [&load(100, 0, 2), &load(200, 0, 2)];
        for count in 300..=304 {
            assert!(miscounts(count, &loads).is_empty(), "{count}");
        }
    }

    #[test]
    fn a_count_outside_is_said() {
        let loads = [&load(100, 0, 2), &load(200, 0, 2)];
        let lost = miscounts(299, &loads);
        assert!(lost.iter().any(|note| note.starts_with("LOST UPDATES: 1 of 300")), "{lost:?}");
        let twice = miscounts(305, &loads);
        assert!(twice.iter().any(|note| note.starts_with("COUNTED TWICE")), "{twice:?}");
    }

    #[test]
    fn increments_that_failed_may_have_counted_or_not() {
        let loads = [&load(100, 5, 2), &load(200, 0, 3)];
        for count in [295, 305] {
            assert!(miscounts(count, &loads).is_empty(), "{count}");
        }
    }
}
