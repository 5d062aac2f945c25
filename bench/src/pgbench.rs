//! PostgreSQL's own load generator, updating rows from as many clients: what the database does with
//! such requests when nothing stands in front of it.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use tally_testkit::{Postgres, TEST_DATABASE, TEST_PASSWORD, TEST_USER};
use tokio_postgres::NoTls;

use crate::{
    load::{KEYS, Load},
    program,
    quantiles::Latencies,
    traffic::Traffic,
};

const INSTALL: &str = "on Debian: apt-get install postgresql-contrib";

/// More clients than this leave no connections of the server for others.
const MOST_CLIENTS: u32 = 550;

/// Clients that connect in a second, with passwords hashed some thousand times.
const CLIENTS_A_SECOND: u32 = 200;

/// A run on rows that begin at zero.
pub(crate) struct Pgbench<'a> {
    postgres: &'a Postgres,
    dir: PathBuf,
    clients: u32,
}

impl<'a> Pgbench<'a> {
    /// Writes the script, and makes the rows.
    pub(crate) async fn prepare(
        postgres: &'a Postgres,
        load: Load,
        clients: u32,
        dir: &Path,
    ) -> Result<Self> {
        if clients > MOST_CLIENTS {
            bail!("PostgreSQL takes no {clients} connections: at most {MOST_CLIENTS} are measured");
        }
        let rows = if load == Load::Keys { KEYS } else { 1 };
        let script = format!(
            "\\set row random(1, {rows})\nUPDATE pgbench_counter SET n = n + 1 WHERE id = :row;\n"
        );
        fs::write(dir.join("update.sql"), script)?;
        let pgbench = Self { postgres, dir: dir.to_owned(), clients };
        let schema = format!(
            "DROP TABLE IF EXISTS pgbench_counter;
            CREATE TABLE pgbench_counter (id int PRIMARY KEY, n bigint NOT NULL);
            INSERT INTO pgbench_counter SELECT id, 0 FROM generate_series(1, {rows}) AS id"
        );
        pgbench.connect().await?.batch_execute(&schema).await?;
        Ok(pgbench)
    }

    /// Runs it from all clients at once, each waiting for its answer.
    pub(crate) async fn run(&self, window: Duration) -> Result<Traffic> {
        let logs = tempfile::tempdir_in(&self.dir)?;
        let mut pgbench = program::command(find());
        pgbench
            .env("PGPASSWORD", TEST_PASSWORD)
            .args(["--no-vacuum", "--protocol=prepared", "--host=127.0.0.1", "--log"])
            .arg(format!("--log-prefix={}", logs.path().join("log").display()))
            .arg(format!("--port={}", self.postgres.port()))
            .arg(format!("--username={TEST_USER}"))
            .arg(format!("--client={}", self.clients))
            .arg(format!("--jobs={}", self.clients.min(2)))
            // Its time runs while it connects; the rate that it prints is of the time after.
            .arg(format!(
                "--time={}",
                window.as_secs() + u64::from(self.clients / CLIENTS_A_SECOND)
            ))
            .arg("--file")
            .arg(self.dir.join("update.sql"))
            .arg(TEST_DATABASE);
        let printed = program::output(pgbench, INSTALL).await?;
        let (requests, rate) = parse(&printed)
            .with_context(|| format!("cannot read what pgbench printed:\n{printed}"))?;
        let mut latencies = Latencies::default();
        for log in fs::read_dir(logs.path())? {
            fs::read_to_string(log?.path())?.lines().filter_map(latency).for_each(|latency| {
                latencies.add(latency);
            });
        }
        #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
        let duration = Duration::from_secs_f64(requests as f64 / rate);
        Ok(latencies.traffic(duration))
    }

    /// What all rows add up to.
    pub(crate) async fn total(&self) -> Result<u64> {
        let sum = "SELECT sum(n)::bigint FROM pgbench_counter";
        let total: i64 = self.connect().await?.query_one(sum, &[]).await?.try_get(0)?;
        Ok(total.try_into()?)
    }

    async fn connect(&self) -> Result<tokio_postgres::Client> {
        let (client, connection) = tokio_postgres::connect(&self.postgres.url(), NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }
}

/// Debian keeps it out of the path, in a folder for each version of PostgreSQL: the newest.
fn find() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let programs = versions.map(|version| version.path().join("bin/pgbench"));
    programs.filter(|program| program.is_file()).max().unwrap_or_else(|| "pgbench".into())
}

/// The number of transactions, and those in a second without the time it took to connect.
fn parse(printed: &str) -> Option<(u64, f64)> {
    let after = |prefix: &str| printed.lines().find_map(|line| line.strip_prefix(prefix));
    let transactions = after("number of transactions actually processed: ")?;
    let rate = after("tps = ")?;
    // "N", or "N/M" where a number of transactions was asked for.
    let transactions = transactions.split('/').next()?.trim().parse().ok()?;
    Some((transactions, rate.split_whitespace().next()?.parse().ok()?))
}

/// A line of its log: client, transaction, microseconds, and more.
fn latency(line: &str) -> Option<Duration> {
    Some(Duration::from_micros(line.split_whitespace().nth(2)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_found_among_what_pgbench_prints() {
        let printed = "number of transactions actually processed: 1234\nlatency average = 1 ms\n\
            tps = 617.25 (without initial connection time)\n";
        assert_eq!(parse(printed), Some((1234, 617.25)));
        assert_eq!(parse("pgbench: error"), None);
    }

    #[test]
    fn a_line_of_the_log_has_the_latency() {
        assert_eq!(latency("0 199 2241 0 1175850568 995598"), Some(Duration::from_micros(2241)));
        assert_eq!(latency("0 199"), None);
    }
}
