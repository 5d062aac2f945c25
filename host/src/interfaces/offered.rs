//! Which interfaces guests may import, and what would help with those that they may not.

use super::labels::LABELLED;

/// The name of an interface, as components have it: `package:name/interface@version`. With a label, as WIT
/// has it: `label: package:name/interface@version`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Interface<'a> {
    /// The name that the component imports it by, if that is one of its own.
    pub(crate) label: Option<&'a str>,
    /// The name without the version.
    pub(crate) base: &'a str,
    /// Empty, if it has none.
    pub(crate) version: &'a str,
}

impl<'a> Interface<'a> {
    pub(crate) fn of(name: &'a str) -> Self {
        let (label, name) = match name.split_once(": ") {
            Some((label, name)) => (Some(label), name),
            None => (None, name),
        };
        let (base, version) = name.split_once('@').unwrap_or((name, ""));
        Self { label, base, version }
    }

    fn package(self) -> &'a str {
        self.base.split_once('/').map_or(self.base, |(package, _)| package)
    }

    /// Whether its version is one of WASI 0.2 as it was released: candidates before it had other types.
    pub(crate) fn is_release(self) -> bool {
        self.version.starts_with("0.2.") && !self.version.contains('-')
    }

    /// Whether its version is one of WASI 0.3: a release, or the candidate that is the same but for its name.
    pub(crate) fn is_of_0_3(self) -> bool {
        // What follows a plus sign is no part of the version (https://semver.org).
        let version = self.version.split('+').next().unwrap_or_default();
        (version.starts_with("0.3.") && !version.contains('-')) || self.is_candidate()
    }

    /// Whether it is of WASI 0.3's last candidate, whose interfaces are those of the release to the letter. Spin's
    /// tools export it.
    pub(crate) fn is_candidate(self) -> bool {
        self.version == CANDIDATE
    }
}

/// The interfaces every guest may import: a package or an interface, and the versions of it that
/// match. Releases match by their compatible range, drafts to the letter.
pub(super) const OFFERED: [(&str, &[&str]); 28] = [
    ("tally:plugin/request-headers", &["0.1."]),
    ("tally:plugin/worker", &["0.1."]),
    ("tally:keyvalue/extensions", &["0.1."]),
    ("wasi:keyvalue/store", KEYVALUE),
    ("wasi:keyvalue/atomics", KEYVALUE),
    ("wasi:keyvalue/batch", KEYVALUE),
    ("fermyon:spin/key-value", &["2.0.0"]),
    ("fermyon:spin/variables", &["2.0.0"]),
    ("fermyon:spin/sqlite", &["2.0.0"]),
    ("fermyon:spin/redis", &["2.0.0"]),
    ("fermyon:spin/rdbms-types", &["2.0.0"]),
    ("fermyon:spin/postgres", &["2.0.0"]),
    ("spin:postgres/postgres", &["3.0.0", "4."]),
    ("spin:sqlite/sqlite", &["3."]),
    ("wasi:blobstore/blobstore", &["0.2.0-draft"]),
    ("wasi:blobstore/container", &["0.2.0-draft"]),
    ("wasi:blobstore/types", &["0.2.0-draft"]),
    ("wasi:config/store", &["0.2.0-rc.1", "0.2.0-draft-2024-09-27"]),
    ("wasi:logging/logging", &["", "0.1.0-draft"]),
    ("wasi:http/types", RELEASE),
    ("wasi:http/outgoing-handler", RELEASE),
    ("wasi:cli", RELEASE),
    ("wasi:clocks/monotonic-clock", RELEASE),
    ("wasi:clocks/wall-clock", RELEASE),
    ("wasi:io", RELEASE),
    ("wasi:random", RELEASE),
    // Linked so that standard libraries load; what they give access to is configured.
    ("wasi:filesystem", RELEASE),
    ("wasi:sockets", RELEASE),
];

