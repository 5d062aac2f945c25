//! A PostgreSQL server of a test's own.

use std::{
    ffi::OsString,
    fs,
    os::unix::{
        fs::{PermissionsExt as _, chown},
        process::CommandExt as _,
    },
    path::PathBuf,
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

use crate::{
    TEST_DATABASE, TEST_PASSWORD, TEST_USER,
    certificates::{Clients, Tls},
    process::{Server, free_port, signal_process},
};

const INSTALL: &str = "on Debian: apt-get install postgresql";

/// Whether the server syncs its log to disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// As in production; for measurements.
    Synced,
    /// Faster; for tests in which the machine does not crash.
    Unsynced,
}

/// A running PostgreSQL server with the user and database of this crate.
pub struct Postgres {
    server: Option<Server>,
    port: u16,
    durability: Durability,
    /// More settings, as `name=value`.
    settings: Vec<String>,
    dir: TempDir,
}

impl Postgres {
    /// Creates a cluster and starts a server on a free port. As root, it runs as `postgres`.
    ///
    /// # Errors
    /// When PostgreSQL is not installed or does not start; the text says why.
    pub fn start(durability: Durability) -> Result<Self> {
        Self::start_with(durability, None)
    }

    /// As [`Postgres::start`], with TLS for those who ask for it. Where clients must show a
    /// certificate, they must in connections with TLS.
    ///
    /// # Errors
    /// As [`Postgres::start`].
    pub fn start_with_tls(durability: Durability, tls: &Tls) -> Result<Self> {
        Self::start_with(durability, Some(tls))
    }

    fn start_with(durability: Durability, tls: Option<&Tls>) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        if let Some((user, group)) = other_user()? {
            chown(dir.path(), Some(user), Some(group))?;
        }
        let settings = Vec::new();
        let mut postgres = Self { server: None, port: free_port()?, durability, settings, dir };
        let password = postgres.dir.path().join("password");
        fs::write(&password, TEST_PASSWORD)?;
        let mut initdb = command("initdb")?;
        initdb
            .args(["--no-sync", "--encoding=UTF8", "--locale=C", "--auth=scram-sha-256"])
            .args(["--username", TEST_USER, "--pwfile"])
            .arg(&password)
            .arg("--pgdata")
            .arg(postgres.data());
        run(initdb)?;
        if let Some(tls) = tls {
            postgres.set_up_tls(tls)?;
        }
        postgres.restart()?;
        let mut create = command("psql")?;
        create
            .env("PGPASSWORD", TEST_PASSWORD)
            .args(["-h", "127.0.0.1", "-p", &postgres.port.to_string(), "-U", TEST_USER])
            .args(["-d", "postgres", "-c", &format!("CREATE DATABASE {TEST_DATABASE}")]);
        run(create)?;
        Ok(postgres)
    }

    /// Starts the server again after [`Postgres::stop`] or [`Postgres::kill`].
    ///
    /// # Errors
    /// As [`Postgres::start`].
    pub fn restart(&mut self) -> Result<()> {
        let mut postgres = command("postgres")?;
        postgres
            .arg("-D")
            .arg(self.data())
            .args(["-p", &self.port.to_string(), "-c", "listen_addresses=127.0.0.1"])
            .args(["-c", "max_connections=600", "-c"])
            .arg({
                let mut setting = OsString::from("unix_socket_directories=");
                setting.push(self.dir.path());
                setting
            });
        if self.durability == Durability::Unsynced {
            postgres.args(["-c", "fsync=off"]);
        }
        for setting in &self.settings {
            postgres.args(["-c", setting]);
        }
        let log = self.dir.path().join("log");
        self.server = Some(Server::start(postgres, self.port, &log, INSTALL)?);
        self.wait_until_ready()
    }

    /// Sets something, as `name=value`, from the next start on.
    pub fn set(&mut self, setting: &str) {
        self.settings.push(setting.to_owned());
    }

    /// Has the server be a standby from its next start on, as one whose primary is gone; it can be
    /// promoted (`pg_promote`).
    ///
    /// # Errors
    /// When its folder cannot be written.
    pub fn become_standby(&self) -> Result<()> {
        let signal = self.data().join("standby.signal");
        fs::write(&signal, "")?;
        if let Some((user, group)) = other_user()? {
            chown(&signal, Some(user), Some(group))?;
        }
        Ok(())
    }

    /// Gives the server its certificate, and says who may connect.
    fn set_up_tls(&mut self, tls: &Tls) -> Result<()> {
        self.settings.push("ssl=on".into());
        for (setting, from) in [
            ("ssl_cert_file", &tls.identity.certificate),
            ("ssl_key_file", &tls.identity.key),
            ("ssl_ca_file", &tls.authority),
        ] {
            // A copy of its own, as the server takes no key that others may read.
            let to = self.dir.path().join(setting);
            fs::copy(from, &to)?;
            fs::set_permissions(&to, fs::Permissions::from_mode(0o600))?;
            if let Some((user, group)) = other_user()? {
                chown(&to, Some(user), Some(group))?;
            }
            self.settings.push(format!("{setting}={}", to.display()));
        }
        if tls.clients == Clients::WithCertificate {
            let rules = "hostssl all all 127.0.0.1/32 scram-sha-256 clientcert=verify-ca
hostnossl all all 127.0.0.1/32 scram-sha-256
";
            fs::write(self.data().join("pg_hba.conf"), rules)?;
        }
        Ok(())
    }

    fn wait_until_ready(&self) -> Result<()> {
        // Listening comes before being ready: connections are refused with 57P03 until then.
        for _ in 0..1_000 {
            let mut ready = command("pg_isready")?;
            ready.args(["-q", "-h", "127.0.0.1", "-p", &self.port.to_string()]);
            if ready.status()?.success() {
                return Ok(());
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        bail!("PostgreSQL did not get ready")
    }

    /// Stops the server at once but in order, ending its sessions ("fast shutdown").
    ///
    /// # Errors
    /// When it is not running.
    pub fn stop(&mut self) -> Result<()> {
        self.server.take().context("PostgreSQL is not running")?.end("INT")
    }

    /// Ends the server without a shutdown checkpoint ("immediate shutdown"), as a crash would.
    ///
    /// # Errors
    /// When it is not running.
    pub fn kill(&mut self) -> Result<()> {
        self.server.take().context("PostgreSQL is not running")?.end("QUIT")
    }

    /// Sends a signal to the server and the processes of its sessions, such as `STOP` and `CONT` to
    /// freeze and thaw it all.
    ///
    /// # Errors
    /// When it is not running.
    pub fn signal(&self, signal: &str) -> Result<()> {
        let server = self.process_id().context("PostgreSQL is not running")?;
        // The one that starts the others first, so that none is missed.
        signal_process(server, signal)?;
        for child in children(server)? {
            // It may have ended by itself.
            let _ = signal_process(child, signal);
        }
        Ok(())
    }

    /// Its port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its process id, while it runs.
    #[must_use]
    pub fn process_id(&self) -> Option<u32> {
        self.server.as_ref().map(Server::id)
    }

    /// Its URL.
    #[must_use]
    pub fn url(&self) -> String {
        self.url_at(self.port)
    }

    /// Its URL through another port, such as a [`crate::Proxy`]'s.
    #[must_use]
    pub fn url_at(&self, port: u16) -> String {
        self.url_with(&format!("127.0.0.1:{port}"), "sslmode=disable")
    }

    /// Its URL at a host and port, with the parameters behind the question mark.
    #[must_use]
    pub fn url_with(&self, place: &str, parameters: &str) -> String {
        format!("postgres://{TEST_USER}:{TEST_PASSWORD}@{place}/{TEST_DATABASE}?{parameters}")
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // One that is frozen cannot stop.
        let _ = self.signal("CONT");
        // In order: killing the server alone would leave its processes and shared memory behind.
        let _ = self.stop();
    }
}

/// The processes that a process has started and that still run.
fn children(parent: u32) -> Result<Vec<u32>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let status = fs::read_to_string(entry.path().join("status")).unwrap_or_default();
        let of = status.lines().find_map(|line| line.strip_prefix("PPid:"));
        if of.is_some_and(|of| of.trim() == parent.to_string()) {
            found.push(id);
        }
    }
    Ok(found)
}

