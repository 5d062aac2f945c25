//! The servers that a `postgres://` URL names, and trying one address after the other.
//!
//! The client tries all addresses by itself, and gives each of them as long as all are to take, so
//! that a first one that is silent leaves nothing for the others. Here each address has an even part
//! of the time that is left, for the log-in as well: a server that has stopped may still accept
//! connections.

use std::{fmt, net::IpAddr, time::Duration};

use futures_util::future::join_all;
use tally_net::HostPort;
use tokio::time::Instant;
use tokio_postgres::{
    Config,
    config::{Host, LoadBalanceHosts},
};

use super::{target::settings, text};
use crate::error::Unconnected;

/// Whether a parameter says which servers there are.
pub(super) fn is_named(parameter: &str) -> bool {
    ["host", "hostaddr", "port", "load_balance_hosts"].contains(&parameter)
}

/// One or several servers.
#[derive(Debug)]
pub(super) struct Servers {
    /// With the servers alone.
    named: Config,
}

/// One server, at one address of it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    host: Host,
    port: u16,
    /// `None` for a socket file.
    address: Option<IpAddr>,
}

impl Servers {
    /// Reads the parameters that [`is_named`] takes.
    pub(super) fn parse(parameters: &[(String, String)]) -> Result<Self, String> {
        let named = settings(parameters).parse().map_err(|error| text(&error))?;
        Ok(Self { named })
    }

    pub(super) fn add(&mut self, host: &str, port: u16) {
        self.named.host(host).port(port);
    }

    /// Whether there are any, and as many addresses and ports.
    pub(super) fn check(&self) -> Result<(), &'static str> {
        let hosts = self.named.get_hosts().len();
        let fits = |given: usize| given == 0 || given == hosts;
        match (hosts, self.named.get_ports().len()) {
            (0, _) => Err("it has no host"),
            (_, ports) if ports != 1 && !fits(ports) => {
                Err("it has more ports than hosts, or fewer")
            }
            _ if !fits(self.named.get_hostaddrs().len()) => {
                Err("it has more of hostaddr than hosts, or fewer")
            }
            _ => Ok(()),
        }
    }

    pub(super) fn are_several(&self) -> bool {
        self.named.get_hosts().len() > 1
    }

    fn all(&self) -> impl Iterator<Item = Place> {
        let (ports, addresses) = (self.named.get_ports(), self.named.get_hostaddrs());
        self.named.get_hosts().iter().enumerate().map(|(number, host)| Place {
            host: host.clone(),
            port: ports.get(number).or(ports.first()).copied().unwrap_or(5432),
            address: addresses.get(number).copied(),
        })
    }

    /// All servers at all their addresses, in the order in which to try them, and why some have none.
    async fn places(&self, limit: Duration) -> (Vec<Place>, Vec<String>) {
        // A name that is not resolved in time must not keep the others from being tried.
        let resolved = self.all().map(|place| async move {
            let looked_up = tokio::time::timeout(limit, place.clone().resolve()).await;
            looked_up.unwrap_or_else(|_| Err(format!("{place}: its name is not resolved in time")))
        });
        let (mut places, mut failures) = (Vec::new(), Vec::new());
        for resolved in join_all(resolved).await {
            match resolved {
                Ok(found) => places.extend(found),
                Err(reason) => failures.push(reason),
            }
        }
        if self.named.get_load_balance_hosts() == LoadBalanceHosts::Random {
            fastrand::shuffle(&mut places);
        }
        (places, failures)
    }

    /// Connects to one after the other, each within an even part of the time that is left.
    pub(super) async fn first_that_answers<T, F: Future<Output = Result<T, Unconnected>>>(
        &self,
        config: &Config,
        limit: Duration,
        connect: impl Fn(Config) -> F,
    ) -> Result<T, Unconnected> {
        let started = Instant::now();
        let (places, failures) = self.places(limit.checked_div(2).unwrap_or_default()).await;
        let connect = |place: &Place| connect(place.configure(config.clone()));
        try_each(&places, failures, started, limit, connect).await
    }
}

async fn try_each<T, F: Future<Output = Result<T, Unconnected>>>(
    places: &[Place],
    failures: Vec<String>,
    started: Instant,
    limit: Duration,
    connect: impl Fn(&Place) -> F,
) -> Result<T, Unconnected> {
    let (mut failures, mut is_passing) = (failures, false);
    // Why a name has no address may pass.
    is_passing |= !failures.is_empty();
    let several = places.len().saturating_add(failures.len()) > 1;
    let mut left = u32::try_from(places.len()).unwrap_or(u32::MAX);
    for place in places {
        let part = limit.saturating_sub(started.elapsed()).checked_div(left).unwrap_or_default();
        left = left.saturating_sub(1);
        let connected = tokio::time::timeout(part, connect(place)).await;
        let failure = match connected {
            Ok(Ok(connected)) => return Ok(connected),
            Ok(Err(failure)) => failure,
            Err(_) if several => Unconnected::passing("no connection in its part of the time"),
            Err(_) => Unconnected::passing(format!("no connection within {limit:?}")),
        };
        is_passing |= failure.is_passing;
        failures.push(match several {
            true => format!("{place}: {}", failure.reason),
            false => failure.reason,
        });
    }
    Err(Unconnected { reason: failures.join("; "), is_passing })
}