/// What guests of WASI 0.3 may import besides: their functions are all `async`.
pub(super) const CONCURRENT: [(&str, &[&str]); 8] = [
    ("spin:key-value/key-value", &["3."]),
    ("spin:variables/variables", &["3."]),
    ("spin:redis/redis", &["3."]),
    ("wasmcloud:keyvalue/types", &["0.2.0"]),
    ("wasmcloud:keyvalue/store", &["0.2.0"]),
    ("wasmcloud:keyvalue/atomics", &["0.2.0"]),
    ("wasmcloud:keyvalue/cas", &["0.2.0"]),
    ("wasmcloud:keyvalue/batch", &["0.2.0"]),
];

/// WASI 0.2, any patch version.
const RELEASE: &[&str] = &["0.2."];

/// WASI 0.3, which guests of it may import besides.
pub(super) const OFFERED_0_3: [(&str, &[&str]); 7] = [
    ("wasi:http/types", RELEASE_0_3),
    ("wasi:http/client", RELEASE_0_3),
    ("wasi:cli", RELEASE_0_3),
    ("wasi:clocks", RELEASE_0_3),
    ("wasi:random", RELEASE_0_3),
    // As in 0.2.
    ("wasi:filesystem", RELEASE_0_3),
    ("wasi:sockets", RELEASE_0_3),
];

/// WASI 0.3, any patch version, and its last candidate.
const RELEASE_0_3: &[&str] = &["0.3.", CANDIDATE];

/// The last candidate for WASI 0.3.
const CANDIDATE: &str = "0.3.0-rc-2026-03-15";

/// The drafts of `wasi:keyvalue` that are in use.
const KEYVALUE: &[&str] = &["0.2.0-draft", "0.2.0-draft2"];

/// What there is of Spin's own interfaces.
const SPIN: &str =
    "Spin's own; of these, this host offers key-value, variables, sqlite, redis and postgres";

/// Whether guests of all worlds may import this.
pub(crate) fn is_offered(import: Interface<'_>) -> bool {
    is_listed(&OFFERED, import)
}

fn is_listed(list: &[(&str, &[&str])], import: Interface<'_>) -> bool {
    let (base, package) = (import.base, import.package());
    if import.label.is_some() && !LABELLED.contains(&base) {
        return false;
    }
    list.iter().filter(|(offered, _)| *offered == base || *offered == package).any(
        |(_, versions)| {
            versions.iter().any(|offered| match *offered {
                "0.2." => import.is_release(),
                "0.3." => import.is_of_0_3(),
                range if range.ends_with('.') => import.version.starts_with(range),
                exact => import.version == exact,
            })
        },
    )
}

/// Whether guests of WASI 0.3 may import this.
pub(crate) fn is_offered_to_0_3(import: Interface<'_>) -> bool {
    is_offered(import) || is_listed(&CONCURRENT, import) || is_listed(&OFFERED_0_3, import)
}

/// Whether a guest may have several calls of its functions on their way at a time.
pub(crate) fn runs_concurrently(import: Interface<'_>) -> bool {
    match import.package() {
        "wasi:keyvalue" => import.version == "0.2.0-draft2",
        "tally:keyvalue" => import.version.starts_with("0.1."),
        _ => false,
    }
}

