//! Which steps of a batch are sent together, and what is left of them.

use std::collections::{BTreeMap, HashMap};

use super::{Answer, statement};
use crate::{
    error::Error,
    operation::{Action, Kind, Outcome, Step},
};

/// A step and its place in the batch.
pub(super) type Placed<'a> = (usize, &'a Step);

/// Steps that are sent together.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Round<'a> {
    /// Each key occurs once, so order means nothing. Sorted by bucket and key, the global order in
    /// which locks are taken.
    Statements(Vec<Placed<'a>>),
    /// In order.
    Transaction(Vec<Placed<'a>>),
}

/// Splits a batch into rounds that keep the order of each key. Nearly always there is one. Keys with
/// a step that takes a transaction, or with several steps of which one writes, have all their steps in
/// one transaction, and so one commit.
pub(super) fn rounds(steps: &[Step]) -> Vec<Round<'_>> {
    let mut keys: HashMap<(&str, &str), Uses> = HashMap::with_capacity(steps.len());
    for step in steps {
        let uses = keys.entry(statement::name(step)).or_default();
        uses.steps = uses.steps.saturating_add(1);
        uses.writes |= !step.action.kind().is_read();
        uses.takes_transaction |= takes_transaction(step);
    }
    let mut rounds: Vec<Vec<Placed<'_>>> = Vec::new();
    let mut transaction = Vec::new();
    let mut seen: HashMap<(&str, &str), usize> = HashMap::new();
    for (index, step) in steps.iter().enumerate() {
        let name = statement::name(step);
        if keys.get(&name).is_some_and(Uses::share_transaction) && is_of_key(step) {
            transaction.push((index, step));
            continue;
        }
        let round = seen.entry(name).or_insert(0);
        match rounds.get_mut(*round) {
            Some(places) => places.push((index, step)),
            None => rounds.push(vec![(index, step)]),
        }
        *round = round.saturating_add(1);
    }
    for round in &mut rounds {
        round.sort_unstable_by_key(|(_, step)| statement::name(step));
    }
    let transaction = (!transaction.is_empty()).then_some(Round::Transaction(transaction));
    rounds.into_iter().map(Round::Statements).chain(transaction).collect()
}

/// What a batch does with one key.
#[derive(Default)]
struct Uses {
    steps: usize,
    writes: bool,
    takes_transaction: bool,
}

impl Uses {
    fn share_transaction(&self) -> bool {
        self.takes_transaction || (self.writes && self.steps > 1)
    }
}

/// Whether a step concerns a key's value.
pub(super) fn is_of_key(step: &Step) -> bool {
    !matches!(
        step.action.kind(),
        Kind::List | Kind::Buckets | Kind::LoadResponse | Kind::StoreResponse | Kind::Sweep
    )
}

/// Whether a step takes more than a statement of its kind.
pub(super) fn takes_transaction(step: &Step) -> bool {
    match &step.action {
        Action::GetAndSet { .. }
        | Action::SetIfAbsent { .. }
        | Action::IncrementWithin { .. }
        | Action::Swap { .. }
        | Action::Expire(_)
        | Action::Forgo => true,
        Action::Set { .. } | Action::Delete | Action::Increment { .. } => step.write.is_some(),
        // What they add up to says whether each of them stays within the range if all have one sign.
        Action::Increments(increments) => {
            let mut deltas = increments.members.iter().map(|member| member.delta);
            !deltas.clone().all(|delta| delta >= 0) && !deltas.all(|delta| delta <= 0)
        }
        _ => false,
    }
}

