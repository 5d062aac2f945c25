//! Commands for releases: clients of the admin listener of one host, which does for all hosts what it is asked.

#![expect(clippy::indexing_slicing, reason = "in JSON, what is missing is null")]

mod client;
mod show;

use std::{
    collections::BTreeMap,
    io::Write as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use clap::{Args, Subcommand};
use http::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value, json};

use self::client::Host;
use crate::config::Span;

/// How often the progress of a change is asked for.
const LOOK: Duration = Duration::from_millis(50);

/// What commands about releases have in common.
#[derive(Args, Debug)]
pub struct Common {
    /// The admin listener of any one host
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:3001")]
    admin: String,

    /// File with the host's admin token; the token itself can be in TALLY_ADMIN_TOKEN [default:
    /// that of a host of the same user on this machine]
    #[arg(long, value_name = "FILE", env = "TALLY_ADMIN_TOKEN_FILE")]
    admin_token_file: Option<PathBuf>,

    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
}

/// What commands that change something have besides.
#[derive(Args, Debug)]
pub struct Changing {
    /// Why, for the history
    #[arg(long, value_name = "TEXT", default_value = "")]
    note: String,

    /// Longest time to wait for all hosts
    #[arg(long, value_name = "TIME", default_value = "60s")]
    timeout: Span,
}

/// `tally deploy`.
#[derive(Args, Debug)]
pub struct Deploy {
    /// The component
    #[arg(value_name = "GUEST.wasm")]
    component: PathBuf,

    /// Name of the guest to replace, or of a new one [default: the only one]
    #[arg(long, visible_alias = "route", value_name = "NAME")]
    guest: Option<String>,

    /// Path of the requests that the guest takes, with all below it [default for a guest that there is: as
    /// before]
    #[arg(long, value_name = "PATH")]
    prefix: Option<String>,

    /// The one path of the requests that the guest takes
    #[arg(long, value_name = "PATH")]
    path: Option<String>,

    /// Host of the requests that the guest takes
    #[arg(long, value_name = "HOST")]
    host: Option<String>,

    /// File with further settings of the guest, with the keys that a route has in tally.toml
    #[arg(long, value_name = "FILE.toml")]
    settings: Option<PathBuf>,

    /// Environment variable of the guest, as NAME=VALUE; can be repeated. ${NAME} in a value stands for that
    /// variable of each host
    #[arg(long = "env", value_name = "NAME=VALUE")]
    env: Vec<String>,

    /// What is said of the change.
    #[command(flatten)]
    changing: Changing,

    /// The host, and what is printed.
    #[command(flatten)]
    common: Common,
}

/// The other commands about releases.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Say which guests there are, which release of each runs, and where one cannot
    Ps {
        /// The host, and what is printed.
        #[command(flatten)]
        common: Common,
    },
    /// Say what was done with a guest, the newest first
    History {
        /// The guest
        #[arg(value_name = "NAME")]
        guest: String,
        /// Entries at most
        #[arg(long, value_name = "N", default_value_t = 50)]
        limit: usize,
        /// The host, and what is printed.
        #[command(flatten)]
        common: Common,
    },
    /// Have all hosts run an earlier release of a guest again
    Rollback {
        /// The guest
        #[arg(value_name = "NAME")]
        guest: String,
        /// The release [default: the one before]
        #[arg(long, value_name = "N")]
        to: Option<u64>,
        /// What is said of the change.
        #[command(flatten)]
        changing: Changing,
        /// The host, and what is printed.
        #[command(flatten)]
        common: Common,
    },
    /// Have a guest be as tally.toml says, or not be there, instead of what was deployed
    Remove {
        /// The guest
        #[arg(value_name = "NAME")]
        guest: String,
        /// What is said of the change.
        #[command(flatten)]
        changing: Changing,
        /// The host, and what is printed.
        #[command(flatten)]
        common: Common,
    },
    /// Say which hosts there are, and what they have seen
    Hosts {
        /// The host, and what is printed.
        #[command(flatten)]
        common: Common,
    },
}

