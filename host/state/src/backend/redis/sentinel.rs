//! Finding the master of a service through its sentinels.
//!
//! As Redis asks of clients (<https://redis.io/docs/latest/develop/reference/sentinel-clients/>):
//! the sentinels are asked in turn for the master's address, and the server there is asked for its
//! role before it is used, as a sentinel may not know yet of a failover that others have made.

use std::{
    fmt,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use redis::{FromRedisValue, RedisConnectionInfo, Value};
use tokio::time::Instant;

use super::{Live, address::Address, setup, target::Links};
use crate::error::Unconnected;

/// The sentinels that watch a service.
pub(super) struct Sentinels {
    addresses: Vec<Address>,
    service: String,
    login: RedisConnectionInfo,
    /// Which to ask first: the one that led to the master last, or the next after one that did not.
    first: AtomicUsize,
}

impl Sentinels {
    pub(super) fn new(
        addresses: Vec<Address>,
        service: String,
        login: RedisConnectionInfo,
    ) -> Self {
        Self { addresses, service, login, first: AtomicUsize::new(0) }
    }

    /// A connection to the master. Each sentinel gets half of the time that is left to name it,
    /// and the server that it names half of what is left then, so that neither a silent sentinel
    /// nor a dead master keeps the others from being asked.
    pub(super) async fn connect(
        &self,
        links: &Links,
        login: &RedisConnectionInfo,
        limit: Duration,
    ) -> Result<Live, Unconnected> {
        let started = Instant::now();
        let half = || limit.saturating_sub(started.elapsed()).checked_div(2).unwrap_or_default();
        let (mut failures, mut is_passing) = (Vec::new(), false);
        let first = self.first.load(Ordering::Relaxed);
        let order = self.addresses.iter().enumerate().cycle().skip(first);
        for (place, sentinel) in order.take(self.addresses.len()) {
            let next = place.saturating_add(1).checked_rem(self.addresses.len());
            self.first.store(next.unwrap_or(0), Ordering::Relaxed);
            let failure = match within(half(), self.ask(links, sentinel)).await {
                Err(reason) => reason,
                Ok(master) => match within(half(), master_at(links, &master, login)).await {
                    Ok(live) => {
                        self.first.store(place, Ordering::Relaxed);
                        return Ok(live);
                    }
                    Err(Unconnected { reason, is_passing }) => {
                        Unconnected { reason: format!("it names {master}: {reason}"), is_passing }
                    }
                },
            };
            is_passing |= failure.is_passing;
            failures.push(format!("sentinel {sentinel}: {}", failure.reason));
        }
        let reason = format!("no sentinel leads to a master ({})", failures.join("; "));
        Err(Unconnected { reason, is_passing })
    }

    /// What one sentinel takes for the master.
    async fn ask(&self, links: &Links, sentinel: &Address) -> Result<Address, Unconnected> {
        let mut live = links.connect(sentinel, &self.login).await?;
        let mut command = redis::cmd("SENTINEL");
        command.arg("get-master-addr-by-name").arg(&self.service);
        let named: Option<(String, u16)> = query(&mut live, &command).await?;
        let (host, port) = named.ok_or_else(|| {
            Unconnected::lasting(format!("it watches no service '{}'", self.service))
        })?;
        Ok(Address { host, port })
    }
}

impl fmt::Display for Sentinels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let addresses: Vec<String> = self.addresses.iter().map(Address::to_string).collect();
        write!(f, "{}/{}", addresses.join(","), self.service)
    }
}

/// A connection to a server that says that it is a master.
async fn master_at(
    links: &Links,
    address: &Address,
    login: &RedisConnectionInfo,
) -> Result<Live, Unconnected> {
    let mut live = links.connect(address, login).await?;
    let role: Vec<Value> = query(&mut live, &redis::cmd("ROLE")).await?;
    match role.first().map(redis::from_redis_value_ref::<String>) {
        Some(Ok(role)) if role == "master" => Ok(live),
        // The sentinels may not know yet who the master is now.
        Some(Ok(role)) => Err(Unconnected::passing(format!("its role is '{role}'"))),
        _ => Err(Unconnected::lasting("it does not tell its role")),
    }
}

/// What weakens acknowledged writes in a failover, if something does.
pub(super) async fn warning(live: &mut Live) -> Option<String> {
    let mut command = redis::cmd("CONFIG");
    command.arg("GET").arg("min-replicas-to-write");
    // A server that does not tell is not warned about.
    let (_, replicas): (String, String) = query(live, &command).await.ok()?;
    (replicas == "0").then(|| {
        "a failover can lose acknowledged writes that no replica had yet; set min-replicas-to-write to 1 or more, and min-replicas-max-lag low, to bound it".into()
    })
}

async fn query<T: FromRedisValue>(live: &mut Live, command: &redis::Cmd) -> Result<T, Unconnected> {
    let answer = command.query_async(&mut live.client).await;
    answer.map_err(|error| match error.code() {
        Some("NOPERM") => Unconnected::lasting(format!(
            "{error}; the user needs the right to ask, as by ACL SETUSER NAME +role at the servers and +sentinel at the sentinels"
        )),
        _ => setup::not_let_in(&error, error.to_string()),
    })
}

async fn within<T>(
    limit: Duration,
    what: impl Future<Output = Result<T, Unconnected>>,
) -> Result<T, Unconnected> {
    tokio::time::timeout(limit, what)
        .await
        .unwrap_or_else(|_| Err(Unconnected::passing(format!("no answer within {limit:?}"))))
}