/// A PostgreSQL program, to be run as a user that its server accepts.
fn command(program: &str) -> Result<Command> {
    let mut command = Command::new(find(program));
    // The programs complain about a working directory that their user cannot enter.
    command.current_dir("/");
    if let Some((user, group)) = other_user()? {
        command.uid(user).gid(group);
    }
    Ok(command)
}

/// Runs a program to its end.
fn run(mut command: Command) -> Result<()> {
    let output = match command.output() {
        Ok(output) => output,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            bail!("{:?} is not installed; {INSTALL}", command.get_program())
        }
        Err(error) => return Err(error.into()),
    };
    if !output.status.success() {
        bail!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

/// Debian keeps the server's programs out of the path, in a folder for each version.
fn find(program: &str) -> PathBuf {
    let mut versions: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .map(|entries| {
            entries.flatten().map(|entry| entry.path().join("bin").join(program)).collect()
        })
        .unwrap_or_default();
    versions.retain(|path| path.exists());
    versions.sort();
    versions.pop().unwrap_or_else(|| PathBuf::from(program))
}

/// PostgreSQL refuses to run as root: the ids of the user `postgres` where this process is root.
pub(crate) fn other_user() -> Result<Option<(u32, u32)>> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let id = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    if id.and_then(|ids| ids.split_whitespace().nth(1)) != Some("0") {
        return Ok(None);
    }
    let users = fs::read_to_string("/etc/passwd")?;
    let entry = users.lines().find(|line| line.starts_with("postgres:")).with_context(|| {
        format!("PostgreSQL needs the user postgres when started by root; {INSTALL}")
    })?;
    let mut fields = entry.split(':').skip(2).map(str::parse);
    match (fields.next(), fields.next()) {
        (Some(Ok(user)), Some(Ok(group))) => Ok(Some((user, group))),
        _ => bail!("cannot read the user postgres from /etc/passwd"),
    }
}
