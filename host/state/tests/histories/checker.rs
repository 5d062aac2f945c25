//! Whether a history of one key is linearizable: whether each operation can be given a moment
//! between its start and its end such that, in the order of these moments, each has its answer.
//!
//! The search is that of Wing and Gong ("Testing and verifying concurrent objects", 1993): an
//! operation may come next if no other that is left ended before it started. With Lowe's addition
//! ("Testing for linearizability", 2017), what is left and the value then are remembered, and
//! nothing is searched twice. A store is linearizable if each of its keys is (Herlihy and Wing,
//! "Linearizability: a correctness condition for concurrent objects", 1990), so each key is
//! searched by itself.
//!
//! What failed: an operation that was not applied is none. One whose outcome is unknown has no
//! end, and need not come at all.
//!
//! The operations of one request with a key come in its order, also where one's outcome stayed
//! unknown and the handler went on: what it went past happens before what it did next, or never.

use std::collections::HashSet;

use crate::history::{Answer, Event, Operation, Outcome, State};

/// An operation as the search sees it.
struct Call<'a> {
    operation: &'a Operation,
    /// `None` where it is unknown.
    answer: Option<&'a Answer>,
    request: Option<u64>,
    start: u64,
    end: u64,
}

impl<'a> Call<'a> {
    /// What had or may have had an effect.
    fn of(event: &'a Event) -> Option<Self> {
        let (answer, end) = match &event.outcome {
            Outcome::Answered(answer) => (Some(answer), event.end),
            Outcome::Unknown => (None, u64::MAX),
            Outcome::NotApplied => return None,
        };
        let request = event.request;
        Some(Self { operation: &event.operation, answer, request, start: event.start, end })
    }

    /// What the key holds after it, if it may come when the key holds `state`.
    fn apply(&self, state: &State) -> Option<State> {
        let (answer, next) = self.operation.apply(state.clone());
        match self.answer {
            Some(given) => (*given == answer).then_some(next),
            // One that changes nothing and told nobody is as good as none.
            None => (next != *state).then_some(next),
        }
    }

    /// Whether its request asks for it before the other.
    fn precedes(&self, other: &Self) -> bool {
        self.request.is_some() && self.request == other.request && self.start < other.start
    }
}

/// Which calls have had their moment, as bits.
type Done = u128;

/// Whether the events on a key that was missing before are linearizable.
pub(crate) fn is_linearizable(events: &[Event]) -> bool {
    let mut calls: Vec<Call<'_>> = events.iter().filter_map(Call::of).collect();
    assert!(calls.len() <= Done::BITS as usize, "longer than this checker is made for");
    // The place tried first is the last pushed: the answered one that ended first.
    calls.sort_by_key(|call| std::cmp::Reverse(call.end));
    let answered = bits(&calls, |call| call.answer.is_some());
    // Of each, what its request has to have done before, and what not yet.
    let orders: Vec<(Done, Done)> = calls
        .iter()
        .map(|call| {
            let before = bits(&calls, |other| other.answer.is_some() && other.precedes(call));
            (before, bits(&calls, |other| call.precedes(other)))
        })
        .collect();
    let mut seen: HashSet<(Done, State)> = HashSet::new();
    let mut open: Vec<(Done, State)> = vec![(0, None)];
    while let Some((done, value)) = open.pop() {
        if done & answered == answered {
            return true;
        }
        let left = || calls.iter().enumerate().filter(|(place, _)| done & (1 << place) == 0);
        let first_end = left().map(|(_, call)| call.end).min().unwrap_or(u64::MAX);
        for (place, call) in left().filter(|(_, call)| call.start < first_end) {
            let (before, after) = orders[place];
            if before & !done != 0 || after & done != 0 {
                continue;
            }
            let Some(next) = call.apply(&value) else { continue };
            let state = (done | 1 << place, next);
            if seen.insert(state.clone()) {
                open.push(state);
            }
        }
    }
    false
}

fn bits(calls: &[Call<'_>], which: impl Fn(&Call<'_>) -> bool) -> Done {
    calls
        .iter()
        .enumerate()
        .filter(|(_, call)| which(call))
        .fold(0, |bits, (place, _)| bits | 1 << place)
}

#[cfg(test)]
mod tests {
    use tally_state::{Rejection, Swapped};

    use super::*;
    use crate::history::Life;

    fn event(start: u64, end: u64, operation: Operation, outcome: Outcome) -> Event {
        Event { client: 0, request: None, operation, outcome, start, end }
    }

