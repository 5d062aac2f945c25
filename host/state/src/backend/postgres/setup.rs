//! What is found out of a server before it is used: set-ups over which nothing would work, or not for
//! long, are said with what to do about them.

use tokio_postgres::{Client, SimpleQueryMessage, error::SqlState};

use super::{session::About, statement, target::Target, text};
use crate::{backend::Role, error::Unconnected};

/// The oldest version: expired rows are removed by ranges of their place (TID range scans).
const OLDEST: u32 = 140_000;

/// Sessions of one host: its lanes'. At its start it takes no more.
pub(super) const SESSIONS: u32 = 4;

/// How often it is looked whether two sessions share a server process.
const LOOKS: usize = 3;

/// The user, the schema in which a table would be created and whether it may be, whether there is one,
/// and what of its rights is missing.
const RIGHTS: &str = "
SELECT current_user, quote_ident(current_user), quote_ident(current_schema()),
    quote_ident(current_database()), to_regclass('tally_kv') IS NOT NULL,
    (SELECT string_agg(r, ', ') FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS r
     WHERE NOT has_table_privilege(to_regclass('tally_kv'), r)),
    (SELECT rolconnlimit FROM pg_roles WHERE rolname = current_user)";

/// Checks a server, and creates the tables.
pub(super) async fn prepare(target: &Target, read_only: bool) -> Result<Client, Unconnected> {
    let first = target.bare().await?;
    let messages = first.simple_query(super::session::ABOUT).await.map_err(|e| refused(&e))?;
    let about = About::read(&messages)
        .ok_or_else(|| Unconnected::lasting("it does not answer as PostgreSQL does"))?;
    refuse_old(about.version)?;
    about.check(Role::Write, read_only)?;
    refuse_shared_sessions(target, &first).await?;
    target.set_up(&first).await?;
    if read_only {
        let rights = Rights::ask(&first).await?;
        return match rights.exists {
            true => Ok(first),
            false => Err(Unconnected::lasting(
                "this database holds no table tally_kv, and so no state of Tally's; check the database in the store URL",
            )),
        };
    }
    match statement::create_tables(&first).await {
        Ok(()) => {}
        Err(error) => return Err(explain_creating(&first, &error).await),
    }
    let rights = Rights::ask(&first).await?;
    if let Some(missing) = rights.missing {
        let Rights { user, schema, .. } = rights;
        return Err(Unconnected::lasting(format!(
            "the user {user} lacks rights on the tables: {missing}; as their owner, run: GRANT SELECT, INSERT, UPDATE, DELETE ON tally_kv, tally_write TO {user}{}",
            if schema.is_empty() { String::new() } else { format!(" (in the schema {schema})") }
        )));
    }
    if (0..i64::from(SESSIONS)).contains(&rights.limit) {
        return Err(Unconnected::lasting(format!(
            "the user {0} may have {1} sessions, and a host takes {SESSIONS}; raise it, as in ALTER ROLE {0} CONNECTION LIMIT {SESSIONS}",
            rights.user, rights.limit
        )));
    }
    Ok(first)
}

fn refuse_old(version: u32) -> Result<(), Unconnected> {
    if version >= OLDEST {
        return Ok(());
    }
    let version = version.checked_div(10_000).unwrap_or_default();
    Err(Unconnected::lasting(format!(
        "it is PostgreSQL {version}, and Tally needs 14 or later; upgrade the server"
    )))
}

/// A pooler that gives a client another server process for each transaction loses prepared statements
/// and settings, and what is set for one session then holds for those of other programs. Two clients
/// that are connected at the same time and are served by the same process, or one client by two, are
/// behind such a pooler. Nothing is set before this is known.
async fn refuse_shared_sessions(target: &Target, first: &Client) -> Result<(), Unconnected> {
    let second = target.bare().await?;
    let mut own = process(first).await?;
    let shares = || {
        Unconnected::lasting(
            "behind this address is a pooler that shares server processes between clients (pool_mode=transaction or statement), which loses Tally's prepared statements and settings; connect to the server itself, or to a pool with pool_mode=session",
        )
    };
    for _ in 0..LOOKS {
        // Within a transaction it keeps the process that it has been given.
        second.batch_execute("BEGIN").await.map_err(|error| match text(&error) {
            text if text.contains("pooling mode") => shares(),
            _ => refused(&error),
        })?;
        let other = process(&second).await?;
        let shared = other == own || {
            // Only once it is known to be free: a pool of one would have this wait.
            let again = process(first).await?;
            std::mem::replace(&mut own, again) != own
        };
        let _ = second.batch_execute("ROLLBACK").await;
        if shared {
            return Err(shares());
        }
    }
    Ok(())
}

