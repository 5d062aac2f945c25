//! Settings of guests that are deployed: what a release says, over what the file of settings says of the guest.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{
    ConfigError,
    guests::{GuestConfig, GuestOptions, RouteOptions, check_release_keys},
};
use crate::interfaces::Known;

/// What a release says of its guest's settings. What it leaves open is as in the file of settings of each host.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ReleaseSettings {
    /// The host of its route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The one path of its route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The path of its route, with all below it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// Whether only other guests reach it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub internal: Option<bool>,
    /// What the guest may have.
    #[serde(flatten)]
    pub options: GuestOptions,
}

impl ReleaseSettings {
    /// Reads settings from JSON.
    ///
    /// # Errors
    /// For an unknown key, or a value of the wrong type.
    pub(crate) fn parse(value: serde_json::Value) -> Result<Self, ConfigError> {
        let object = value
            .as_object()
            .ok_or_else(|| ConfigError("settings: an object, as {\"prefix\": \"/api\"}".into()))?;
        check_release_keys(object.keys())?;
        serde_json::from_value(value).map_err(|error| ConfigError(format!("settings: {error}")))
    }

    /// Whether these say which requests the guest takes.
    pub(crate) fn has_route(&self) -> bool {
        self.host.is_some()
            || self.path.is_some()
            || self.prefix.is_some()
            || self.internal.is_some()
    }

    /// These, and where they leave something open, the others. A route is taken over as a whole.
    #[must_use]
    pub(crate) fn or(self, others: Self) -> Self {
        let route = if self.has_route() { self.clone() } else { others.clone() };
        Self {
            host: route.host,
            path: route.path,
            prefix: route.prefix,
            internal: route.internal,
            options: self.options.or(others.options),
        }
    }
}

/// What guests get that are deployed, besides what their releases say.
#[derive(Clone, Debug)]
pub struct ReleaseConfig {
    /// How often the store is asked for changes.
    pub follow_interval: Duration,
    /// Releases of a guest that are kept.
    pub keep: usize,
    /// The folder in which releases that run are kept.
    pub dir: Option<PathBuf>,
    /// Whether the host starts without a guest.
    pub start_empty: bool,
    /// What guests have that no route of the file names.
    pub(super) defaults: GuestOptions,
    /// The folder of databases.
    pub(super) databases: Option<PathBuf>,
    /// What all guests list in the file.
    pub(super) known: Arc<Known>,
    /// Bytes that bodies and responses of one guest may take.
    pub(super) bodies: usize,
    pub(super) responses: usize,
    pub(super) window: Duration,
}

impl ReleaseConfig {
    /// The guest that a release makes, of a name that the file may have an entry for. References are looked up in
    /// the environment of this process.
    ///
    /// # Errors
    /// [`ConfigError`]: this host cannot run the release so.
    pub(crate) fn guest(
        &self,
        name: &str,
        file: Option<&GuestConfig>,
        settings: &ReleaseSettings,
    ) -> Result<GuestConfig, ConfigError> {
        let mut settings = settings.clone();
        if settings.options.files.is_some() {
            return Err(ConfigError(
                "files: directories of a host are given by its tally.toml alone".into(),
            ));
        }
        for values in [&mut settings.options.env, &mut settings.options.settings] {
            resolve_references(values)?;
        }
        let mut guest = match file {
            Some(file) => {
                let written = &file.written;
                let of_file = ReleaseSettings {
                    host: written.host.clone(),
                    path: written.path.clone(),
                    prefix: written.prefix.clone(),
                    internal: written.internal,
                    options: written.options.clone(),
                };
                settings.or(of_file).guest(name)?
            }
            None => {
                let defaults = ReleaseSettings {
                    options: GuestOptions {
                        buckets: Some(vec![format!("default={name}")]),
                        ..self.defaults.clone()
                    },
                    ..ReleaseSettings::default()
                };
                settings.or(defaults).guest(name)?
            }
        };
        guest.buckets.know(&self.known);
        guest.find_databases(self.databases.as_deref())?;
        guest.limits.bodies = self.bodies;
        guest.limits.responses = self.responses;
        guest.limits.window = self.window;
        Ok(guest)
    }
}

impl ReleaseSettings {
    fn guest(self, name: &str) -> Result<GuestConfig, ConfigError> {
        let route = RouteOptions {
            name: Some(name.to_owned()),
            host: self.host,
            path: self.path,
            prefix: self.prefix,
            internal: self.internal,
            guest: PathBuf::new(),
            options: self.options,
        };
        route.resolve(name.to_owned())
    }
}

