//! Logs what a guest asked for and may not have, once, with the setting that would allow it.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::{Arc, LazyLock, Mutex, PoisonError},
};

use super::{RESERVED, Settings};

/// Denials of one guest that are logged: guests make up names.
const MOST_DENIALS: usize = 100;

/// Guests whose denials are logged, which bounds what is remembered.
const MOST_GUESTS: usize = 1_000;

/// Bytes of a name that are logged.
const NAME_BYTES: usize = 100;

/// What was logged, by the guest's name.
static LOGGED: LazyLock<Mutex<HashMap<Arc<str>, HashSet<String>>>> = LazyLock::new(Mutex::default);

/// Logs that a guest may not do something, unless that was logged before.
fn log(settings: &Settings, wanted: String, advice: &str) {
    if is_new(&settings.name, &wanted) {
        tracing::warn!(guest = %settings.name, "the guest may not {wanted}; {advice}");
    }
}

fn is_new(guest: &Arc<str>, wanted: &str) -> bool {
    let mut logged = LOGGED.lock().unwrap_or_else(PoisonError::into_inner);
    if !logged.contains_key(guest) && logged.len() >= MOST_GUESTS {
        return false;
    }
    let denials = logged.entry(Arc::clone(guest)).or_default();
    denials.len() < MOST_DENIALS && denials.insert(wanted.to_owned())
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
        let advice = format!("names that begin with '{RESERVED}' are reserved for the host");
        return log(settings, wanted, &advice);
    }
    let entries = settings.buckets.entries().chain([shown]);
    let entries: Vec<_> = entries.map(|entry| format!("\"{entry}\"")).collect();
    let advice = format!("to allow it, configure buckets = [{}]", entries.join(", "));
    log(settings, wanted, &advice);
}

/// An address that the guest may not connect to.
pub(super) fn connection(settings: &Settings, address: SocketAddr) {
    let advice = format!(
        "to allow it, add \"{address}\" or the server's name to its tcp, and for a private address set outgoing-private = true"
    );
    log(settings, format!("connect to {address}"), &advice);
}

/// A name that the guest may not look up.
pub(super) fn name(settings: &Settings, name: &str) {
    let shown = shown(name);
    let advice = format!("to allow a connection, add \"{shown}:PORT\" to its tcp");
    log(settings, format!("look up the name '{shown}'"), &advice);
}

/// A name whose address is not public.
pub(super) fn private(settings: &Settings, name: &str) {
    let wanted = format!("connect to '{}', which has a private address", shown(name));
    log(settings, wanted, "to allow it, set outgoing-private = true");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_that_makes_up_names_is_logged_for_some_and_hides_no_other() {
        let guest: Arc<str> = "a guest of this test".into();
        let new = (0..1_000).filter(|number| is_new(&guest, &number.to_string())).count();
        assert_eq!(new, MOST_DENIALS);
        let other: Arc<str> = "another of this test".into();
        assert!(is_new(&other, "0"));
        assert!(!is_new(&other, "0"), "once");
        assert_eq!(shown(&"ü\n".repeat(NAME_BYTES)).matches("\\n").count(), 33);
    }
}
