//! Redis' own load generator, sending INCR from as many clients: what Redis does with such requests
//! when nothing stands in front of it.

use std::time::Duration;

use anyhow::{Context as _, Result};
use tally_testkit::Redis;

use crate::{
    load::{KEYS, Load},
    program,
    traffic::Traffic,
};

const INSTALL: &str = "on Debian: apt-get install redis-tools";

/// Requests of the first run, which tells how many fill a window.
const FIRST: u64 = 5_000;

/// A run on keys of its own.
pub(crate) struct RedisBenchmark<'a> {
    redis: &'a Redis,
    load: Load,
    clients: u32,
    /// What the names of keys begin with.
    prefix: String,
}

impl<'a> RedisBenchmark<'a> {
    pub(crate) fn new(redis: &'a Redis, load: Load, clients: u32, window: u32) -> Self {
        Self { redis, load, clients, prefix: format!("redis-benchmark:{window}:") }
    }

    /// A short run, to warm up.
    pub(crate) async fn warm_up(&self) -> Result<Traffic> {
        self.run(FIRST).await
    }

    /// About so long a run: it takes a number of requests, not a time.
    pub(crate) async fn run_about(&self, window: Duration, before: &Traffic) -> Result<Traffic> {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a number of requests"
        )]
        let requests = (before.rate() * window.as_secs_f64()) as u64;
        self.run(requests.max(FIRST)).await
    }

    async fn run(&self, requests: u64) -> Result<Traffic> {
        let mut benchmark = program::command("redis-benchmark");
        benchmark.args(["-h", "127.0.0.1", "-p", &self.redis.port().to_string(), "--csv"]);
        benchmark.args(["-c", &self.clients.to_string(), "-n", &requests.to_string()]);
        if self.load == Load::Keys {
            benchmark.args(["-r", &KEYS.to_string()]);
            benchmark.args(["INCR", &format!("{}__rand_int__", self.prefix)]);
        } else {
            benchmark.args(["INCR", &self.prefix]);
        }
        let printed = program::output(benchmark, INSTALL).await?;
        parse(&printed, requests)
            .with_context(|| format!("cannot read what redis-benchmark printed:\n{printed}"))
    }

    /// What all keys add up to.
    pub(crate) async fn total(&self) -> Result<u64> {
        let client = redis::Client::open(self.redis.url())?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        let mut get = redis::cmd("MGET");
        if self.load == Load::Keys {
            for key in 0..KEYS {
                get.arg(format!("{}{key:012}", self.prefix));
            }
        } else {
            get.arg(&self.prefix);
        }
        let counts: Vec<Option<u64>> = get.query_async(&mut connection).await?;
        Ok(counts.into_iter().flatten().sum())
    }
}

/// Its line of values: what was sent, requests a second, and in milliseconds the mean, the minimum,
/// the percentiles 50, 95 and 99, and the maximum.
fn parse(printed: &str, requests: u64) -> Option<Traffic> {
    let line = printed.lines().filter(|line| line.starts_with('"')).nth(1)?;
    let mut values = line.rsplit(',').map(|value| value.trim_matches('"').parse::<f64>().ok());
    let mut next = || values.next().flatten();
    let milliseconds = |value: f64| Duration::from_secs_f64(value / 1e3);
    let (slowest, p99, _, p50) = (next()?, next()?, next()?, next()?);
    let rate = values.nth(2).flatten()?;
    #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
    let duration = Duration::from_secs_f64(requests as f64 / rate);
    Some(Traffic {
        requests,
        duration,
        p50: milliseconds(p50),
        p99: milliseconds(p99),
        slowest: Some(milliseconds(slowest)),
        ..Traffic::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_found_among_what_redis_benchmark_prints() {
        let printed = "\"test\",\"rps\",\"avg_latency_ms\",\"min_latency_ms\",\"p50_latency_ms\",\
            \"p95_latency_ms\",\"p99_latency_ms\",\"max_latency_ms\"\n\
            \"INCR a,b\",\"500.00\",\"0.6\",\"0.1\",\"0.5\",\"0.8\",\"2.0\",\"9.0\"\n";
        let traffic = parse(printed, 1000).unwrap();
        assert_eq!(traffic.duration, Duration::from_secs(2));
        assert_eq!(traffic.p50, Duration::from_micros(500));
        assert_eq!(traffic.p99, Duration::from_millis(2));
        assert_eq!(traffic.slowest, Some(Duration::from_millis(9)));
        assert_eq!(parse("error", 1000), None);
    }
}