/// Runs `tally deploy`, and gives what is to be printed.
///
/// # Errors
/// When the file cannot be read, the host cannot be reached or refuses, or a host cannot run the release; the text
/// says why.
pub async fn deploy(arguments: Deploy, environment: &[(String, String)]) -> Result<String> {
    let file = &arguments.component;
    let settings = settings(&arguments)?;
    let bytes: Bytes = crate::server::read_guest(file)?.into();
    let host = arguments.common.host(environment)?;
    let name = match &arguments.guest {
        Some(name) => name.clone(),
        None => only_guest(&host).await?,
    };
    // What was seen before anything was sent: who changes the guest meanwhile is not written over.
    let found = host.find(&format!("/admin/v1/guests/{}", escape(&name))).await?;
    let base = found.as_ref().map_or(&Value::Null, |guest| &guest["entry"]);
    let here = found.as_ref().map_or(&Value::Null, |guest| &guest["here"]);
    let of_file = || file.display().to_string();
    let component = host.ask(&Method::POST, "/admin/v1/components", bytes).await;
    let component = component.with_context(of_file)?;
    let asked = json!({
        "component": component, "settings": settings, "note": arguments.changing.note, "base": base,
    });
    let path = format!("/admin/v1/guests/{}/releases", escape(&name));
    let made = host.ask(&Method::POST, &path, asked.to_string().into()).await;
    let mut made = made.with_context(of_file)?;
    let before = if text(here, "version").is_empty() { "none" } else { text(here, "version") };
    let said = format!(
        "deployed {} to '{name}': release {}, version {} instead of {before}",
        file.display(),
        made["release"],
        text(&made, "version"),
    );
    let said = until_everywhere(&host, &mut made, &arguments.changing, said).await?;
    Ok(arguments.common.print(&made, said))
}

/// Runs another command, and gives what is to be printed.
///
/// # Errors
/// When the host cannot be reached or refuses; the text says why.
pub async fn run(command: Command, environment: &[(String, String)]) -> Result<String> {
    let nothing = Bytes::new;
    match command {
        Command::Ps { common } => {
            let host = common.host(environment)?;
            let guests = host.ask(&Method::GET, "/admin/v1/guests", nothing()).await?;
            Ok(common.print(&guests, show::guests(&guests)))
        }
        Command::Hosts { common } => {
            let host = common.host(environment)?;
            let hosts = host.ask(&Method::GET, "/admin/v1/hosts", nothing()).await?;
            Ok(common.print(&hosts, show::hosts(&hosts)))
        }
        Command::History { guest, limit, common } => {
            let host = common.host(environment)?;
            let path = format!("/admin/v1/guests/{}/history?limit={limit}", escape(&guest));
            let entries = host.ask(&Method::GET, &path, nothing()).await?;
            Ok(common.print(&entries, show::history(&entries)))
        }
        Command::Rollback { guest, to, changing, common } => {
            let host = common.host(environment)?;
            let path = format!("/admin/v1/guests/{}/rollback", escape(&guest));
            let asked = json!({"to": to, "note": changing.note});
            let mut made = host.ask(&Method::POST, &path, asked.to_string().into()).await?;
            let said = format!(
                "'{guest}' is at release {} again, version {}",
                made["release"],
                text(&made, "version"),
            );
            let said = until_everywhere(&host, &mut made, &changing, said).await?;
            Ok(common.print(&made, said))
        }
        Command::Remove { guest, changing, common } => {
            let host = common.host(environment)?;
            let path = format!("/admin/v1/guests/{}", escape(&guest));
            let asked = json!({"note": changing.note});
            let mut made = host.ask(&Method::DELETE, &path, asked.to_string().into()).await?;
            let said = format!("'{guest}' is as tally.toml has it, if it does");
            let said = until_everywhere(&host, &mut made, &changing, said).await?;
            Ok(common.print(&made, said))
        }
    }
}

impl Common {
    fn host(&self, environment: &[(String, String)]) -> Result<Host<'_>> {
        let token = client::token(environment, self.admin_token_file.as_deref())?;
        Host::parse(&self.admin, token)
    }

    fn print(&self, value: &Value, text: String) -> String {
        match self.json {
            true => format!("{value:#}"),
            false => text,
        }
    }
}