/// Steps of one key after those of another, in their order.
pub(super) fn by_key(steps: Vec<Placed<'_>>) -> Vec<Vec<Placed<'_>>> {
    let mut groups: BTreeMap<(&str, &str), Vec<Placed<'_>>> = BTreeMap::new();
    for placed in steps {
        groups.entry(statement::name(placed.1)).or_default().push(placed);
    }
    groups.into_values().collect()
}

pub(super) fn of_several_keys(steps: &[Placed<'_>]) -> bool {
    let mut names = steps.iter().map(|(_, step)| statement::name(step));
    let first = names.next();
    names.any(|name| Some(name) != first)
}

/// What a statement has done of a step.
pub(super) enum Done {
    All(Answer),
    Nothing,
    /// Of several increments, those that have a number.
    Some(Vec<Option<i64>>),
}

impl Done {
    pub(super) fn of(counts: Vec<Option<i64>>) -> Self {
        match counts.iter().all(Option::is_some) {
            true => Self::All(with(counts, Ok(Outcome::Each(Vec::new())))),
            false => Self::Some(counts),
        }
    }
}

/// A step without those of its increments that have a number.
pub(super) fn without(step: &Step, counts: &[Option<i64>]) -> Step {
    let mut step = step.clone();
    if let Action::Increments(increments) = &mut step.action {
        let mut counts = counts.iter();
        increments.members.retain(|_| !matches!(counts.next(), Some(Some(_))));
    }
    step
}

/// An answer to a step some of whose increments have a number already.
pub(super) fn with(counts: Vec<Option<i64>>, rest: Answer) -> Answer {
    if counts.is_empty() {
        return rest;
    }
    let mut rest = match rest {
        Ok(Outcome::Each(replies)) => replies.into_iter(),
        Ok(other) => return Ok(other),
        // The session shows that it is broken by itself.
        Err(failure) => {
            let left = counts.iter().filter(|count| count.is_none()).count();
            vec![Err(failure.into_error()); left].into_iter()
        }
    };
    let missing = || Err(Error::unknown("the transaction gave no answer for this increment"));
    let each = counts.into_iter().map(|count| match count {
        Some(count) => Ok(Outcome::Count(count)),
        None => rest.next().unwrap_or_else(missing),
    });
    Ok(Outcome::Each(each.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Bucket;

    fn step(key: &str) -> Step {
        let bucket = Bucket::new("b").unwrap();
        Step { bucket, key: key.into(), action: Action::Get, write: None }
    }

    fn places(steps: &[Step]) -> Vec<(bool, Vec<usize>)> {
        rounds(steps)
            .iter()
            .map(|round| match round {
                Round::Statements(steps) => (false, steps),
                Round::Transaction(steps) => (true, steps),
            })
            .map(|(transaction, steps)| (transaction, steps.iter().map(|(i, _)| *i).collect()))
            .collect()
    }

    #[test]
    fn a_key_occurs_once_a_round_and_keeps_its_order() {
        let steps = ["b", "a", "b", "b", "c"].map(step);
        let expected = [(false, vec![1, 0, 4]), (false, vec![2]), (false, vec![3])];
        assert_eq!(places(&steps), expected, "and each round is sorted by key");
    }

    #[test]
    fn all_steps_of_a_key_share_the_transaction_that_one_of_them_takes() {
        let mut steps = ["b", "a", "b", "c"].map(step);
        steps[2].action = Action::Expire(None);
        assert_eq!(places(&steps), [(false, vec![1, 3]), (true, vec![0, 2])]);
        steps[3].action = Action::Delete;
        assert_eq!(places(&steps), [(false, vec![1, 3]), (true, vec![0, 2])]);
        let bucket = Bucket::new("b").unwrap();
        steps[3].write = Some(crate::Scope::new([0; 16], [0; 16]).response_id(&bucket));
        assert_eq!(places(&steps), [(false, vec![1]), (true, vec![0, 2, 3])]);
    }

    #[test]
    fn several_steps_of_a_key_that_write_share_a_transaction() {
        let mut steps = ["a", "b", "a", "c", "c"].map(step);
        assert!(places(&steps).iter().all(|(transaction, _)| !transaction), "all of them read");
        steps[2].action = Action::Increment { delta: 1, ttl: None };
        assert_eq!(places(&steps), [(false, vec![1, 3]), (false, vec![4]), (true, vec![0, 2])]);
        steps.swap(0, 2);
        assert_eq!(places(&steps), [(false, vec![1, 3]), (false, vec![4]), (true, vec![0, 2])]);
    }
}
