//! Opening the store: one that is away is waited for, one that cannot be used is not.

use std::time::Duration;

use tally_state::{Metrics, OpenError, Options, State};
use tokio::time::Instant;

/// The pause after an attempt that failed: a store that returns is used at once, and one that is away
/// is not flooded.
const PAUSE: Duration = Duration::from_millis(250);

/// Opens a store, again and again for so long while it is away.
///
/// # Errors
/// At once what waiting cannot mend, such as a wrong password; else the last reason.
pub(super) async fn open(
    url: &str,
    options: &Options,
    metrics: &Metrics,
    wait: Duration,
) -> Result<State, OpenError> {
    let until = Instant::now().checked_add(wait);
    let mut is_said = false;
    loop {
        let reason = match State::open(url, options.clone(), metrics.clone()).await {
            Err(OpenError::Away(reason)) => reason,
            opened => return opened,
        };
        let now = Instant::now();
        let left = until.map_or(Duration::MAX, |until| until.saturating_duration_since(now));
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
