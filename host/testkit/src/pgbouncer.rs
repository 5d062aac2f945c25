//! A PgBouncer in front of a PostgreSQL server of a test's own.

use std::{
    fs,
    os::unix::{fs::chown, process::CommandExt as _},
    path::Path,
    process::Command,
};

use anyhow::Result;
use tempfile::TempDir;

use crate::{
    Postgres, TEST_DATABASE, TEST_PASSWORD, TEST_USER,
    postgres::other_user,
    process::{Server, free_port},
};

const INSTALL: &str = "on Debian: apt-get install pgbouncer";

/// A running PgBouncer that knows the user and database of this crate.
pub struct PgBouncer {
    _server: Server,
    port: u16,
    _dir: TempDir,
}

impl PgBouncer {
    /// Starts it on a free port with a `pool_mode`: `session`, `transaction` or `statement`. As root,
    /// it runs as `postgres`.
    ///
    /// # Errors
    /// When PgBouncer is not installed or does not start; the text says why.
    pub fn start(postgres: &Postgres, pool_mode: &str) -> Result<Self> {
        let (port, dir) = (free_port()?, tempfile::tempdir()?);
        let (config, users) = (dir.path().join("pgbouncer.ini"), dir.path().join("users"));
        fs::write(&users, format!("\"{TEST_USER}\" \"{TEST_PASSWORD}\"\n"))?;
        fs::write(
            &config,
            format!(
                "[databases]
{TEST_DATABASE} = host=127.0.0.1 port={}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = plain
auth_file = {}
pool_mode = {pool_mode}
default_pool_size = 20
",
                postgres.port(),
                users.display()
            ),
        )?;
        // Debian keeps it where only the administrator's path leads.
        let debian = Path::new("/usr/sbin/pgbouncer");
        let program = if debian.exists() { debian } else { Path::new("pgbouncer") };
        let mut command = Command::new(program);
        command.arg(&config).current_dir("/");
        if let Some((user, group)) = other_user()? {
            for path in [dir.path(), &config, &users] {
                chown(path, Some(user), Some(group))?;
            }
            command.uid(user).gid(group);
        }
        let server = Server::start(command, port, &dir.path().join("log"), INSTALL)?;
        Ok(Self { _server: server, port, _dir: dir })
    }

    /// Its port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
}
