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

use tokio::task::AbortHandle;
use tokio_postgres::{
    Client, Config,
    config::{SslMode, TargetSessionAttrs},
    error::SqlState,
};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{
    Live,
    servers::{self, Servers},
    session::{self, About, GivenUp, Guard},
    setup,
    statement::{self, Statements},
    text,
};
use crate::{
    backend::{
        Role,
        tls::{self, Check, Files, Parameters},
        url::StoreUrl,
    },
    error::{OpenError, Unconnected},
    state::Options,
};

/// What the URL calls the files of TLS, and how it turns off that the name is checked.
const PARAMETERS: Parameters = Parameters {
    roots: "sslrootcert",
    certificate: "sslcert",
    key: "sslkey",
    any_name: Some("sslmode=verify-ca"),
};

/// What to look at where the server lets nobody in.
const LOGIN: &str = "; check that the user, password and database in the store URL are right";

/// What connections are made to, and how.
pub(super) struct Target {
    servers: Servers,
    /// All but the servers.
    config: Config,
    tls: MakeRustlsConnect,
    shows_certificate: bool,
    /// Sent once after connecting.
    session: String,
    /// Sent when a row need not be waited for in particular any more.
    patience: String,
    connect_timeout: Duration,
    read_only: bool,
    given_up: GivenUp,
    /// What goes on for so long has certainly been given up.
    given_up_after: Duration,
}

impl Target {
    pub(super) fn parse(url: &str, options: &Options) -> Result<Self, OpenError> {
        // The URL stays out of the message, as it may hold a password.
        let wrong = |why: &str| {
            OpenError::Url(format!(
                "the PostgreSQL URL is not valid: {why}; write postgres://USER:PASSWORD@HOST[:5432]/DATABASE[?sslmode=verify-full]"
            ))
        };
        let parsed = StoreUrl::parse(url).map_err(|why| wrong(&why))?;
        let (tls, others) = split_tls(parsed.parameters);
        let (mode, check, files) = tls.map_err(wrong)?;
        let (places, others): (Vec<_>, Vec<_>) =
            others.into_iter().partition(|(name, _)| servers::is_named(name));
        let mut config: Config = settings(&others).parse().map_err(|error| wrong(&text(&error)))?;
        parsed.user.map(|user| config.user(user));
        parsed.password.map(|password| config.password(password));
        let database = parsed.path.join("/");
        if !database.is_empty() {
            config.dbname(database);
        }
        // Without a host in its place, the parameters may name some.
        let mut servers = Servers::parse(&places).map_err(|why| wrong(&why))?;
        let hosts = parsed.hosts.iter().filter(|(host, _)| !host.is_empty());
        for (host, port) in hosts {
            servers.add(host, port.unwrap_or(5432));
        }
        servers.check().map_err(wrong)?;
        if servers.are_several() && !options.read_only {
            // As one that does not take writes is of no use, the next is tried.
            config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        }
        let tls = tls::config(check, &files)?;
        config.ssl_mode(mode).connect_timeout(options.connect_timeout);
        if config.get_application_name().is_none() {
            config.application_name("tally");
        }
        Ok(Self {
            servers,
            config,
            tls: MakeRustlsConnect::new(tls),
            shows_certificate: files.identity.is_some(),
            session: format!("{};{}", statement::session(options.timeout), session::ABOUT),
            patience: statement::patience(options.timeout),
            connect_timeout: options.connect_timeout,
            read_only: options.read_only,
            given_up: GivenUp::default(),
            given_up_after: options.timeout.checked_div(2).unwrap_or_default(),
        })
    }

    /// Host, port and database, for people.
    pub(super) fn location(&self) -> String {
        let database = self.config.get_dbname().or(self.config.get_user()).unwrap_or_default();
        format!("{}/{database}", self.servers)
    }

    /// Connects and logs in, within the time limit, and sets nothing.
    pub(super) async fn bare(&self) -> Result<Client, Unconnected> {
        self.in_time(self.log_in()).await.map(|(client, _)| client)
    }

