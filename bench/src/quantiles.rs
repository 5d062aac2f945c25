//! Latencies of single requests, and what they come to.

use std::time::Duration;

use crate::traffic::Traffic;

/// Latencies in any order.
#[derive(Debug, Default)]
pub(crate) struct Latencies {
    each: Vec<Duration>,
}

impl Latencies {
    pub(crate) fn add(&mut self, latency: Duration) {
        self.each.push(latency);
    }

    /// As traffic in which all was well: requests were answered, and none is open.
    pub(crate) fn traffic(mut self, duration: Duration) -> Traffic {
        self.each.sort_unstable();
        Traffic {
            requests: self.each.len() as u64,
            duration,
            p50: self.quantile(500),
            p99: self.quantile(990),
            p999: Some(self.quantile(999)),
            slowest: self.each.last().copied(),
            ..Traffic::default()
        }
    }

    /// The least latency that so many of a thousand requests do not exceed; of sorted latencies.
    fn quantile(&self, of_thousand: usize) -> Duration {
        let rank = (self.each.len() * of_thousand).div_ceil(1000);
        self.each.get(rank.saturating_sub(1)).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_all_requests() {
        let mut latencies = Latencies::default();
        (1..=1000).rev().for_each(|ms| latencies.add(Duration::from_millis(ms)));
        let traffic = latencies.traffic(Duration::from_secs(1));
        assert_eq!(traffic.requests, 1000);
        assert_eq!(traffic.p50, Duration::from_millis(500));
        assert_eq!(traffic.p99, Duration::from_millis(990));
        assert_eq!(traffic.p999, Some(Duration::from_millis(999)));
        assert_eq!(traffic.slowest, Some(Duration::from_millis(1000)));
    }

    #[test]
    fn no_requests_have_no_latency() {
        assert_eq!(Latencies::default().traffic(Duration::from_secs(1)).p99, Duration::ZERO);
    }
}
