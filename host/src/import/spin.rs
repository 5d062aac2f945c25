//! Spin's manifest, version 2 (<https://spinframework.dev/v3/manifest-reference>).
//!
//! In Spin, stores and databases are the application's: what two components open by one name is one.

use std::{
    collections::{BTreeMap, HashSet},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use toml::{Table, Value};

use super::{Imported, outgoing};
use crate::config::{GuestOptions, RouteOptions};

/// Keys of a component that only matter to those who build it.
const OF_BUILDING: [&str; 6] = ["build", "description", "tool", "targets", "profile", "watch"];

#[derive(Deserialize)]
struct Manifest {
    #[serde(default)]
    application: Application,
    #[serde(default)]
    variables: BTreeMap<String, Variable>,
    #[serde(default)]
    trigger: BTreeMap<String, Vec<Value>>,
    #[serde(default)]
    component: BTreeMap<String, Component>,
}

#[derive(Default, Deserialize)]
struct Application {
    #[serde(default)]
    trigger: BTreeMap<String, Table>,
}

/// A value that the application's user may give.
#[derive(Deserialize)]
struct Variable {
    default: Option<String>,
}

#[derive(Deserialize)]
struct Trigger {
    component: Option<Named>,
    route: Option<Route>,
    #[serde(default)]
    executor: Table,
    #[serde(default)]
    components: Around,
    /// What else there is.
    #[serde(flatten)]
    others: Table,
}

/// Components of a trigger besides its own.
#[derive(Default, Deserialize)]
struct Around {
    /// What requests pass before the component, the outermost first.
    #[serde(default)]
    middleware: Vec<Named>,
    /// What else there is.
    #[serde(flatten)]
    others: Table,
}

/// A component, or its name.
#[derive(Deserialize)]
#[serde(untagged)]
enum Named {
    Name(String),
    Inline(Box<Component>),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Route {
    Path(String),
    Private { private: bool },
}

#[derive(Clone, Deserialize)]
struct Component {
    source: Value,
    #[serde(default)]
    environment: BTreeMap<String, String>,
    #[serde(default)]
    variables: BTreeMap<String, String>,
    #[serde(default)]
    key_value_stores: Vec<String>,
    #[serde(default)]
    sqlite_databases: Vec<String>,
    #[serde(default)]
    allowed_outbound_hosts: Vec<String>,
    #[serde(default)]
    files: Vec<Mapped>,
    /// What else there is.
    #[serde(flatten)]
    others: Table,
}

/// Files that a component reads.
#[derive(Clone, Deserialize)]
#[serde(untagged)]
enum Mapped {
    /// A folder, and the path that the component finds it at.
    Folder { source: PathBuf, destination: String },
    /// Files by a pattern.
    Pattern(String),
}

/// Reads a manifest. `sources` is what its paths are put behind.
///
/// # Errors
/// When it is not a manifest of version 2.
pub(super) fn read(text: &str, sources: &Path) -> Result<Imported> {
    let table: Table = text.parse()?;
    match table.get("spin_manifest_version") {
        Some(Value::Integer(2)) => {}
        None if !table.contains_key("spin_version") => {
            bail!("this is no manifest of Spin: it has no spin_manifest_version")
        }
        _ => bail!(
            "only version 2 of Spin's manifest can be read; 'spin doctor' brings others to it"
        ),
    }
    let manifest: Manifest = table.try_into()?;
    let mut reading =
        Reading { manifest, sources, imported: Imported::default(), names: HashSet::new() };
    reading.read()?;
    Ok(reading.imported)
}

struct Reading<'a> {
    manifest: Manifest,
    sources: &'a Path,
    imported: Imported,
    /// Names of guests.
    names: HashSet<String>,
}

impl Reading<'_> {
    fn note(&mut self, note: impl Into<String>) {
        let note = note.into();
        // Of a component with several routes once.
        if !self.imported.notes.contains(&note) {
            self.imported.notes.push(note);
        }
    }

    fn read(&mut self) -> Result<()> {
        let base = self.manifest.application.trigger.get("http");
        let base = base.and_then(|http| http.get("base")).and_then(Value::as_str);
        let base = base.unwrap_or_default().trim_end_matches('/').to_owned();
        let mut served = HashSet::new();
        for (kind, triggers) in std::mem::take(&mut self.manifest.trigger) {
            if kind != "http" {
                self.note(format!(
                    "{} of {kind}: there are no triggers but those of HTTP",
                    many(triggers.len(), "trigger")
                ));
                continue;
            }
            for (number, trigger) in (1..).zip(triggers) {
                let place = format!("HTTP trigger {number}");
                let trigger: Trigger = trigger.try_into().with_context(|| place.clone())?;
                self.trigger(&place, &base, trigger, &mut served)?;
            }
        }
        let unused = self.manifest.component.keys().filter(|name| !served.contains(*name));
        let unused: Vec<_> =
            unused.map(|name| format!("component {name}: no HTTP trigger is for it")).collect();
        unused.into_iter().for_each(|note| self.note(note));
        Ok(())
    }

    fn trigger(
        &mut self,
        place: &str,
        base: &str,
        trigger: Trigger,
        served: &mut HashSet<String>,
    ) -> Result<()> {
        let (name, component) = match trigger.component {
            Some(Named::Name(name)) => {
                let component = self.manifest.component.get(&name);
                let component = component.with_context(|| {
                    format!("{place} is for component {name}, which is not there")
                })?;
                (name.clone(), component.clone())
            }
            Some(Named::Inline(component)) => {
                let id = trigger.others.get("id").and_then(Value::as_str);
                (id.unwrap_or("inline").to_owned(), *component)
            }
            None => {
                self.note(format!("{place}: it has no component"));
                return Ok(());
            }
        };
        served.insert(name.clone());
        if trigger.executor.get("type").and_then(Value::as_str).is_some_and(|kind| kind != "spin") {
            self.note(format!("component {name}: only components that answer wasi:http are run, and no executor of another type"));
            return Ok(());
        }
        for key in trigger.others.keys().filter(|key| *key != "id") {
            self.note(format!("{place}: {key}"));
        }
        for key in trigger.components.others.keys() {
            self.note(format!("{place}: components.{key}"));
        }
        let middleware = self.middleware(place, trigger.components.middleware, served)?;
        let mut route = self.guest(&name, component);
        route.options.middleware = (!middleware.is_empty()).then_some(middleware);
        match trigger.route {
            Some(Route::Path(path)) => {
                let whole = format!("{base}{path}");
                match whole.strip_suffix("/...") {
                    Some("") => route.prefix = Some("/".into()),
                    Some(prefix) => route.prefix = Some(prefix.to_owned()),
                    None => route.path = Some(whole),
                }
            }
            Some(Route::Private { private: true }) => route.internal = Some(true),
            Some(Route::Private { private: false }) | None => {
                self.note(format!("{place}: it has no route"));
                return Ok(());
            }
        }
        self.imported.routes.push(route);
        Ok(())
    }

    /// The files of components that requests pass before another. They have what that one has.
    fn middleware(
        &mut self,
        place: &str,
        components: Vec<Named>,
        served: &mut HashSet<String>,
    ) -> Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        for named in components {
            let (name, component) = match named {
                Named::Name(name) => {
                    let component = self.manifest.component.get(&name).cloned();
                    let component = component.with_context(|| {
                        format!("{place} has middleware {name}, which is not there")
                    })?;
                    (name, component)
                }
                Named::Inline(component) => ("inline".to_owned(), *component),
            };
            served.insert(name.clone());
            let of = format!("middleware {name}");
            let has_its_own = !(component.environment.is_empty()
                && component.variables.is_empty()
                && component.key_value_stores.is_empty()
                && component.sqlite_databases.is_empty()
                && component.allowed_outbound_hosts.is_empty()
                && component.files.is_empty());
            if has_its_own {
                self.note(format!("{of}: a middleware has the variables, stores, hosts and files of the component behind it; add there what it needs"));
            }
            files.push(self.source(&of, &name, component.source));
        }
        Ok(files)
    }

    /// The file of a component.
    fn source(&mut self, of: &str, name: &str, source: Value) -> PathBuf {
        match source {
            Value::String(path) => self.sources.join(path),
            source => {
                let file = format!("{name}.wasm");
                self.note(format!("{of}: source {source}: download it as {file}"));
                file.into()
            }
        }
    }

    /// What a component may have.
    fn guest(&mut self, name: &str, component: Component) -> RouteOptions {
        let of = format!("component {name}");
        for key in component.others.keys().filter(|key| !OF_BUILDING.contains(&key.as_str())) {
            self.note(match key.as_str() {
                "ai_models" => format!("{of}: {key}: there are no models"),
                "dependencies" | "dependencies_inherit_configuration" => {
                    format!("{of}: {key}: compose the component with them, as with 'wac plug', and name the file")
                }
                "allowed_http_hosts" => {
                    format!("{of}: {key}: write them as outgoing-hosts")
                }
                _ => format!("{of}: {key}"),
            });
        }
        let guest = self.source(&of, name, component.source);
        let mut outgoing_hosts: Vec<String> = Vec::new();
        let mut private = None;
        for entry in &component.allowed_outbound_hosts {
            let entry = self.filled(&of, "allowed_outbound_hosts", entry).unwrap_or_default();
            if entry.is_empty() {
                continue;
            }
            match outgoing::read(&entry) {
                Ok(allowed) => {
                    private = private.or(allowed.is_private.then_some(true));
                    allowed.note.into_iter().for_each(|note| self.note(format!("{of}: {note}")));
                    if !outgoing_hosts.contains(&allowed.host) {
                        outgoing_hosts.push(allowed.host);
                    }
                }
                Err(reason) => {
                    self.note(format!("{of}: allowed_outbound_hosts: '{entry}': {reason}"));
                }
            }
        }
        let mut settings = BTreeMap::new();
        for (key, value) in &component.variables {
            if let Some(value) = self.filled(&of, &format!("variables.{key}"), value) {
                settings.insert(key.clone(), value);
            }
        }
        let mut files = Vec::new();
        for mapped in component.files {
            match mapped {
                Mapped::Folder { source, destination } => {
                    files.push(format!("{destination}={}", self.sources.join(source).display()));
                }
                Mapped::Pattern(pattern) => self.note(format!(
                    "{of}: files: '{pattern}': only folders are mapped; write files = [\"/=FOLDER\"]"
                )),
            }
        }
        let some = |list: Vec<String>| (!list.is_empty()).then_some(list);
        // One database of the application, whichever component opens it.
        let shared = component.sqlite_databases.iter().map(|name| format!("{name}={name}"));
        let options = GuestOptions {
            buckets: some(component.key_value_stores),
            sqlite: some(shared.collect()),
            files: some(files),
            outgoing_hosts: some(outgoing_hosts),
            outgoing_private: private,
            env: component.environment,
            settings,
            ..GuestOptions::default()
        };
        let name = self.free_name(name);
        RouteOptions { name: Some(name), guest, options, ..RouteOptions::default() }
    }

    /// A name that no other guest has: a component with several routes is a guest for each.
    fn free_name(&mut self, name: &str) -> String {
        let further = (2_usize..).map(|number| format!("{name}-{number}"));
        let mut names = std::iter::once(name.to_owned()).chain(further);
        let free = names.find(|name| !self.names.contains(name)).unwrap_or_default();
        self.names.insert(free.clone());
        free
    }

    /// A text with the application's variables in the place of `{{ NAME }}`, if all have values.
    fn filled(&mut self, of: &str, key: &str, text: &str) -> Option<String> {
        let mut filled = String::new();
        let mut rest = text;
        while let Some((before, behind)) = rest.split_once("{{") {
            let (name, behind) = behind.split_once("}}")?;
            let name = name.trim();
            filled.push_str(before);
            match self.manifest.variables.get(name) {
                Some(Variable { default: Some(value) }) => filled.push_str(value),
                Some(_) => {
                    self.note(format!(
                        "{of}: {key}: variable {name} has no default; give the value here"
                    ));
                    return None;
                }
                None => {
                    self.note(format!("{of}: {key}: there is no variable {name}"));
                    return None;
                }
            }
            rest = behind;
        }
        filled.push_str(rest);
        Some(filled)
    }
}

