//! Whether a long history of one counter is linearizable: increments by one and reads, from a
//! missing key to a last read.
//!
//! Of a counter, each answer says by itself where in the order its operation came. What is left to
//! verify takes one pass rather than a search: acknowledged values are distinct; the values up to
//! the last read that nobody was given can each be that of an increment that ended unknown; and
//! what ended before something else was asked comes before it. It follows that a report lies
//! between what was acknowledged before it began and what was asked before it ended.

use std::collections::HashMap;

use crate::history::{Answer, Event, Operation, Outcome, number};

/// An answered operation.
struct Placed<'a> {
    /// The count after it. At one count, the increment comes before the reads.
    place: (i64, bool),
    event: &'a Event,
}

/// Checks a history; `Err` says what is wrong with it.
pub(crate) fn check(events: &[Event]) -> Result<(), String> {
    let mut placed: Vec<Placed<'_>> = events.iter().filter_map(placed).collect();
    increments_are_distinct(&placed)?;
    real_time_is_kept(&mut placed)?;
    gaps_are_filled(&mut placed, events)
}

fn placed(event: &Event) -> Option<Placed<'_>> {
    let place = match (&event.operation, &event.outcome) {
        (Operation::Increment(1), Outcome::Answered(Answer::Count(count))) => (*count, false),
        (Operation::Get, Outcome::Answered(Answer::Value(value))) => {
            (number(value.as_ref()).expect("a counter holds a number"), true)
        }
        (_, Outcome::NotApplied | Outcome::Unknown) => return None,
        _ => panic!("not of a history of counting: {event}"),
    };
    Some(Placed { place, event })
}

fn increments_are_distinct(placed: &[Placed<'_>]) -> Result<(), String> {
    let mut given = HashMap::new();
    for Placed { place: (count, is_read), event } in placed {
        if *is_read {
            continue;
        }
        if *count < 1 {
            return Err(format!("no count: {event}"));
        }
        if let Some(other) = given.insert(count, event) {
            return Err(format!("one value was given twice: {other} and {event}"));
        }
    }
    Ok(())
}

/// Nothing comes after something that was asked only when it had ended.
fn real_time_is_kept(placed: &mut [Placed<'_>]) -> Result<(), String> {
    // Reads of one count may come in any order, so in that of asking.
    placed.sort_by_key(|placed| (placed.place, placed.event.start));
    // From the last backwards: the one of all that come later that ended first.
    let mut first: Option<&Event> = None;
    for Placed { event, .. } in placed.iter().rev() {
        if let Some(later) = first
            && later.end < event.start
        {
            return Err(format!("out of order: {later} before {event}"));
        }
        if first.is_none_or(|first| event.end < first.end) {
            first = Some(event);
        }
    }
    Ok(())
}

/// Each value that nobody was given is that of an unknown increment, which was asked before
/// anything ended that comes later. Values and increments are matched in order.
fn gaps_are_filled(placed: &mut [Placed<'_>], events: &[Event]) -> Result<(), String> {
    let mut unknown: Vec<&Event> = events
        .iter()
        .filter(|event| event.operation != Operation::Get && event.outcome == Outcome::Unknown)
        .collect();
    unknown.sort_by_key(|event| event.start);
    let mut unknown = unknown.into_iter();
    // The end of the first to end, of each and all that come later.
    let mut ends: Vec<u64> = placed.iter().map(|placed| placed.event.end).collect();
    for later in (1..ends.len()).rev() {
        ends[later - 1] = ends[later - 1].min(ends[later]);
    }
    let mut count = 0;
    for (Placed { place: (value, is_read), event }, end) in placed.iter().zip(ends) {
        let before = if *is_read { *value } else { *value - 1 };
        while count < before {
            count += 1;
            if unknown.next().is_none_or(|unknown| unknown.start > end) {
                return Err(format!("nothing can have counted to {count}, before {event}"));
            }
        }
        count = *value;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use fastrand::Rng;

    use super::*;
    use crate::checker::is_linearizable;

    fn increment(start: u64, end: u64, outcome: Outcome) -> Event {
        Event { client: 0, request: None, operation: Operation::Increment(1), outcome, start, end }
    }

    fn count(start: u64, end: u64, count: i64) -> Event {
        increment(start, end, Outcome::Answered(Answer::Count(count)))
    }

    fn read(start: u64, end: u64, count: i64) -> Event {
        let value = (count > 0).then(|| count.to_string().into());
        let outcome = Outcome::Answered(Answer::Value(value));
        Event { client: 0, request: None, operation: Operation::Get, outcome, start, end }
    }

    fn says(events: &[Event], text: &str) {
        let error = check(events).unwrap_err();
        assert!(error.contains(text), "{error}");
    }

    #[test]
    fn each_way_to_be_wrong_is_named() {
        check(&[count(0, 3, 2), count(1, 2, 1), read(4, 5, 2)]).unwrap();
        says(&[count(0, 3, 1), count(1, 2, 1)], "given twice");
        check(&[count(0, 9, 1), read(2, 3, 1), read(4, 5, 1), read(1, 6, 0)]).unwrap();
        says(&[count(0, 1, 2), count(2, 3, 1)], "out of order");
        says(&[count(0, 1, 1), read(2, 3, 0)], "out of order");
        says(&[read(0, 1, 1), count(2, 3, 1)], "out of order");
        says(&[count(0, 1, 2), read(2, 3, 2)], "nothing can have counted to 1");
        says(&[count(0, 1, 1), read(2, 3, 2)], "nothing can have counted to 2");
    }

    #[test]
    fn an_unknown_increment_fills_one_gap_after_it_was_asked() {
        let unknown = increment(2, 3, Outcome::Unknown);
        check(&[count(0, 1, 1), unknown.clone(), read(4, 5, 1)]).unwrap();
        check(&[count(0, 1, 1), unknown.clone(), read(4, 5, 2)]).unwrap();
        check(&[count(0, 1, 1), unknown.clone(), read(4, 5, 1), count(6, 7, 3)]).unwrap();
        says(&[count(0, 1, 2), unknown.clone(), read(4, 5, 2)], "counted to 1");
        says(&[count(0, 1, 1), unknown, read(4, 5, 3)], "counted to 3");
    }

    /// A history that may be right or wrong: counts and times are drawn independently, near to
    /// what would be right.
    fn history(random: &mut Rng) -> Vec<Event> {
        let mut at = 0;
        let mut value = 0;
        (0..random.usize(1..9))
            .map(|_| {
                at += random.u64(..3);
                let (start, end) = (at * 2, at * 2 + 1 + 2 * random.u64(..4));
                match random.u8(..8) {
                    0 => increment(start, end, Outcome::NotApplied),
                    1 | 2 => increment(start, end, Outcome::Unknown),
                    3 | 4 => read(start, end, value + random.i64(0..2)),
                    _ => {
                        value += random.i64(0..3);
                        count(start, end, value)
                    }
                }
            })
            .collect()
    }

    #[test]
    fn it_agrees_with_the_search() {
        let seed = crate::seed("counting and checker");
        let mut random = Rng::with_seed(seed);
        let mut right = 0;
        for _ in 0..20_000 {
            let events = history(&mut random);
            let checked = check(&events);
            assert_eq!(
                checked.is_ok(),
                is_linearizable(&events),
                "{checked:?}\n{}",
                crate::history::readable(&events)
            );
            right += usize::from(checked.is_ok());
        }
        println!("{right} were right");
        assert!((1_000..19_000).contains(&right), "{right} of 20000 were right");
    }
}