/// What would help with an import that this host does not offer.
pub(crate) fn advice(import: Interface<'_>) -> Option<&'static str> {
    let Interface { base, version, .. } = import;
    if import.label.is_some() && is_offered(Interface { label: None, ..import }) {
        return Some("this host takes labels for stores alone; import it by its own name");
    }
    Some(match import.package() {
        "wasi:keyvalue" => "this host offers wasi:keyvalue 0.2.0-draft and 0.2.0-draft2",
        "wasi:config" => {
            "this host offers wasi:config/store@0.2.0-rc.1 and @0.2.0-draft-2024-09-27"
        }
        "wasi:logging" => "this host offers wasi:logging/logging, without a version or 0.1.0-draft",
        "tally:plugin" => {
            "this host offers tally:plugin 0.1; build the guest with this host's wit/"
        }
        "wasi:http" if base == "wasi:http/handler" => {
            "by this a middleware calls the guest behind it; name this component as middleware of a guest"
        }
        "wasi:http" | "wasi:cli" | "wasi:clocks" | "wasi:io" | "wasi:random"
        | "wasi:filesystem" | "wasi:sockets" => match version.starts_with("0.3") {
            true => {
                "of WASI 0.3; this host offers the releases of 0.3, and 0.3.0-rc-2026-03-15, to a guest that exports wasi:http/handler of it"
            }
            false => "this host offers the releases of WASI 0.2",
        },
        "wasi:blobstore" => "this host offers wasi:blobstore 0.2.0-draft",
        "wasi:messaging" | "wasi:nn" | "wasi:sql" | "wasi:tls" => {
            "not offered; reach such a service over outgoing HTTP"
        }
        "fermyon:spin" => match base {
            "fermyon:spin/key-value" => "this host offers fermyon:spin/key-value@2.0.0",
            _ => SPIN,
        },
        "spin:key-value" | "spin:variables" | "spin:redis" => {
            "this host offers version 3 to guests of WASI 0.3; with WASI 0.2, use fermyon:spin"
        }
        package if package.starts_with("spin:") => SPIN,
        "wasmcloud:keyvalue" => {
            "this host offers wasmcloud:keyvalue 0.2.0 to guests of WASI 0.3; use wasi:keyvalue with WASI 0.2"
        }
        package if package.starts_with("wasmcloud:") => {
            "wasmCloud's own; use wasi:keyvalue, wasi:blobstore and wasi:http"
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_release_of_wasi_matches_and_drafts_match_to_the_letter() {
        for (import, offered) in [
            ("wasi:io/streams@0.2.0", true),
            ("wasi:io/streams@0.2.12", true),
            ("wasi:io/streams@0.3.0", false),
            ("wasi:io/streams@0.2.0-rc-2023-11-10", false),
            ("wasi:http/types@0.2.3", true),
            ("wasi:clocks/wall-clock@0.2.3", true),
            ("wasi:clocks/timezone@0.2.3", false),
            ("wasi:keyvalue/store@0.2.0-draft", true),
            ("wasi:keyvalue/store@0.2.0-draft2", true),
            ("wasi:keyvalue/store@0.2.0-draft3", false),
            ("wasi:keyvalue/watcher@0.2.0-draft2", false),
            ("wasi:logging/logging", true),
            ("wasi:logging/logging@0.1.0-draft", true),
            ("wasi:config/store@0.2.0-rc.1", true),
            ("fermyon:spin/key-value@2.0.0", true),
            ("wasi:config/store@0.2.0-draft-2024-09-27", true),
            ("fermyon:spin/variables@2.0.0", true),
            ("fermyon:spin/sqlite@2.0.0", true),
            ("spin:sqlite/sqlite@3.0.0", true),
            ("spin:sqlite/sqlite@4.0.0", false),
            ("spin:postgres/postgres@3.0.0", true),
            ("spin:postgres/postgres@4.2.0", true),
            ("spin:postgres/postgres@5.0.0", false),
            ("fermyon:spin/mysql@2.0.0", false),
            ("team-a: wasi:keyvalue/store@0.2.0-draft2", true),
            ("team-a: wasi:keyvalue/store@0.2.0-draft3", false),
            ("team-a: wasi:keyvalue/atomics@0.2.0-draft2", false),
        ] {
            assert_eq!(is_offered(Interface::of(import)), offered, "{import}");
        }
    }

    #[test]
    fn guests_of_0_3_may_import_it_and_what_all_may() {
        for (import, offered) in [
            ("wasi:http/types@0.3.0", true),
            ("wasi:http/client@0.3.17", true),
            ("wasi:http/types@0.3.0-rc-2026-03-15", true),
            ("wasi:http/types@0.3.0-rc-2026-02-01", false),
            ("wasi:http/types@0.3.0+rc-2026-03-15", true),
            ("wasi:http/handler@0.3.0", false),
            ("wasi:clocks/system-clock@0.3.2", true),
            ("wasi:io/streams@0.3.0", false),
            ("wasi:io/streams@0.2.6", true),
            ("wasi:keyvalue/store@0.2.0-draft2", true),
        ] {
            assert_eq!(is_offered_to_0_3(Interface::of(import)), offered, "{import}");
        }
    }
}
