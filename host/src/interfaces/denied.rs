//! What a guest wanted and may not have, logged once with the setting that would allow it.

use std::{
    collections::HashSet,
    fmt::Display,
    net::SocketAddr,
    sync::{LazyLock, Mutex, PoisonError},
};

use super::{RESERVED, Settings};

/// Denials that are remembered, of all guests: names are made up by guests. Beyond, none is logged any more.
const MOST_DENIED: usize = 1_000;

/// Bytes of a name that are logged.
const NAME_BYTES: usize = 100;

/// Denials that were logged: the guest, and what it wanted.
static LOGGED: LazyLock<Mutex<HashSet<(String, String)>>> = LazyLock::new(Mutex::default);

/// Logs that a guest wanted something, unless that was logged before.
fn log(settings: &Settings, wanted: String, advice: &dyn Display) {
    let guest = settings.name.to_string();
    let mut logged = LOGGED.lock().unwrap_or_else(PoisonError::into_inner);
    if logged.len() < MOST_DENIED && logged.insert((guest, wanted.clone())) {
        drop(logged);
        tracing::warn!(guest = %settings.name, "the guest may not {wanted}; {advice}");
    }
}

/// A name as it can be logged.
fn shown(name: &str) -> String {
    name.get(..name.floor_char_boundary(NAME_BYTES)).unwrap_or_default().escape_debug().to_string()
}

/// A bucket that the guest may not open.
pub(super) fn bucket(settings: &Settings, name: &str) {
    let shown = shown(name);
    let wanted = format!("open the bucket '{shown}'");
    if name.starts_with(RESERVED) {
        let advice = format!("names that begin with '{RESERVED}' are the host's own");
        return log(settings, wanted, &advice);
    }
    let has: Vec<_> =
        settings.buckets.names().chain([&*shown]).map(|n| format!("\"{n}\"")).collect();
    let advice = format!("to let it, configure buckets = [{}]", has.join(", "));
    log(settings, wanted, &advice);
}

/// An address that the guest may not connect to.
pub(super) fn connection(settings: &Settings, address: SocketAddr) {
    let wanted = format!("connect to {address}");
    log(
        settings,
        wanted,
        &format_args!(
            "to let it, add \"{address}\" to its tcp, and if that is a private address set outgoing-private"
        ),
    );
}

/// A name that the guest may not ask for.
pub(super) fn name(settings: &Settings, name: &str) {
    let shown = shown(name);
    let advice = format!("to let it connect there, add \"{shown}:PORT\" to its tcp");
    log(settings, format!("look up the name '{shown}'"), &advice);
}

/// A name at an address that is not public.
pub(super) fn private(settings: &Settings, name: &str) {
    let shown = shown(name);
    let advice = "to let it, set outgoing-private = true";
    log(settings, format!("connect to '{shown}', which is at a private address"), &advice);
}