impl Place {
    async fn resolve(self) -> Result<Vec<Self>, String> {
        let Host::Tcp(name) = &self.host else { return Ok(vec![self]) };
        if self.address.is_some() {
            return Ok(vec![self]);
        }
        let addresses = tally_net::resolve(name, self.port).await;
        let addresses = addresses.map_err(|error| format!("{self}: {error}"))?;
        let at =
            |address: std::net::SocketAddr| Self { address: Some(address.ip()), ..self.clone() };
        Ok(addresses.into_iter().map(at).collect())
    }

    /// The settings to connect to this one alone. Its name stays what its certificate is for.
    fn configure(&self, mut config: Config) -> Config {
        match &self.host {
            Host::Tcp(name) => config.host(name),
            Host::Unix(path) => config.host_path(path),
        };
        config.port(self.port);
        self.address.map(|address| config.hostaddr(address));
        config
    }
}

/// Without credentials, for people.
impl fmt::Display for Servers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<String> =
            self.all().map(|place| Place { address: None, ..place }.to_string()).collect();
        f.write_str(&all.join(","))
    }
}

/// `HOST:PORT`, with the address behind it where that is not the same.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = match &self.host {
            Host::Unix(path) => return write!(f, "{}:{}", path.display(), self.port),
            Host::Tcp(host) => host,
        };
        HostPort { host, port: Some(self.port) }.fmt(f)?;
        match self.address {
            Some(address) if host.parse() != Ok(address) => write!(f, " ({address})"),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers(parameters: &[(&str, &str)]) -> Servers {
        let parameters: Vec<(String, String)> =
            parameters.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        Servers::parse(&parameters).unwrap()
    }

    fn at(address: &str) -> Place {
        let host = Host::Tcp("name".into());
        Place { host, port: 5432, address: Some(address.parse().unwrap()) }
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_address_leaves_time_for_the_others() {
        let places = [at("192.0.2.1"), at("192.0.2.2"), at("192.0.2.3"), at("192.0.2.4")];
        let (started, limit) = (Instant::now(), Duration::from_secs(4));
        let connected = try_each(&places, Vec::new(), started, limit, |place| {
            let (place, places) = (place.clone(), &places);
            async move {
                match place {
                    place if place == places[1] => Err(Unconnected::lasting("wrong password")),
                    place if place == places[3] => Ok(place),
                    _ => std::future::pending().await,
                }
            }
        });
        assert_eq!(connected.await.unwrap_or_else(|_| panic!()), places[3]);
        // A quarter of four seconds, and then a half of the three that were left.
        assert_eq!(started.elapsed().as_millis(), 2500);
    }

    #[tokio::test(start_paused = true)]
    async fn when_all_fail_each_is_told_by_its_address() {
        let places = [at("192.0.2.1"), at("192.0.2.2")];
        let limit = Duration::from_secs(4);
        let failed: Result<(), _> = try_each(&places, Vec::new(), Instant::now(), limit, |place| {
            let is_first = *place == places[0];
            async move {
                match is_first {
                    true => Err(Unconnected::lasting("wrong password")),
                    false => std::future::pending().await,
                }
            }
        })
        .await;
        let failed = failed.unwrap_err();
        let says = "name:5432 (192.0.2.1): wrong password; name:5432 (192.0.2.2): no connection in its part of the time";
        assert_eq!(failed.reason, says);
        assert!(failed.is_passing, "waiting may mend the second");
    }

    #[tokio::test]
    async fn each_address_of_a_name_is_a_place() {
        let mut all = servers(&[]);
        all.add("127.0.0.1", 1);
        all.add("::1", 2);
        all.add("/run/postgresql", 3);
        let (places, failures) = all.places(Duration::from_secs(30)).await;
        assert_eq!(failures, Vec::<String>::new());
        let addresses: Vec<_> = places.iter().map(|place| place.address).collect();
        let address = |text: &str| Some(text.parse().unwrap());
        assert_eq!(addresses, [address("127.0.0.1"), address("::1"), None]);
        assert_eq!(all.to_string(), "127.0.0.1:1,[::1]:2,/run/postgresql:3");
        let config = places[1].configure(Config::new());
        assert_eq!(config.get_hosts(), [Host::Tcp("::1".into())]);
        assert_eq!((config.get_ports(), config.get_hostaddrs().len()), (&[2][..], 1));
        let given = servers(&[("host", "a,b"), ("hostaddr", "192.0.2.1,192.0.2.2"), ("port", "7")]);
        given.check().unwrap();
        let (places, _) = given.places(Duration::from_secs(30)).await;
        assert_eq!(places[1].to_string(), "b:7 (192.0.2.2)");
    }

    #[test]
    fn as_many_ports_and_addresses_as_hosts() {
        for (parameters, fits) in [
            (&[("host", "a,b"), ("port", "1,2")][..], true),
            (&[("host", "a,b"), ("port", "1")], true),
            (&[("host", "a,b")], true),
            (&[("host", "a,b"), ("port", "1,2,3")], false),
            (&[("host", "a,b"), ("hostaddr", "192.0.2.1")], false),
            (&[("port", "1")], false),
        ] {
            assert_eq!(servers(parameters).check().is_ok(), fits, "{parameters:?}");
        }
    }
}
