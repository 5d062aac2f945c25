//! What clients may use, with the reason for each default.

use std::{fs, time::Duration};

use super::Proxies;

/// Limits on connections and requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections that are served at once; beyond, one waits on each worker, and more in the kernel's
    /// queues. Ten thousand idle ones take little memory; fewer where the limit on open files is lower.
    pub connections: usize,
    /// Largest request head, in bytes: several times what browsers with large cookies send.
    pub head: usize,
    /// Largest request body, in bytes. It is held in memory and copied into the guest's.
    pub body: usize,
    /// Bytes of all bodies that are arriving or being answered. A quarter of a gigabyte is 256 of
    /// the largest, and bounds what many slow clients can pile up.
    pub bodies: usize,
    /// Bytes of all responses that wait for their clients. As for bodies, and half of it for one guest.
    pub responses: usize,
    /// Longest time a connection may take to send a request's head, the first included, or leave what
    /// was sent unread.
    pub head_timeout: Duration,
    /// Longest time a connection may be idle between requests. Longer than common load balancers keep
    /// theirs (60 s), so that they close first and never send a request to a connection that is
    /// closing.
    pub idle_timeout: Duration,
    /// Longest time a request's body may take to arrive.
    pub body_timeout: Duration,
    /// Proxies that are believed; by default none, because anybody can say that they are one.
    pub proxies: Proxies,
}

/// The smallest limit on heads that hyper's buffer can keep.
pub(crate) const SMALLEST_HEAD: usize = 8_192;

/// Open files that are not connections which are served: the store, libraries, logs.
const OTHER_FILES: usize = 96;

/// Connections by default, where there are files for them.
const MOST_CONNECTIONS: usize = 10_000;

/// And those of each worker: a runtime's five with the listener, a connection to the store and one that
/// waits for its place, with room.
const FILES_OF_A_WORKER: usize = 8;

impl Limits {
    /// The defaults, for so many workers.
    #[must_use]
    pub fn of(workers: usize) -> Self {
        Self {
            connections: connections(open_files(), workers),
            head: 32 << 10,
            body: 1 << 20,
            bodies: 256 << 20,
            responses: 256 << 20,
            head_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(75),
            body_timeout: Duration::from_secs(30),
            proxies: Proxies::default(),
        }
    }
}

impl Limits {
    /// Leaves files for so many loaded guests, each of which has one, and for listeners beyond the first,
    /// each of which has one for each worker.
    pub(crate) fn leave_files_for(&mut self, guests: usize, workers: usize, listeners: usize) {
        let listeners = listeners.saturating_sub(1).saturating_mul(workers);
        let left = spare(open_files(), workers).saturating_sub(guests).saturating_sub(listeners);
        self.connections = self.connections.min(left.max(1));
    }
}

/// Connections for which there are files.
fn connections(files: usize, workers: usize) -> usize {
    MOST_CONNECTIONS.min(spare(files, workers).max(1))
}

/// Files that are left for connections and guests.
fn spare(files: usize, workers: usize) -> usize {
    let others = OTHER_FILES.saturating_add(FILES_OF_A_WORKER.saturating_mul(workers));
    files.saturating_sub(others)
}

/// This process's limit on open files.
pub(crate) fn open_files() -> usize {
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))
        .and_then(|values| values.split_whitespace().next()?.parse().ok())
        .unwrap_or(1_024)
}

#[cfg(test)]
mod tests {
    use super::connections;

    #[test]
    fn connections_leave_files_for_workers_and_the_store() {
        assert_eq!(connections(1_024, 2), 1_024 - 96 - 16);
        assert_eq!(connections(1_024, 64), 1_024 - 96 - 512);
        assert_eq!(connections(400, 64), 1, "too few, and one at least is served");
        assert_eq!(connections(1 << 20, 2), 10_000);
    }
}