/// The folder for releases that run, beside the compiled code of guests in the user's cache: one for each store that
/// may be away when the host starts. None where there is no folder for caches.
pub(super) fn folder(configured: Option<PathBuf>, store: &str) -> Option<PathBuf> {
    // A file is there when the host is, and memory is empty.
    if store.starts_with("sqlite:") || store.starts_with("memory:") {
        return None;
    }
    let of =
        |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let in_cache = || {
        let cache = of("XDG_CACHE_HOME").or_else(|| Some(of("HOME")?.join(".cache")))?;
        Some(cache.join("tally").join("releases"))
    };
    let folder = configured.or_else(in_cache)?;
    // The address has no place in a file's name, and may hold a password.
    let digest = Sha256::digest(store.as_bytes());
    let name: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    Some(folder.join(name))
}

/// Puts what `${NAME}` stands for in its place: a variable of this process. `$$` is a dollar.
fn resolve_references(values: &mut BTreeMap<String, String>) -> Result<(), ConfigError> {
    for (key, value) in values {
        let mut resolved = String::with_capacity(value.len());
        let mut rest = value.as_str();
        while let Some((before, after)) = rest.split_once('$') {
            resolved.push_str(before);
            if let Some(after) = after.strip_prefix('$') {
                resolved.push('$');
                rest = after;
            } else if let Some((name, after)) =
                after.strip_prefix('{').and_then(|after| after.split_once('}'))
            {
                // The host's own settings, with the store's password and the admin token among them.
                if name.starts_with("TALLY_") {
                    return Err(ConfigError(format!(
                        "{key}: ${{{name}}} is a setting of the host, which guests do not get"
                    )));
                }
                let variable = std::env::var(name).map_err(|_| {
                    ConfigError(format!(
                        "{key}: this host has no environment variable {name} for ${{{name}}}; write $$ for a dollar"
                    ))
                })?;
                resolved.push_str(&variable);
                rest = after;
            } else {
                resolved.push('$');
                rest = after;
            }
        }
        resolved.push_str(rest);
        *value = resolved;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_to_the_environment_and_not_to_the_host_s_own_settings() {
        let resolve = |text: &str| {
            let mut values = BTreeMap::from([("A".to_owned(), text.to_owned())]);
            resolve_references(&mut values).map(|()| values["A"].clone())
        };
        let path = std::env::var("PATH").unwrap();
        assert_eq!(resolve("a ${PATH} b").unwrap(), format!("a {path} b"));
        assert_eq!(resolve("$$5 $x ${").unwrap(), "$5 $x ${");
        for (text, part) in [
            ("${TALLY_STORE}", "guests do not get"),
            ("${NO_SUCH_VARIABLE}", "no environment variable NO_SUCH_VARIABLE"),
        ] {
            let error = resolve(text).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn settings_are_read_from_json_and_written_as_they_were() {
        let text = r#"{"prefix":"/api","pool":7,"cpu-limit":"5ms","env":{"A":"${B}"}}"#;
        let settings = ReleaseSettings::parse(serde_json::from_str(text).unwrap()).unwrap();
        assert_eq!(settings.options.pool, Some(7));
        let again = serde_json::to_value(&settings).unwrap();
        assert_eq!(ReleaseSettings::parse(again).unwrap(), settings);
        for (text, part) in [
            (r#"{"prefx":"/api"}"#, "'prefix'"),
            (r#"{"guest":"a.wasm"}"#, "unknown"),
            (r#"{"pool":"many"}"#, "settings: "),
            ("[]", "an object"),
        ] {
            let error = ReleaseSettings::parse(serde_json::from_str(text).unwrap()).unwrap_err();
            assert!(error.to_string().contains(part), "{error}");
        }
    }

    #[test]
    fn a_route_is_taken_over_as_a_whole() {
        let of = |text: &str| ReleaseSettings::parse(serde_json::from_str(text).unwrap()).unwrap();
        let (new, old) = (of(r#"{"path":"/a"}"#), of(r#"{"host":"h","prefix":"/b","pool":3}"#));
        let both = new.or(old.clone());
        assert_eq!((both.host, both.path.as_deref(), both.prefix), (None, Some("/a"), None));
        assert_eq!(both.options.pool, Some(3));
        assert_eq!(of(r#"{"pool":4}"#).or(old).prefix.as_deref(), Some("/b"));
    }
}