    fn answered(start: u64, end: u64, operation: Operation, answer: Answer) -> Event {
        event(start, end, operation, Outcome::Answered(answer))
    }

    fn count(start: u64, end: u64, delta: i64, count: i64) -> Event {
        answered(start, end, Operation::Increment(delta), Answer::Count(count))
    }

    fn read(start: u64, end: u64, value: Option<&'static str>) -> Event {
        answered(start, end, Operation::Get, Answer::Value(value.map(Into::into)))
    }

    fn reset(start: u64, end: u64) -> Event {
        answered(start, end, Operation::Set("0".into()), Answer::Done)
    }

    fn unknown(start: u64, end: u64, operation: Operation) -> Event {
        event(start, end, operation, Outcome::Unknown)
    }

    #[test]
    fn nothing_and_one_after_another_are_linearizable() {
        assert!(is_linearizable(&[]));
        assert!(is_linearizable(&[count(0, 1, 1, 1), count(2, 3, 2, 3), read(4, 5, Some("3"))]));
        assert!(!is_linearizable(&[count(0, 1, 1, 1), read(2, 3, None)]), "a stale read");
    }

    #[test]
    fn what_overlaps_may_come_in_any_order_and_what_does_not_may_not() {
        assert!(is_linearizable(&[count(0, 3, 1, 2), count(1, 2, 1, 1)]));
        assert!(!is_linearizable(&[count(0, 1, 1, 2), count(2, 3, 1, 1)]), "the later came first");
        assert!(is_linearizable(&[read(0, 9, Some("1")), count(1, 2, 1, 1), count(3, 4, 1, 2)]));
        assert!(!is_linearizable(&[count(0, 1, 1, 1), count(2, 3, 1, 2), read(4, 5, Some("1"))]));
    }

    #[test]
    fn a_value_given_twice_or_lost_is_found() {
        assert!(!is_linearizable(&[count(0, 3, 1, 1), count(1, 2, 1, 1), read(4, 5, Some("2"))]));
        assert!(!is_linearizable(&[count(0, 3, 1, 1), count(1, 2, 1, 2), read(4, 5, Some("1"))]));
        assert!(!is_linearizable(&[count(0, 1, 1, 1), read(2, 3, Some("2"))]), "sent twice");
    }

    #[test]
    fn a_reset_is_not_undone_in_part() {
        let counted = count(0, 1, 1, 1);
        let after = |value| [counted.clone(), count(2, 5, 1, 2), reset(3, 4), read(6, 7, value)];
        assert!(is_linearizable(&after(Some("0"))));
        assert!(!is_linearizable(&after(Some("1"))), "counted from before, stored after");
        assert!(!is_linearizable(&after(Some("2"))), "the reset is gone");
        let later = [counted, reset(2, 3), count(4, 5, 1, 2), read(6, 7, Some("1"))];
        assert!(!is_linearizable(&later), "the reset had been acknowledged");
    }

    #[test]
    fn an_unknown_operation_takes_effect_late_or_never() {
        let lost = unknown(0, 1, Operation::Increment(5));
        let with =
            |events: &[Event]| is_linearizable(&[std::slice::from_ref(&lost), events].concat());
        assert!(with(&[read(2, 3, None)]), "never");
        assert!(with(&[read(2, 3, Some("5"))]), "at once");
        assert!(with(&[read(2, 3, None), count(4, 5, 1, 6)]), "after it was given up");
        assert!(!with(&[read(2, 3, Some("5")), read(4, 5, None)]), "and undone");
        assert!(!with(&[count(2, 3, 1, 6), count(4, 5, 1, 12)]), "twice");
        assert!(!with(&[read(2, 3, Some("4"))]), "in part");
    }

    #[test]
    fn an_unknown_operation_takes_no_effect_before_it_is_asked() {
        let late = unknown(4, 5, Operation::Set("x".into()));
        assert!(!is_linearizable(&[read(0, 1, Some("x")), late.clone()]));
        assert!(is_linearizable(&[read(0, 6, Some("x")), late]));
    }

    #[test]
    fn what_was_not_applied_has_no_effect() {
        let refused = event(0, 1, Operation::Increment(1), Outcome::NotApplied);
        assert!(is_linearizable(&[refused.clone(), read(2, 3, None)]));
        assert!(!is_linearizable(&[refused, read(2, 3, Some("1"))]));
    }

