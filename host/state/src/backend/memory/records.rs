//! What is recorded of writes, in generations that are dropped as a whole.
//!
//! A generation takes records for half of the time that they are kept. It is dropped once the
//! youngest of them is old enough, so a record is kept for at most one and a half times as long as
//! it must be, and dropping it costs nobody a search.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use crate::{
    idempotency::{Digest, RESPONSE, Record, WriteId},
    semantics::{Found, Moment, milliseconds},
};

pub(super) struct Records {
    /// How long a record is kept at least, in milliseconds.
    window: i64,
    /// The newest is the last.
    generations: VecDeque<Generation>,
    expired: Vec<Generation>,
}

pub(super) struct Generation {
    began: Moment,
    requests: HashMap<Digest, Request>,
}

/// What is recorded of one request. Nearly all have one write.
struct Request {
    fingerprint: u32,
    first: (i64, Kept),
    #[allow(
        clippy::box_collection,
        reason = "most requests have no further write: a third of the size"
    )]
    more: Option<Box<Vec<(i64, Kept)>>>,
}

/// A record in little room.
enum Kept {
    Count(i64),
    Bytes(Box<[u8]>),
}

impl Records {
    pub(super) fn new(window: Duration) -> Self {
        Self { window: milliseconds(window), generations: VecDeque::new(), expired: Vec::new() }
    }

    /// Begins a new generation if it is time, and sets those aside that have expired.
    pub(super) fn advance(&mut self, now: Moment) {
        let half = self.window.checked_div(2).unwrap_or_default().max(1);
        let is_due = |last: &Generation| now.saturating_sub(last.began) >= half;
        if self.generations.back().is_none_or(is_due) {
            self.generations.push_back(Generation { began: now, requests: HashMap::new() });
        }
        while let Some(next) = self.generations.get(1)
            && now.saturating_sub(next.began) >= self.window
        {
            self.expired.extend(self.generations.pop_front());
        }
    }

    /// The generations that have expired, to be dropped where nobody waits.
    pub(super) fn take_expired(&mut self) -> Vec<Generation> {
        std::mem::take(&mut self.expired)
    }

    pub(super) fn find(&self, write: &WriteId) -> Found {
        let mut found = Found::Nothing;
        for generation in self.generations.iter().rev() {
            let Some(request) = generation.requests.get(&write.request) else { continue };
            if request.fingerprint != write.fingerprint {
                return Found::Reused;
            }
            let more = request.more.iter().flat_map(|more| more.iter());
            let mut all = std::iter::once(&request.first).chain(more);
            if let Some((_, kept)) = all.find(|(other, _)| *other == write.write) {
                found = Found::Record(match kept {
                    Kept::Count(count) => Record::Count(*count),
                    Kept::Bytes(bytes) if write.write == RESPONSE => {
                        Record::Response(bytes.to_vec().into())
                    }
                    Kept::Bytes(bytes) => Record::Outcome(bytes.to_vec().into()),
                });
            }
        }
        found
    }

    pub(super) fn put(&mut self, write: &WriteId, record: Record) {
        let Some(generation) = self.generations.back_mut() else { return };
        let kept = match record {
            Record::Count(count) => Kept::Count(count),
            Record::Outcome(bytes) | Record::Response(bytes) => Kept::Bytes((*bytes).into()),
        };
        match generation.requests.get_mut(&write.request) {
            Some(request) => {
                request.more.get_or_insert_default().push((write.write, kept));
            }
            None => {
                let first = (write.write, kept);
                let request = Request { fingerprint: write.fingerprint, first, more: None };
                generation.requests.insert(write.request, request);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(request: u8) -> WriteId {
        WriteId { request: [request; 16], fingerprint: 1, write: 5 }
    }

    #[test]
    fn a_record_is_there_for_the_whole_window() {
        for began in 0..50 {
            let mut records = Records::new(Duration::from_millis(100));
            records.advance(0);
            for now in 0..began {
                records.advance(now);
            }
            records.advance(began);
            records.put(&write(1), Record::Count(7));
            for now in began..began + 100 {
                records.advance(now);
                assert_eq!(records.find(&write(1)), Found::Record(Record::Count(7)), "{now}");
            }
            for now in began + 100..began + 152 {
                records.advance(now);
            }
            assert_eq!(records.find(&write(1)), Found::Nothing);
            assert!(records.generations.len() <= 4, "{}", records.generations.len());
            assert!(!records.take_expired().is_empty());
        }
    }

    #[test]
    fn another_request_of_the_name_is_noticed_whatever_it_writes() {
        let mut records = Records::new(Duration::from_millis(100));
        records.advance(0);
        records.put(&write(1), Record::Count(7));
        assert_eq!(records.find(&WriteId { write: 6, ..write(1) }), Found::Nothing);
        assert_eq!(records.find(&WriteId { write: 6, fingerprint: 2, ..write(1) }), Found::Reused);
    }
}