/// `1 trigger`, `2 triggers`.
fn many(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    const MANIFEST: &str = r#"
        spin_manifest_version = 2

        [application]
        name = "shop"
        version = "1.0.0"

        [variables]
        greeting = { default = "hello" }
        token = { required = true, secret = true }

        [[trigger.http]]
        route = "/..."
        component = "front"

        [[trigger.http]]
        route = "/users/:id"
        component = "users"

        [[trigger.http]]
        route = "/users/:id/orders/..."
        component = "users"

        [[trigger.http]]
        route = { private = true }
        component = "back"

        [[trigger.http]]
        route = "/old"
        component = { source = "old.wasm" }
        executor = { type = "wagi" }

        [[trigger.redis]]
        channel = "c"
        component = "listener"

        [component.front]
        source = "front.wasm"
        files = ["a.html"]
        allowed_outbound_hosts = ["http://back.spin.internal", "https://api.example.com", "mysql://db"]
        [component.front.build]
        command = "make"

        [component.users]
        source = "target/users.wasm"
        files = [{ source = "assets", destination = "/static" }]
        key_value_stores = ["default", "cache"]
        sqlite_databases = ["default"]
        environment = { MODE = "live" }
        [component.users.variables]
        greeting = "{{ greeting }}, you"
        token = "{{ token }}"

        [component.back]
        source = { url = "https://example.com/back.wasm", digest = "sha256:00" }
        allowed_outbound_hosts = ["redis://localhost"]

        [component.listener]
        source = "listener.wasm"
    "#;

    #[test]
    fn an_application_becomes_routes() {
        let imported = read(MANIFEST, Path::new("")).unwrap();
        let text = config::file_of(imported.routes).unwrap();
        let expected = r#"[[route]]
name = "front"
prefix = "/"
guest = "front.wasm"
outgoing-hosts = ["back.spin.internal", "api.example.com:443"]

[[route]]
name = "users"
path = "/users/:id"
guest = "target/users.wasm"
buckets = ["default", "cache"]
files = ["/static=assets"]
sqlite = ["default=default"]

[route.env]
MODE = "live"

[route.settings]
greeting = "hello, you"

[[route]]
name = "users-2"
prefix = "/users/:id/orders"
guest = "target/users.wasm"
buckets = ["default", "cache"]
files = ["/static=assets"]
sqlite = ["default=default"]

[route.env]
MODE = "live"

[route.settings]
greeting = "hello, you"

[[route]]
name = "back"
internal = true
guest = "back.wasm"
outgoing-hosts = ["localhost:6379"]
outgoing-private = true
"#;
        assert_eq!(text, expected);
    }

    #[test]
    fn what_is_not_carried_over_is_told_once() {
        let notes = read(MANIFEST, Path::new("")).unwrap().notes;
        for part in [
            "component front: files",
            "component front: allowed_outbound_hosts: 'mysql://db': there is no interface for mysql",
            "component users: variables.token: variable token has no default",
            "component back: source { digest",
            "component inline: only components that answer wasi:http",
            "1 trigger of redis",
            "component listener: no HTTP trigger",
        ] {
            assert_eq!(
                notes.iter().filter(|note| note.contains(part)).count(),
                1,
                "{part}: {notes:#?}"
            );
        }
        assert_eq!(notes.len(), 7, "{notes:#?}");
    }

    #[test]
    fn other_files_are_refused_with_what_to_do() {
        for (text, part) in [
            ("a = 1", "no manifest of Spin"),
            ("spin_version = \"1\"", "spin doctor"),
            ("spin_manifest_version = \"1\"", "spin doctor"),
            (
                "spin_manifest_version = 2\n[[trigger.http]]\nroute = '/'\ncomponent = 'a'",
                "not there",
            ),
            ("spin_manifest_version = 2\n[component.a]\n", "source"),
            ("[", "TOML"),
        ] {
            let error = format!("{:#}", read(text, Path::new("")).unwrap_err());
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn paths_have_the_base_of_the_application_and_the_folder_of_the_manifest() {
        let text = "spin_manifest_version = 2\n[application.trigger.http]\nbase = '/shop/'\n\
            [[trigger.http]]\nroute = '/...'\ncomponent = 'a'\n[[trigger.http]]\nroute = '/x'\ncomponent = 'a'\n\
            [component.a]\nsource = 'a.wasm'\n";
        let routes = read(text, Path::new("/app")).unwrap().routes;
        assert_eq!(routes[0].prefix.as_deref(), Some("/shop"));
        assert_eq!(routes[1].path.as_deref(), Some("/shop/x"));
        assert_eq!(routes[1].guest, Path::new("/app/a.wasm"));
    }
}