/// What the flags say of the guest's settings, and null where they say nothing.
fn settings(arguments: &Deploy) -> Result<Value> {
    let mut settings = match &arguments.settings {
        Some(file) => settings_of(file)?,
        None => Map::new(),
    };
    let route =
        [("prefix", &arguments.prefix), ("path", &arguments.path), ("host", &arguments.host)];
    for (key, value) in route {
        if let Some(value) = value {
            settings.insert(key.into(), json!(value));
        }
    }
    if !arguments.env.is_empty() {
        let mut all = BTreeMap::new();
        for pair in &arguments.env {
            let Some((name, value)) = pair.split_once('=').filter(|(name, _)| !name.is_empty())
            else {
                bail!("--env {pair}: write NAME=VALUE");
            };
            all.insert(name, value);
        }
        settings.insert("env".into(), json!(all));
    }
    Ok(if settings.is_empty() { Value::Null } else { Value::Object(settings) })
}

fn settings_of(file: &Path) -> Result<Map<String, Value>> {
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("cannot read the settings {}", file.display()))?;
    let table: toml::Table =
        text.parse().with_context(|| format!("the settings {}", file.display()))?;
    match serde_json::to_value(table)? {
        Value::Object(settings) => Ok(settings),
        _ => bail!("the settings {}: no table", file.display()),
    }
}

/// Waits until a change runs on all hosts, and tells of its progress on standard error.
async fn until_everywhere(
    host: &Host<'_>,
    made: &mut Value,
    changing: &Changing,
    said: String,
) -> Result<String> {
    let started = Instant::now();
    let path = format!("/admin/v1/rollouts/{}", made["revision"]);
    let mut told = BTreeMap::new();
    let hosts = loop {
        let rollout = host.ask(&Method::GET, &path, Bytes::new()).await?;
        let hosts = rollout["hosts"].as_array().cloned().unwrap_or_default();
        for host in &hosts {
            let state = (text(host, "state").to_owned(), text(host, "reason").to_owned());
            let name = text(host, "host").to_owned();
            if told.get(&name) != Some(&state) {
                let reason = if state.1.is_empty() { "" } else { ": " };
                // Standard error may be closed; the end is told elsewhere.
                let _ = writeln!(std::io::stderr(), "{name}  {}{reason}{}", state.0, state.1);
                told.insert(name, state);
            }
        }
        if rollout["over"] == true {
            break hosts;
        }
        if started.elapsed() >= changing.timeout.0 {
            let left =
                hosts.iter().filter(|host| !["runs", "failed"].contains(&text(host, "state")));
            let left: Vec<&str> = left.map(|host| text(host, "host")).collect();
            bail!(
                "{said}; after {:?} these hosts do not run it yet: {}",
                changing.timeout.0,
                left.join(", ")
            );
        }
        tokio::time::sleep(LOOK).await;
    };
    let failed: Vec<String> = hosts
        .iter()
        .filter(|host| text(host, "state") == "failed")
        .map(|host| {
            format!("{} ({}): {}", text(host, "host"), text(host, "admin"), text(host, "reason"))
        })
        .collect();
    if !failed.is_empty() {
        bail!(
            "{said}; these hosts cannot run it, and go on with the one before: {}; `tally rollback` takes it back",
            failed.join("; ")
        );
    }
    let milliseconds = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    let milliseconds =
        milliseconds.saturating_add(made["milliseconds"].as_u64().unwrap_or_default());
    let count = hosts.len();
    let mut said = format!(
        "{said}, on {count} {} after {milliseconds} ms",
        if count == 1 { "host" } else { "hosts" }
    );
    for note in made["notes"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        said.push('\n');
        said.push_str(note);
    }
    if let Some(made) = made.as_object_mut() {
        made.insert("hosts".into(), hosts.into());
        made.insert("milliseconds".into(), milliseconds.into());
    }
    Ok(said)
}

/// The guest of a host that has but one.
async fn only_guest(host: &Host<'_>) -> Result<String> {
    let guests = host.ask(&Method::GET, "/admin/v1/guests", Bytes::new()).await?;
    let names: Vec<&str> =
        guests.as_array().into_iter().flatten().map(|guest| text(guest, "name")).collect();
    match names.as_slice() {
        [name] => Ok((*name).to_owned()),
        [] => bail!(
            "the host has no guest; name the new one with --guest, and say with --prefix, --path or --host which requests it takes"
        ),
        names => {
            bail!("the host has several guests; choose one with --guest: {}", names.join(", "))
        }
    }
}

fn escape(name: &str) -> String {
    utf8_percent_encode(name, NON_ALPHANUMERIC).to_string()
}

/// A text of an object, or none.
fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}
