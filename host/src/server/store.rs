//! Opening the store: one that is away is waited for, one that cannot be used is not.

use std::time::Duration;

use tally_state::{Metrics, OpenError, Options, State};
use tokio::time::Instant;

/// The pause after an attempt that failed: a store that returns is used at once, and one that is away
/// is not flooded.
const PAUSE: Duration = Duration::from_millis(250);

/// Opens a store, again and again for so long while it is away. One that has to be there is given up after that; else it
/// is connected to when it is back. The second part is whether it is away.
///
/// # Errors
/// At once what waiting cannot mend, such as a wrong password; else the last reason.
pub(super) async fn open(
    url: &str,
    options: &Options,
    metrics: &Metrics,
    wait: Duration,
    may_be_away: bool,
) -> Result<(State, bool), OpenError> {
    let until = Instant::now().checked_add(wait);
    let mut is_said = false;
    loop {
        let reason = match State::open(url, options.clone(), metrics.clone()).await {
            Err(OpenError::Away(reason)) => reason,
            opened => return opened.map(|state| (state, false)),
        };
        let now = Instant::now();
        let left = until.map_or(Duration::MAX, |until| until.saturating_duration_since(now));
        if left.is_zero() && may_be_away {
            tracing::warn!(
                "the store is away; this host begins with the releases that it ran last: {reason}"
            );
            let options = Options { may_be_away, ..options.clone() };
            let opened = State::open(url, options, metrics.clone()).await;
            return opened.map(|state| (state, true));
        }
        if left.is_zero() {
            let waited = match wait.is_zero() {
                true => String::new(),
                false => format!(" (waited for {wait:?}; --store-wait says how long)"),
            };
            return Err(OpenError::Away(format!("{reason}{waited}")));
        }
        if !is_said {
            tracing::warn!("waiting up to {wait:?} for the store: {reason}");
            is_said = true;
        }
        tokio::time::sleep(PAUSE.min(left)).await;
    }
}