    #[test]
    fn a_rejection_says_what_the_key_held() {
        let text = |start, end| answered(start, end, Operation::Set("x".into()), Answer::Done);
        let refused = |start, end| {
            let answer = Answer::Rejected(Rejection::NotANumber);
            answered(start, end, Operation::Increment(1), answer)
        };
        assert!(is_linearizable(&[text(0, 3), refused(1, 2)]));
        assert!(!is_linearizable(&[refused(0, 1), text(2, 3)]), "it was missing, which is 0");
        let overflow = Answer::Rejected(Rejection::Overflow);
        let extreme = answered(2, 3, Operation::Increment(i64::MAX), overflow);
        assert!(is_linearizable(&[count(0, 1, 1, 1), extreme.clone()]));
        assert!(!is_linearizable(&[extreme]));
    }

    #[test]
    fn a_swap_tells_what_it_met() {
        let swap = |start, end, swapped| {
            let operation = Operation::Swap { expected: Some("1".into()), value: "7".into() };
            answered(start, end, operation, Answer::Swapped(swapped))
        };
        let counted = count(0, 1, 1, 1);
        let of =
            |events: &[Event]| is_linearizable(&[std::slice::from_ref(&counted), events].concat());
        assert!(of(&[swap(2, 3, Swapped::Yes), read(4, 5, Some("7"))]));
        assert!(!of(&[swap(2, 5, Swapped::Yes), swap(3, 4, Swapped::Yes)]), "both met the one");
        assert!(!of(&[swap(2, 3, Swapped::No(Some("1".into())))]), "it met what it expected");
        assert!(of(&[swap(2, 5, Swapped::No(Some("0".into()))), reset(3, 4)]));
    }

    #[test]
    fn absent_and_existing_are_told_apart() {
        let exists = |start, end, is| answered(start, end, Operation::Exists, Answer::Exists(is));
        let delete = answered(2, 3, Operation::Delete, Answer::Done);
        let events = [reset(0, 1), delete, exists(4, 5, false)];
        assert!(is_linearizable(&events));
        assert!(!is_linearizable(&[reset(0, 1), exists(2, 3, false)]));
        assert!(is_linearizable(&[reset(0, 3), exists(1, 2, false), exists(4, 5, true)]));
    }

    fn requested(event: Event) -> Event {
        Event { request: Some(1), ..event }
    }

    #[test]
    fn what_a_request_went_past_comes_before_what_it_did_next_or_never() {
        let passed = unknown(0, 1, Operation::Increment(5));
        let history = |first: Event, second: Event, last| [first, second, read(4, 5, Some(last))];
        for (second, last) in [(1, "1"), (6, "6")] {
            let next = count(2, 3, 1, second);
            let history = history(requested(passed.clone()), requested(next), last);
            assert!(is_linearizable(&history), "{last}");
        }
        let next = count(2, 3, 1, 1);
        assert!(is_linearizable(&history(passed.clone(), next.clone(), "6")), "without a request");
        assert!(!is_linearizable(&history(requested(passed), requested(next), "6")), "made up for");
    }

    #[test]
    fn a_request_that_overlaps_itself_keeps_its_order() {
        let (first, second) = (count(0, 9, 5, 6), count(1, 8, 1, 1));
        assert!(is_linearizable(&[first.clone(), second.clone()]));
        assert!(!is_linearizable(&[requested(first), requested(second)]));
    }

    #[test]
    fn ends_are_kept_given_and_taken() {
        let lives = |start, end, life| answered(start, end, Operation::Lives, Answer::Lives(life));
        let created = Operation::Living(Life::Hours, Box::new(Operation::Increment(1)));
        let created = answered(0, 1, created, Answer::Count(1));
        let with =
            |events: &[Event]| is_linearizable(&[std::slice::from_ref(&created), events].concat());
        assert!(with(&[count(2, 3, 1, 2), lives(4, 5, Some(Life::Hours))]));
        assert!(!with(&[count(2, 3, 1, 2), lives(4, 5, Some(Life::Unlimited))]));
        assert!(!with(&[lives(4, 5, Some(Life::Days))]));
        assert!(with(&[reset(2, 3), lives(4, 5, Some(Life::Unlimited))]));
        assert!(!with(&[reset(2, 3), lives(4, 5, Some(Life::Hours))]));
        let expire = |is| answered(2, 3, Operation::Expire(Life::Days), Answer::Expired(is));
        assert!(with(&[expire(true), lives(4, 5, Some(Life::Days))]));
        assert!(!with(&[expire(false)]));
        assert!(with(&[answered(2, 3, Operation::Delete, Answer::Done), lives(4, 5, None)]));
    }
}
