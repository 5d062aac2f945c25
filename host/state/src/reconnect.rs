//! What a lane does while it has no connection: it makes one, and refuses at once whoever asks
//! meanwhile, rather than let them pile up.
//!
//! Whoever asks while the first attempt is under way waits for it, as a connection that was closed
//! for being idle is soon made anew. After it has failed, attempts follow each other with pauses
//! that double, with jitter, so that the hosts of a store that returns do not all come at once
//! (<https://www.awsarchitectureblog.com/2015/03/backoff.html>).

use std::{pin::pin, time::Duration};

use crate::{backend::Connection, error::Error, lane::Lane};

/// The pause after the first failure: enough for a server that is just starting.
const SHORTEST_PAUSE: Duration = Duration::from_millis(20);

/// The longest pause: a store that returns is used again well within a second.
const LONGEST_PAUSE: Duration = Duration::from_millis(300);

/// Pauses between attempts.
struct Backoff {
    next: Duration,
}

impl Backoff {
    fn new() -> Self {
        Self { next: SHORTEST_PAUSE }
    }

    /// The next pause: between a half and the whole of what it would be without jitter.
    fn pause(&mut self) -> Duration {
        let longest = self.next;
        self.next = longest.saturating_mul(2).min(LONGEST_PAUSE);
        longest.mul_f32(fastrand::f32().mul_add(0.5, 0.5))
    }
}

impl Lane {
    /// Returns once there is a connection; `false` when the lane is closed before.
    pub(crate) async fn reconnect(&self, connection: &mut impl Connection) -> bool {
        let mut backoff = Backoff::new();
        let mut reason = match self.first(connection).await {
            Ok(()) => return true,
            Err(error) => error,
        };
        tracing::warn!(%reason, "no connection to the store; trying until there is one");
        loop {
            let pause = tokio::time::sleep(backoff.pause());
            if self.refusing(pause, &reason).await.is_none() {
                return false;
            }
            match self.refusing(connection.connect(), &reason).await {
                None => return false,
                Some(Err(error)) => {
                    self.metrics().connection_failed();
                    reason = error;
                }
                Some(Ok(())) => break,
            }
        }
        tracing::info!("connected to the store again");
        true
    }

    /// The first attempt, for which callers wait.
    async fn first(&self, connection: &mut impl Connection) -> Result<(), Error> {
        let connected = connection.connect().await;
        if connected.is_err() {
            self.metrics().connection_failed();
        }
        connected
    }

    /// Runs something, and refuses what is asked for meanwhile; `None` when the lane is closed.
    async fn refusing<T>(&self, running: impl Future<Output = T>, reason: &Error) -> Option<T> {
        let mut running = pin!(running);
        loop {
            if !self.refuse(reason) {
                return None;
            }
            tokio::select! {
                biased;
                done = &mut running => return Some(done),
                () = self.asked() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let mut backoff = Backoff::new();
        let pauses: Vec<Duration> = (0..10).map(|_| backoff.pause()).collect();
        assert!(pauses[0] <= SHORTEST_PAUSE && pauses[0] >= SHORTEST_PAUSE / 2);
        assert!(pauses.iter().all(|pause| *pause <= LONGEST_PAUSE));
        assert!(pauses[9] >= LONGEST_PAUSE / 2);
    }
}
