//! What a lane does while it has no connection: whoever asks has it make one, or is refused at once,
//! rather than that they pile up.
//!
//! Whoever asks while the first attempt is under way waits for it, as a connection that was closed
//! for being idle is soon made anew. After it has failed, attempts are made when somebody asks, with
//! pauses in between that double, with jitter, so that the hosts of a store that returns do not all
//! come at once (<https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/>).

use std::{pin::pin, time::Duration};

use tokio::time::Instant;

use crate::{backend::Connection, error::Error, lane::Lane};

/// The pause after the first failure: enough for a server that is just starting.
const SHORTEST_PAUSE: Duration = Duration::from_millis(20);

/// The longest pause: a store that returns is used again well within a second.
const LONGEST_PAUSE: Duration = Duration::from_millis(300);

/// How long callers wait for another attempt: a store that has returned answers sooner, even far
/// away, and a client is still told soon enough that it has not.
const PATIENCE: Duration = Duration::from_millis(200);

/// What a lane knows of the store's being away.
#[derive(Default)]
pub(crate) struct Outage(Option<Away>);

struct Away {
    reason: Error,
    /// No attempt is made before.
    until: Instant,
    /// The next pause, without jitter.
    pause: Duration,
}

impl Outage {
    /// Notes a failed attempt; whether it is the first.
    fn goes_on(&mut self, reason: Error) -> bool {
        let pause = self.0.as_ref().map_or(SHORTEST_PAUSE, |away| away.pause);
        // Between a half and the whole of it.
        let jittered = pause.mul_f32(fastrand::f32().mul_add(0.5, 0.5));
        let now = Instant::now();
        let until = now.checked_add(jittered).unwrap_or(now);
        let away = Away { reason, until, pause: pause.saturating_mul(2).min(LONGEST_PAUSE) };
        self.0.replace(away).is_none()
    }
}

impl Lane {
    /// Makes a connection for those who ask, or refuses them; whether there is one now.
    pub(crate) async fn reconnect(
        &self,
        connection: &mut impl Connection,
        outage: &mut Outage,
    ) -> bool {
        let patience = match &outage.0 {
            Some(away) if Instant::now() < away.until => {
                self.refuse(&away.reason);
                return false;
            }
            Some(_) => PATIENCE,
            // As long as connecting may take.
            None => Duration::MAX,
        };
        let connecting = self.connect(connection, patience, outage.0.as_ref());
        match connecting.await {
            Ok(()) => {
                if outage.0.take().is_some() {
                    tracing::info!("connected to the store again");
                }
                true
            }
            Err(reason) => {
                self.metrics().connection_failed();
                self.refuse(&reason);
                let text = reason.to_string();
                if outage.goes_on(reason) {
                    tracing::warn!(reason = text, "no connection to the store");
                }
                false
            }
        }
    }

    /// Connects. Whoever asks waits for it, for as long as patience lasts, and is refused then.
    async fn connect(
        &self,
        connection: &mut impl Connection,
        patience: Duration,
        away: Option<&Away>,
    ) -> Result<(), Error> {
        let mut connecting = pin!(connection.connect());
        if let Ok(connected) = tokio::time::timeout(patience, &mut connecting).await {
            return connected;
        }
        loop {
            if let Some(away) = away {
                self.refuse(&away.reason);
            }
            tokio::select! {
                biased;
                connected = &mut connecting => return connected,
                () = self.asked() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pauses_double_up_to_the_longest() {
        let mut outage = Outage::default();
        let mut pauses = Vec::new();
        for attempt in 0..10 {
            assert_eq!(outage.goes_on(Error::not_applied("away")), attempt == 0);
            pauses.push(outage.0.as_ref().unwrap().until - Instant::now());
        }
        assert!(pauses[0] <= SHORTEST_PAUSE && pauses[0] >= SHORTEST_PAUSE / 2, "{pauses:?}");
        assert!(pauses.iter().all(|pause| *pause <= LONGEST_PAUSE), "{pauses:?}");
        assert!(pauses[9] >= LONGEST_PAUSE / 2, "{pauses:?}");
    }
}
