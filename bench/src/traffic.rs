//! What a load came to, whichever way it was made.

use std::time::Duration;

/// What clients saw.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Traffic {
    /// Answers, of any status.
    pub(crate) requests: u64,
    pub(crate) duration: Duration,
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
    /// Latency that one request of a thousand exceeds, where the load generator tells.
    pub(crate) p999: Option<Duration>,
    pub(crate) slowest: Option<Duration>,
    /// Answers whose status was an error.
    pub(crate) refused: u64,
    /// Latency that one of a hundred of those exceeds, where the load generator tells them apart.
    pub(crate) refusal_p99: Option<Duration>,
    /// Failures of sockets, with what they failed at.
    pub(crate) socket_errors: Vec<(&'static str, u64)>,
    /// At most so many requests were sent, but had no answer when the load ended.
    pub(crate) unanswered: u64,
}

impl Traffic {
    /// Answers whose status was no error.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.requests.saturating_sub(self.refused)
    }

    /// Requests that were not acknowledged, and may have had an effect all the same.
    pub(crate) fn unsure(&self) -> u64 {
        let sockets: u64 = self.socket_errors.iter().map(|(_, count)| count).sum();
        self.unanswered + self.refused + sockets
    }

    /// Requests answered in a second.
    #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
    pub(crate) fn rate(&self) -> f64 {
        self.requests as f64 / self.duration.as_secs_f64()
    }

    /// Time for each request, in seconds.
    #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
    pub(crate) fn per_request(&self, time: Duration) -> Option<f64> {
        (self.requests > 0).then(|| time.as_secs_f64() / self.requests as f64)
    }

    /// Answers with an error status, and failures of sockets.
    pub(crate) fn failures(&self, when: &str) -> Vec<String> {
        let mut notes = Vec::new();
        if self.refused > 0 {
            let (refused, requests) = (self.refused, self.requests);
            notes.push(format!("{refused} of {requests} answers were errors while {when}"));
        }
        for (what, errors) in self.socket_errors.iter().filter(|(_, errors)| *errors > 0) {
            notes.push(format!("{errors} socket errors ({what}) while {when}"));
        }
        notes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_said() {
        let fine = Traffic { requests: 200, ..Traffic::default() };
        assert!(fine.failures("measuring").is_empty());
        let socket_errors = vec![("read", 0), ("timeout", 1)];
        let bad = Traffic { requests: 100, refused: 5, socket_errors, ..Traffic::default() };
        assert_eq!(
            bad.failures("measuring"),
            [
                "5 of 100 answers were errors while measuring",
                "1 socket errors (timeout) while measuring"
            ]
        );
    }
}
