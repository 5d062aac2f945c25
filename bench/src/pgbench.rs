//! PostgreSQL's own load generator, updating one row from as many clients: what the database does
//! with a hot row when nothing stands in front of it.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};
use tally_testkit::{Postgres, TEST_DATABASE, TEST_PASSWORD, TEST_USER};
use tokio_postgres::NoTls;

use crate::program;

/// Its name in the table.
pub(crate) const NAME: &str = "pgbench, one row";

const INSTALL: &str = "on Debian: apt-get install postgresql-contrib";

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS pgbench_counter (id int PRIMARY KEY, n bigint NOT NULL);
INSERT INTO pgbench_counter VALUES (1, 0) ON CONFLICT DO NOTHING";

const SCRIPT: &str = "UPDATE pgbench_counter SET n = n + 1 WHERE id = 1;\n";

/// A prepared run.
pub(crate) struct Pgbench {
    program: PathBuf,
    script: PathBuf,
    port: u16,
}

/// What a run came to.
#[derive(Debug, PartialEq)]
pub(crate) struct Outcome {
    pub(crate) transactions: u64,
    /// Transactions a second, without the time it took to connect.
    pub(crate) rate: f64,
}

impl Pgbench {
    /// Writes the script, and makes the table.
    pub(crate) async fn prepare(postgres: &Postgres, dir: &Path) -> Result<Self> {
        let script = dir.join("update.sql");
        fs::write(&script, SCRIPT)?;
        let (client, connection) = tokio_postgres::connect(&postgres.url(), NoTls).await?;
        tokio::spawn(connection);
        client.batch_execute(SCHEMA).await?;
        Ok(Self { program: find(), script, port: postgres.port() })
    }

    /// Runs it from so many clients at once, each waiting for its answer.
    pub(crate) async fn run(&self, clients: u64, window: Duration) -> Result<Outcome> {
        let mut pgbench = program::command(&self.program);
        pgbench
            .env("PGPASSWORD", TEST_PASSWORD)
            .args(["--no-vacuum", "--protocol=prepared", "--host=127.0.0.1"])
            .arg(format!("--port={}", self.port))
            .arg(format!("--username={TEST_USER}"))
            .arg(format!("--client={clients}"))
            .arg(format!("--jobs={}", clients.min(2)))
            .arg(format!("--time={}", window.as_secs()))
            .arg("--file")
            .arg(&self.script)
            .arg(TEST_DATABASE);
        let printed = program::output(pgbench, INSTALL).await?;
        parse(&printed).with_context(|| format!("cannot read what pgbench printed:\n{printed}"))
    }
}

/// Debian keeps it out of the path, in a folder for each version of PostgreSQL: the newest.
fn find() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let programs = versions.map(|version| version.path().join("bin/pgbench"));
    programs.filter(|program| program.is_file()).max().unwrap_or_else(|| "pgbench".into())
}

fn parse(printed: &str) -> Option<Outcome> {
    let after = |prefix: &str| printed.lines().find_map(|line| line.strip_prefix(prefix));
    let transactions = after("number of transactions actually processed: ")?;
    let rate = after("tps = ")?;
    Some(Outcome {
        // "N", or "N/M" where a number of transactions was asked for.
        transactions: transactions.split('/').next()?.trim().parse().ok()?,
        rate: rate.split_whitespace().next()?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_found_among_what_pgbench_prints() {
        let printed = "number of transactions actually processed: 1234\nlatency average = 1 ms\n\
            tps = 617.25 (without initial connection time)\n";
        assert_eq!(parse(printed), Some(Outcome { transactions: 1234, rate: 617.25 }));
        assert_eq!(parse("pgbench: error"), None);
    }
}
