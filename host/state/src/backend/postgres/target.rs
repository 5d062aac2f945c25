//! What a `postgres://` URL names, and connecting to it.
//!
//! The parameters of TLS are libpq's, with its meanings
//! (<https://www.postgresql.org/docs/current/libpq-ssl.html>): `sslmode` is `disable`, `prefer`
//! (the default: TLS where the server has it, unchecked), `require` (no plain connection; checked
//! as by `verify-ca` where `sslrootcert` is given), `verify-ca` (an authority that is trusted has
//! signed the certificate, for whatever host) or `verify-full` (and it is for this host).
//! `sslrootcert`, `sslcert` and `sslkey` name PEM files; without the first, the operating system's
//! roots are trusted.

use std::{path::PathBuf, time::Duration};

use tokio_postgres::{Client, Config, config::SslMode};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{
    Live,
    statement::{self, Statements},
    text,
};
use crate::{
    backend::tls::{self, Check, Files, Parameters},
    error::{Error, OpenError},
    state::Options,
};

/// What the URL calls the files of TLS, and how it turns off that the name is checked.
const PARAMETERS: Parameters = Parameters {
    roots: "sslrootcert",
    certificate: "sslcert",
    key: "sslkey",
    any_name: Some("sslmode=verify-ca"),
};

/// What connections are made to, and how.
pub(super) struct Target {
    config: Config,
    tls: MakeRustlsConnect,
    shows_certificate: bool,
    /// Sent once after connecting.
    session: String,
    /// Sent when a row need not be waited for in particular any more.
    patience: String,
    connect_timeout: Duration,
}

impl Target {
    pub(super) fn parse(url: &str, options: &Options) -> Result<Self, OpenError> {
        // The URL stays out of the message, as it may hold a password.
        let wrong = |why: &str| {
            OpenError::Url(format!(
                "the PostgreSQL URL is not valid: {why}; write postgres://USER:PASSWORD@HOST[:5432]/DATABASE[?sslmode=verify-full]"
            ))
        };
        let mut parsed = url::Url::parse(url).map_err(|error| wrong(&error.to_string()))?;
        let (mode, check, files) = take_tls(&mut parsed).map_err(wrong)?;
        let mut config: Config = parsed.as_str().parse().map_err(|error| wrong(&text(&error)))?;
        if config.get_hosts().is_empty() {
            return Err(wrong("it has no host"));
        }
        let tls = tls::config(check, &files)?;
        config.ssl_mode(mode).connect_timeout(options.connect_timeout);
        if config.get_application_name().is_none() {
            config.application_name("tally");
        }
        Ok(Self {
            config,
            tls: MakeRustlsConnect::new(tls),
            shows_certificate: files.identity.is_some(),
            session: statement::session(options.timeout),
            patience: statement::patience(options.timeout),
            connect_timeout: options.connect_timeout,
        })
    }

    /// Host, port and database, for people.
    pub(super) fn location(&self) -> String {
        let host = match self.config.get_hosts().first() {
            Some(tokio_postgres::config::Host::Tcp(host)) => host.clone(),
            Some(tokio_postgres::config::Host::Unix(path)) => path.display().to_string(),
            None => String::new(),
        };
        let port = self.config.get_ports().first().copied().unwrap_or(5432);
        let database = self.config.get_dbname().or(self.config.get_user()).unwrap_or_default();
        format!("{host}:{port}/{database}")
    }

    /// Connects, logs in and sets the session up, within the time limit.
    pub(super) async fn client(&self) -> Result<Client, String> {
        let connecting = async {
            let (client, connection) = self
                .config
                .connect(self.tls.clone())
                .await
                .map_err(|error| self.explain(&error))?;
            tokio::spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!(error = %text(&error), "a connection to PostgreSQL ended");
                }
            });
            client.batch_execute(&self.session).await.map_err(|error| text(&error))?;
            Ok(client)
        };
        self.in_time(connecting).await
    }

    async fn in_time<T>(
        &self,
        connecting: impl Future<Output = Result<T, String>>,
    ) -> Result<T, String> {
        tokio::time::timeout(self.connect_timeout, connecting)
            .await
            .unwrap_or_else(|_| Err(format!("no connection within {:?}", self.connect_timeout)))
    }

    /// Why no connection was made, with what to do where TLS is the reason.
    fn explain(&self, error: &tokio_postgres::Error) -> String {
        if let Some(explained) = tls::explain(error, PARAMETERS) {
            return explained;
        }
        let reason = text(error);
        // Neither the client nor the server gives these a code of their own.
        if reason.contains("server does not support TLS") {
            return format!("{reason}; set ssl to on at the server, or write another sslmode");
        }
        if reason.contains("client certificate") || (error.is_closed() && self.shows_certificate) {
            return format!(
                "{reason}; {}",
                tls::client_certificate(PARAMETERS, self.shows_certificate)
            );
        }
        reason
    }

    /// Connects and prepares what is sent, within the time limit.
    pub(super) async fn connect(&self) -> Result<Live, Error> {
        let connecting = async {
            let client = self.client().await?;
            // Somebody may have dropped them.
            statement::create_tables(&client).await.map_err(|error| text(&error))?;
            let statements = Statements::prepare(&client).await.map_err(|error| text(&error))?;
            Ok::<_, String>(Live { client, statements, patience: self.patience.clone() })
        };
        self.in_time(connecting)
            .await
            .map_err(|reason| Error::not_applied(format!("cannot connect to PostgreSQL: {reason}")))
    }
}