    /// Sets a session up; what the server says of it.
    pub(super) async fn set_up(&self, client: &Client) -> Result<About, Unconnected> {
        let setting = client.simple_query(&self.session);
        let messages =
            self.in_time(async { setting.await.map_err(|error| setup::refused(&error)) }).await?;
        About::read(&messages)
            .ok_or_else(|| Unconnected::lasting("it does not answer as PostgreSQL does"))
    }

    async fn log_in(&self) -> Result<(Client, AbortHandle), Unconnected> {
        let connect = |config: Config| async move {
            let connected = config.connect(self.tls.clone()).await;
            connected.map_err(|error| self.explain(&error))
        };
        let servers = &self.servers;
        let (client, connection) =
            servers.first_that_answers(&self.config, self.connect_timeout, connect).await?;
        let task = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(error = %text(&error), "a connection to PostgreSQL ended");
            }
        });
        Ok((client, task.abort_handle()))
    }

    async fn in_time<T>(
        &self,
        connecting: impl Future<Output = Result<T, Unconnected>>,
    ) -> Result<T, Unconnected> {
        tokio::time::timeout(self.connect_timeout, connecting).await.unwrap_or_else(|_| {
            Err(Unconnected::passing(format!("no connection within {:?}", self.connect_timeout)))
        })
    }

    /// Why no connection was made, with what to do about it.
    fn explain(&self, error: &tokio_postgres::Error) -> Unconnected {
        if let Some(explained) = tls::explain(error, PARAMETERS) {
            return Unconnected::lasting(explained);
        }
        let reason = text(error);
        // Neither the client nor the server gives these a code of their own.
        if reason.contains("server does not support TLS") {
            return Unconnected::lasting(format!(
                "{reason}; set ssl to on at the server, or write another sslmode"
            ));
        }
        if reason.contains("client certificate") || (error.is_closed() && self.shows_certificate) {
            return Unconnected::lasting(format!(
                "{reason}; {}",
                tls::client_certificate(PARAMETERS, self.shows_certificate)
            ));
        }
        let mut refused = setup::refused(error);
        // This is known to the client alone.
        let needs_password = reason.contains("password missing");
        refused.is_passing &= !needs_password;
        refused.reason.push_str(match error.code().map(SqlState::code) {
            None if needs_password => LOGIN,
            None => "; check that it runs there",
            Some("42501") => {
                "; as the owner of the database, run: GRANT CONNECT ON DATABASE … TO the user"
            }
            // Starting, stopping, or full: it is there, and the login was not yet looked at.
            Some(_) if refused.is_passing => "",
            Some(_) => LOGIN,
        });
        refused
    }

    /// What a lane's session is checked for.
    pub(super) fn checked_as(&self, role: Role) -> Role {
        if self.read_only { Role::Read } else { role }
    }

    /// Connects and prepares what is sent, within the time limit.
    pub(super) async fn connect(&self, role: Role) -> Result<Live, Unconnected> {
        let connecting = async {
            let (client, task) = self.log_in().await?;
            let (tls, given_up) = (self.tls.clone(), self.given_up.clone());
            let mut guard = Guard::new(&client, tls, task, given_up, self.connect_timeout);
            let about = self.set_up(&client).await?;
            guard.know(&about);
            about.check(role, self.read_only)?;
            self.given_up.end(&client, self.given_up_after).await;
            if !self.read_only {
                // Somebody may have dropped them.
                statement::create_tables(&client).await.map_err(|e| setup::refused(&e))?;
            }
            let statements = Statements::prepare(&client).await.map_err(|e| setup::refused(&e))?;
            guard.is_busy = false;
            Ok(Live { client, statements, patience: self.patience.clone(), guard })
        };
        self.in_time(connecting).await
    }
}

/// Takes from the parameters what concerns TLS, as the client knows neither the files nor the modes
/// that check anything.
type Tls = (SslMode, Check, Files);

