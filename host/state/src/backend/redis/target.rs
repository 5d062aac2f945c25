//! Connecting to the server that a URL names, or to the master that sentinels name.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use redis::{AsyncConnectionConfig, RedisConnectionInfo, aio::MultiplexedConnection};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use super::{
    Live,
    address::{self, Address},
    replies::Readable,
    sentinel::Sentinels,
    setup,
    wire::{Watched, Wire},
};
use crate::{
    backend::tls::{self, Check, Parameters},
    error::{OpenError, Unconnected},
    state::Options,
};

/// What the URL calls the files of TLS.
const PARAMETERS: Parameters =
    Parameters { roots: "cacert", certificate: "cert", key: "key", any_name: None };

/// What connections are made to, and how.
pub(super) struct Target {
    place: Place,
    login: RedisConnectionInfo,
    links: Links,
    connect_timeout: Duration,
    read_only: bool,
    /// Keys that nobody has, one for each bucket that is going to be written, and one of the host's.
    probes: Vec<String>,
}

enum Place {
    Server(Address),
    Sentinels(Sentinels),
}

impl Target {
    pub(super) fn parse(url: &str, options: &Options) -> Result<Self, OpenError> {
        let mut parsed = address::parse(url)?;
        let tls = match &parsed.tls {
            None => None,
            Some(files) => {
                let connector = Arc::new(tls::config(Check::ChainAndName, files)?).into();
                Some(Tls { connector, shows_certificate: files.identity.is_some() })
            }
        };
        let place = match parsed.service {
            None => Place::Server(parsed.addresses.swap_remove(0)),
            Some(service) => {
                Place::Sentinels(Sentinels::new(parsed.addresses, service, parsed.sentinel_login))
            }
        };
        let (connect_timeout, read_only) = (options.connect_timeout, options.read_only);
        let login = parsed.login;
        let probes = setup::probes(&options.buckets);
        Ok(Self { place, login, links: Links { tls }, connect_timeout, read_only, probes })
    }

    /// See the field.
    pub(super) fn probes(&self) -> &[String] {
        &self.probes
    }

    /// Where it is, for people.
    pub(super) fn location(&self) -> String {
        let database = self.login.db();
        match &self.place {
            Place::Server(address) => format!("{address}/{database}"),
            Place::Sentinels(sentinels) => format!("{sentinels}/{database}"),
        }
    }

    /// Whether sentinels may put another server in the master's place.
    pub(super) fn fails_over(&self) -> bool {
        matches!(self.place, Place::Sentinels(_))
    }

    /// Whether nothing is ever written.
    pub(super) fn is_only_read(&self) -> bool {
        self.read_only
    }

    /// As [`Target::connect`], to a server that takes writes.
    pub(super) async fn connect_checked(&self) -> Result<Live, Unconnected> {
        let mut live = self.connect().await?;
        if !self.read_only {
            self.in_time(setup::recheck(&mut live)).await?;
        }
        Ok(live)
    }

    /// Connects and logs in, within the time limit.
    pub(super) async fn connect(&self) -> Result<Live, Unconnected> {
        let connecting = async {
            match &self.place {
                Place::Server(address) => self.links.connect(address, &self.login).await,
                Place::Sentinels(sentinels) => {
                    sentinels.connect(&self.links, &self.login, self.connect_timeout).await
                }
            }
        };
        self.in_time(connecting).await
    }

    /// Does what belongs to connecting, within the time limit for it.
    pub(super) async fn in_time<T>(
        &self,
        connecting: impl Future<Output = Result<T, Unconnected>>,
    ) -> Result<T, Unconnected> {
        tokio::time::timeout(self.connect_timeout, connecting).await.unwrap_or_else(|_| {
            let hint = match self.links.tls {
                None => "",
                Some(_) => "; a server that has no TLS on this port may be silent",
            };
            let limit = self.connect_timeout;
            Err(Unconnected::passing(format!("no connection within {limit:?}{hint}")))
        })
    }
}

/// How servers and sentinels are connected to.
pub(super) struct Links {
    tls: Option<Tls>,
}

struct Tls {
    connector: TlsConnector,
    shows_certificate: bool,
}

impl Links {
    /// Connects and logs in, without a time limit.
    pub(super) async fn connect(
        &self,
        address: &Address,
        login: &RedisConnectionInfo,
    ) -> Result<Live, Unconnected> {
        let connecting = async {
            let addresses = tally_net::resolve(&address.host, address.port).await?;
            tally_net::connect(&addresses).await
        };
        let stream = connecting
            .await
            .map_err(|error| Unconnected::passing(format!("{error}; check that it runs there")))?;
        // A batch is one write that waits for its answer.
        stream.set_nodelay(true).map_err(|error| Unconnected::passing(error.to_string()))?;
        let wire = Wire::new();
        let stream = Watched { inner: stream, wire: Arc::clone(&wire) };
        let Some(Tls { connector, shows_certificate }) = &self.tls else {
            return log_in(stream, wire, login).await.map_err(|error| {
                let hint = match error.is_connection_dropped() {
                    true => "; if the server expects TLS on this port, write rediss",
                    false => "",
                };
                setup::not_let_in(&error, format!("{error}{hint}"))
            });
        };
        let name = rustls::pki_types::ServerName::try_from(address.host.clone())
            .map_err(|error| Unconnected::lasting(error.to_string()))?;
        let stream = connector.connect(name, stream).await.map_err(|error| {
            match tls::explain(&error, PARAMETERS) {
                Some(explained) => Unconnected::lasting(explained),
                None => Unconnected::passing(format!("TLS: {error}")),
            }
        })?;
        log_in(stream, wire, login).await.map_err(|error| {
            if let Some(explained) = tls::explain(&error, PARAMETERS) {
                return Unconnected::lasting(explained);
            }
            let reason = match error.is_connection_dropped() {
                true => {
                    format!("{error}; {}", tls::client_certificate(PARAMETERS, *shows_certificate))
                }
                false => error.to_string(),
            };
            setup::not_let_in(&error, reason)
        })
    }
}

async fn log_in(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    wire: Arc<Wire>,
    login: &RedisConnectionInfo,
) -> Result<Live, redis::RedisError> {
    // The lane has a time limit of its own, which knows what was sent.
    let config = AsyncConnectionConfig::new().set_response_timeout(None);
    let (client, driver) =
        MultiplexedConnection::new_with_config(login, Readable::new(stream), config).await?;
    let driven = Arc::clone(&wire);
    tokio::spawn(async move {
        driver.await;
        // The end of TLS can come before that of the connection below it.
        driven.closed.store(true, Ordering::Release);
    });
    Ok(Live { client, wire })
}
