//! What random clients ask.

use bytes::Bytes;
use fastrand::Rng;

use crate::history::{Event, Life, Operation, Outcome, Value};

/// The keys of a history: plain ones, and one whose name must be escaped.
pub(crate) const KEYS: [&str; 3] = ["a", "b", "c:%d*"];

/// Few values, so that clients meet the same ones, at the ends of what counts and beyond it.
const VALUES: [&str; 9] =
    ["0", "1", "2", "-1", "9223372036854775806", "-9223372036854775807", "x", "", "01"];

const EXTREMES: [i64; 3] = [i64::MAX, i64::MIN, i64::MAX - 1];

/// Operations of one history, at most.
const OPERATIONS: usize = 24;

/// How many clients ask how much.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) clients: usize,
    /// Operations of each client.
    pub(crate) rounds: usize,
    pub(crate) keys: usize,
    /// Whether the clients wait for each other before each round, so that all ask at once.
    pub(crate) together: bool,
}

impl Shape {
    pub(crate) fn draw(random: &mut Rng) -> Self {
        let clients = random.usize(3..=OPERATIONS / 2);
        let rounds = OPERATIONS / clients;
        Self {
            clients,
            rounds: random.usize(rounds.div_ceil(2)..=rounds),
            keys: [1, 1, 2, KEYS.len()][random.usize(..4)],
            together: random.bool(),
        }
    }
}

/// Decides what one client asks.
pub(crate) struct Asker {
    random: Rng,
    /// What it last knew each key to hold.
    seen: [Value; KEYS.len()],
}

impl Asker {
    pub(crate) fn new(seed: u64) -> Self {
        Self { random: Rng::with_seed(seed), seen: Default::default() }
    }

    /// How often to let others go first.
    pub(crate) fn pauses(&mut self) -> usize {
        self.random.usize(..4)
    }

    /// The place of a key, and what to ask about it.
    pub(crate) fn next(&mut self, keys: usize) -> (usize, Operation) {
        let key = self.random.usize(..keys);
        let operation = match self.random.u8(..28) {
            0..3 => Operation::Get,
            3 => Operation::Exists,
            4 => Operation::Set("0".into()),
            5..7 => Operation::Set(self.value()),
            7 => Operation::Delete,
            8 => Operation::Increment(EXTREMES[self.random.usize(..EXTREMES.len())]),
            9..16 => Operation::Increment(self.random.i64(-2..=3)),
            20 => Operation::GetAndSet("0".into()),
            21 => Operation::GetAndSet(self.value()),
            22 => Operation::SetIfAbsent(self.value()),
            23..26 => Operation::Within(self.random.i64(-2..=3), -1..=4),
            26 => Operation::Lives,
            27 => Operation::Expire([Life::Unlimited, self.life()][self.random.usize(..2)]),
            _ => {
                // Mostly as one who has read first.
                let blind = self.random.u8(..4) == 0;
                let guess = self.random.bool().then(|| self.value());
                let expected = if blind { guess } else { self.seen[key].clone() };
                Operation::Swap { expected, value: self.value() }
            }
        };
        if operation.may_live() && self.random.u8(..6) == 0 {
            return (key, Operation::Living(self.life(), Box::new(operation)));
        }
        (key, operation)
    }

    /// A time to live: without an end it is the same operation as without a time to live.
    fn life(&mut self) -> Life {
        [Life::Hours, Life::Days][self.random.usize(..2)]
    }

    fn value(&mut self) -> Bytes {
        VALUES[self.random.usize(..VALUES.len())].into()
    }

    /// Takes note of what came of an operation.
    pub(crate) fn saw(&mut self, key: usize, event: &Event) {
        if let Outcome::Answered(answer) = &event.outcome
            && let Some(value) = event.operation.leaves(answer)
        {
            self.seen[key] = value;
        }
    }
}

/// One call of a handler: an operation, or a batch of settings or of deletions of several keys.
/// The keys are places among [`KEYS`].
pub(crate) type Call = Vec<(usize, Operation)>;

/// What a handler asks for, one call after the other.
///
/// Of one key it asks for nothing twice: the same again is what a handler asks that tries again.
pub(crate) fn program(asker: &mut Asker, keys: usize, calls: usize, counts: bool) -> Vec<Call> {
    let mut program: Vec<Call> = Vec::new();
    while program.len() < calls {
        let call = if counts { one_count(asker) } else { one_call(asker, keys) };
        let is_new = |part| !program.iter().flatten().any(|other| other == part);
        if call.iter().all(is_new) {
            program.push(call);
        }
    }
    program
}

/// What a handler asks for that makes all its calls at once: of one key it asks for nothing that is like another.
pub(crate) fn at_once(program: Vec<Call>) -> Vec<Call> {
    let mut kept: Vec<Call> = Vec::new();
    for call in program {
        let is_like = |part: &(usize, Operation)| {
            kept.iter().flatten().any(|(key, other)| *key == part.0 && other.is_like(&part.1))
        };
        if !call.iter().any(is_like) {
            kept.push(call);
        }
    }
    kept
}

/// A change of the one counter of a history.
fn one_count(asker: &mut Asker) -> Call {
    let delta = [1, 1, -1, 2, -2, 3][asker.random.usize(..6)];
    let operation = Operation::Increment(delta);
    if asker.random.u8(..4) == 0 {
        return vec![(0, Operation::Living(asker.life(), Box::new(operation)))];
    }
    vec![(0, operation)]
}

fn one_call(asker: &mut Asker, keys: usize) -> Call {
    if keys > 1 && asker.random.u8(..5) == 0 {
        let first = asker.random.usize(..keys);
        let deletes = asker.random.u8(..3) == 0;
        return (0..asker.random.usize(2..=keys))
            .map(|next| {
                let set = Operation::Set(asker.value());
                ((first + next) % keys, if deletes { Operation::Delete } else { set })
            })
            .collect();
    }
    loop {
        let (key, operation) = asker.next(keys);
        if !matches!(operation, Operation::Get | Operation::Exists | Operation::Lives) {
            return vec![(key, operation)];
        }
    }
}

/// A call of the same kind with other arguments, as of a handler that computes them from the time;
/// no other place in a program has the same.
pub(crate) fn otherwise(call: &Call, place: usize) -> Call {
    let value: Bytes = format!("other {place}").into();
    let more = 1_000 * (1 + i64::try_from(place).unwrap_or(0));
    let other = |operation: &Operation| match operation {
        Operation::Set(_) => Operation::Set(value.clone()),
        Operation::GetAndSet(_) => Operation::GetAndSet(value.clone()),
        Operation::SetIfAbsent(_) => Operation::SetIfAbsent(value.clone()),
        Operation::Increment(delta) => Operation::Increment(delta.wrapping_add(more)),
        Operation::Within(delta, bounds) => Operation::Within(delta + more, bounds.clone()),
        Operation::Swap { .. } => Operation::Swap { expected: None, value: value.clone() },
        same => same.clone(),
    };
    call.iter().map(|(key, operation)| (*key, other(operation))).collect()
}