/// Takes from a URL what concerns TLS, as the client knows neither the files nor the modes that
/// check anything.
fn take_tls(url: &mut url::Url) -> Result<(SslMode, Check, Files), &'static str> {
    let (mut mode, mut files) = (None, Files::default());
    let (mut certificate, mut key) = (None, None);
    let mut others = Vec::new();
    for (name, value) in url.query_pairs() {
        let path = || Some(PathBuf::from(&*value));
        match &*name {
            "sslmode" => mode = Some(value.into_owned()),
            "sslrootcert" => files.roots = path(),
            "sslcert" => certificate = path(),
            "sslkey" => key = path(),
            _ => others.push((name.into_owned(), value.into_owned())),
        }
    }
    url.set_query(None);
    if !others.is_empty() {
        url.query_pairs_mut().extend_pairs(others);
    }
    files.identity = match (certificate, key) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        _ => return Err("sslcert and sslkey go together"),
    };
    let (mode, check) = match mode.as_deref() {
        None | Some("prefer" | "allow") => (SslMode::Prefer, Check::Nothing),
        Some("disable") => (SslMode::Disable, Check::Nothing),
        Some("require") if files.roots.is_none() => (SslMode::Require, Check::Nothing),
        Some("require" | "verify-ca") => (SslMode::Require, Check::Chain),
        Some("verify-full") => (SslMode::Require, Check::ChainAndName),
        Some(_) => {
            return Err("sslmode is one of disable, prefer, require, verify-ca and verify-full");
        }
    };
    if files.roots.is_some() && check == Check::Nothing {
        return Err("sslrootcert goes with an sslmode that checks it, such as verify-full");
    }
    Ok((mode, check, files))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_url_is_explained_without_its_password() {
        for (url, says) in [
            ("postgres://u:secret@h:port/d", "port"),
            ("postgres://u:secret@h/d?sslmode=sometimes", "sslmode is one of"),
            ("postgres://u:secret@h/d?colour=blue", "colour"),
            ("postgres://u:secret@h/d?sslcert=secret", "go together"),
            ("postgres://u:secret@h/d?sslmode=require&sslkey=secret", "go together"),
            ("postgres://u:secret@h/d?sslrootcert=secret", "checks it"),
            ("postgres://u:secret@h/d?sslmode=disable&sslrootcert=secret", "checks it"),
            ("postgres:///d", "no host"),
        ] {
            let error = match Target::parse(url, &Options::default()) {
                Ok(_) => panic!("{url} was taken"),
                Err(error) => error.to_string(),
            };
            assert!(error.contains("postgres://USER") && error.contains(says), "{url}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn a_location_names_no_credentials() {
        let target = Target::parse("postgres://u:secret@h:99/d", &Options::default()).unwrap();
        assert_eq!(target.location(), "h:99/d");
    }

    #[test]
    fn each_mode_checks_what_libpq_checks() {
        let read = |query: &str| {
            let mut url = url::Url::parse(&format!("postgres://h/d?{query}")).unwrap();
            let (mode, check, _) = take_tls(&mut url).unwrap();
            (mode, check)
        };
        assert_eq!(read(""), (SslMode::Prefer, Check::Nothing));
        assert_eq!(read("sslmode=disable"), (SslMode::Disable, Check::Nothing));
        assert_eq!(read("sslmode=require"), (SslMode::Require, Check::Nothing));
        assert_eq!(read("sslmode=require&sslrootcert=r"), (SslMode::Require, Check::Chain));
        assert_eq!(read("sslmode=verify-ca"), (SslMode::Require, Check::Chain));
        assert_eq!(read("sslmode=verify-full"), (SslMode::Require, Check::ChainAndName));
    }
}