fn split_tls(
    parameters: Vec<(String, String)>,
) -> (Result<Tls, &'static str>, Vec<(String, String)>) {
    let (ours, others) = parameters.into_iter().partition(|(name, _)| {
        ["sslmode", "sslrootcert", "sslcert", "sslkey"].contains(&name.as_str())
    });
    (tls_of(ours), others)
}

fn tls_of(parameters: Vec<(String, String)>) -> Result<Tls, &'static str> {
    let (mut mode, mut files) = (None, Files::default());
    let (mut certificate, mut key) = (None, None);
    for (name, value) in parameters {
        match name.as_str() {
            "sslmode" => mode = Some(value),
            "sslrootcert" => files.roots = Some(PathBuf::from(value)),
            "sslcert" => certificate = Some(PathBuf::from(value)),
            _ => key = Some(PathBuf::from(value)),
        }
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

/// Parameters as the client reads them
/// (<https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING-KEYWORD-VALUE>).
pub(super) fn settings(parameters: &[(String, String)]) -> String {
    let one = |(name, value): &(String, String)| {
        let value = match (name.as_str(), value.as_str()) {
            // The client does not know the newer name.
            ("target_session_attrs", "primary") => "read-write".to_owned(),
            _ => value.replace('\\', "\\\\").replace('\'', "\\'"),
        };
        // A name that is none is an error of the client's, which repeats it: not all of it.
        let name: String =
            name.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
        format!("{name}='{value}' ")
    };
    parameters.iter().map(one).collect()
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

    fn config(url: &str) -> Config {
        Target::parse(url, &Options::default()).unwrap_or_else(|why| panic!("{why}")).config
    }

    #[test]
    fn parameters_reach_the_server_as_they_were_meant() {
        let options = |url: &str| config(url).get_options().unwrap().to_owned();
        let url = "postgres://h/d?options=-c%20search_path%3Dtally";
        assert_eq!(options(url), "-c search_path=tally");
        let url = "postgres://h/d?options=-c%20a%3D%27x%5C+y%27";
        assert_eq!(options(url), "-c a='x\\+y'");
        let config = config("postgres://u%20+:p%27%5C%25@h/d%20b?application_name=a%20'b'");
        assert_eq!(config.get_user(), Some("u +"));
        assert_eq!(config.get_password(), Some(&b"p'\\%"[..]));
        assert_eq!(config.get_dbname(), Some("d b"));
        assert_eq!(config.get_application_name(), Some("a 'b'"));
    }

    #[test]
    fn of_several_hosts_one_that_takes_writes_is_meant() {
        let several = config("postgres://u:p@a:1,b,[::1]:3/d");
        assert_eq!(several.get_target_session_attrs(), TargetSessionAttrs::ReadWrite);
        let one = config("postgres://h/d?target_session_attrs=primary");
        assert_eq!(one.get_target_session_attrs(), TargetSessionAttrs::ReadWrite);
    }

    #[test]
    fn a_location_names_no_credentials() {
        let target = Target::parse("postgres://u:secret@h:99/d", &Options::default()).unwrap();
        assert_eq!(target.location(), "h:99/d");
        let several = Target::parse("postgres://u:p@a:1,b,[::1]:3/d", &Options::default()).unwrap();
        assert_eq!(several.location(), "a:1,b:5432,[::1]:3/d");
        let socket = Target::parse("postgres:///d?host=/run/postgresql", &Options::default());
        assert_eq!(socket.unwrap().location(), "/run/postgresql:5432/d");
    }

    #[test]
    fn each_mode_checks_what_libpq_checks() {
        let read = |query: &str| {
            let parsed = StoreUrl::parse(&format!("postgres://h/d?{query}"));
            let parsed = parsed.unwrap_or_else(|why| panic!("{why}"));
            let (mode, check, _) = split_tls(parsed.parameters).0.unwrap();
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