async fn process(client: &Client) -> Result<String, Unconnected> {
    let messages = client.simple_query("SELECT pg_backend_pid()").await;
    let messages = messages.map_err(|error| refused(&error))?;
    let process = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.try_get(0).ok()?.map(str::to_owned),
        _ => None,
    });
    process.ok_or_else(|| Unconnected::lasting("it does not answer as PostgreSQL does"))
}

struct Rights {
    /// Quoted for a statement, where it needs to be.
    user: String,
    schema: String,
    database: String,
    exists: bool,
    missing: Option<String>,
    limit: i64,
}

impl Rights {
    async fn ask(client: &Client) -> Result<Self, Unconnected> {
        let messages = client.simple_query(RIGHTS).await.map_err(|error| refused(&error))?;
        let row = messages.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        let column = |place: usize| row.and_then(|row| row.try_get(place).ok()?).map(str::to_owned);
        Ok(Self {
            user: column(1).unwrap_or_default(),
            schema: column(2).unwrap_or_default(),
            database: column(3).unwrap_or_default(),
            exists: column(4).as_deref() == Some("t"),
            missing: column(5),
            limit: column(6).and_then(|limit| limit.parse().ok()).unwrap_or(-1),
        })
    }
}

/// What to do about tables that cannot be created.
async fn explain_creating(client: &Client, error: &tokio_postgres::Error) -> Unconnected {
    let reason = text(error);
    // What failed was in a transaction.
    let _ = client.batch_execute("ROLLBACK").await;
    let rights = match Rights::ask(client).await {
        Ok(rights) => rights,
        Err(error) => return error,
    };
    let Rights { user, schema, database, exists, .. } = rights;
    // None where the search path names none that exists, or none that the user may use.
    let (missing, schema) = match schema.as_str() {
        "" => (
            " (or, if the search_path names a schema that does not exist, CREATE SCHEMA)",
            "public",
        ),
        schema => ("", schema),
    };
    let advice = match error.code() {
        Some(code) if *code == SqlState::INSUFFICIENT_PRIVILEGE && exists => format!(
            "the tables are of an earlier version, and the user {user} does not own them; start Tally once as their owner"
        ),
        Some(code)
            if *code == SqlState::INSUFFICIENT_PRIVILEGE
                || *code == SqlState::INVALID_SCHEMA_NAME =>
        {
            format!(
                "the user {user} may not create tables; as the owner of the database {database}, run in it: GRANT USAGE, CREATE ON SCHEMA {schema} TO {user}{missing}"
            )
        }
        _ => return refused(error),
    };
    Unconnected::lasting(format!("{reason}: {advice}"))
}

/// A failure after connecting.
pub(super) fn refused(error: &tokio_postgres::Error) -> Unconnected {
    let reason = text(error);
    match error.code() {
        None => Unconnected::passing(reason),
        // Resources, operators, and the connection itself.
        Some(code) if ["53", "57", "08", "55", "40"].iter().any(|c| code.code().starts_with(c)) => {
            let many = *code == SqlState::TOO_MANY_CONNECTIONS;
            Unconnected::passing(match many {
                true => format!("{reason}; a host takes {SESSIONS} sessions"),
                false => reason,
            })
        }
        Some(_) => Unconnected::lasting(reason),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_of_an_old_version_is_named() {
        assert!(refuse_old(140_000).is_ok() && refuse_old(180_001).is_ok());
        let refused = refuse_old(130_021).unwrap_err();
        assert!(refused.reason.contains("PostgreSQL 13") && !refused.is_passing);
    }
}
