//! Random histories of requests with a key, beside clients without one, each in a bucket of its own.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use fastrand::Rng;
use futures_util::future::{join_all, try_join_all};
use tally_state::{Bucket, Handle, Options};

use crate::{
    checker::is_linearizable,
    client::Recorder,
    counting,
    draw::{Asker, Call, KEYS, at_once, program},
    history::{Clock, Event, Operation, readable},
    open,
    request::{Course, Host, Requester},
    run::{Summary, answered, each, last_read},
};

/// Clients of the long history of a counter, and requests of each.
const COUNTING: (usize, usize) = (48, 20);

/// Who asks in one history, and how much.
#[derive(Clone, Copy, Debug)]
struct Shape {
    /// Clients whose requests have a key.
    keyed: usize,
    /// Requests of each of these.
    requests: usize,
    /// Calls of each request.
    calls: usize,
    /// Clients without a key.
    plain: usize,
    /// Operations of each of these.
    rounds: usize,
    keys: usize,
    /// Whether all count up and down on one key.
    counts: bool,
}

impl Shape {
    fn draw(random: &mut Rng) -> Self {
        let counts = random.u8(..3) == 0;
        Self {
            keyed: random.usize(1..=4),
            requests: random.usize(1..=2),
            calls: random.usize(1..=4),
            plain: random.usize(..=2),
            rounds: random.usize(2..=4),
            keys: if counts { 1 } else { random.usize(1..=KEYS.len()) },
            counts,
        }
    }
}

/// Workers of hosts of one store that are configured alike in nothing that may differ. One takes
/// so few operations at a time that it refuses some.
pub(crate) async fn open_unlike(url: &str, options: &Options) -> Vec<Handle> {
    let hour = Duration::from_secs(3_600);
    let busy = Options {
        // Longer than any history takes, and short enough for runs and generations of records to
        // end while histories run.
        idempotency_window: Duration::from_mins(4),
        run_records: 30,
        sweep_every: Duration::from_millis(30),
        max_value_bytes: 1 << 10,
        ..options.clone()
    };
    let small = Options {
        queue_operations: 16,
        max_keys: 10,
        idempotency_window: 100 * hour,
        sweep_every: hour,
        ..options.clone()
    };
    let mut handles = Vec::new();
    for options in [options, &busy, &small] {
        handles.extend(open(url, options, 1).await.iter().flatten().cloned());
    }
    handles
}

/// Runs and checks histories, and a long one of a counter, and sees that what they are about
/// happened.
pub(crate) async fn check<H: Host + 'static>(name: &str, hosts: Vec<H>, seed: u64, count: usize) {
    let hosts = Arc::new(hosts);
    let (mut summary, course) =
        many(&hosts, seed, count).await.unwrap_or_else(|error| panic!("{error}"));
    summary += counter(&hosts, seed).await.unwrap_or_else(|error| panic!("{error}"));
    println!("{name}: {summary:?} {course:?}");
    let Course { requests, runs, beside, again, passed, untold } = course;
    // Of many calls at once, none is passed.
    let went_past = H::AT_ONCE || (passed > 0 && untold > 0);
    let seen = [runs - beside > requests, beside > 0, again > 0, went_past];
    assert_eq!(seen, [true; 4], "requests were repeated, at once as well, and writes failed");
}

/// Runs and checks histories; `Err` has the first that is wrong, with the seed.
pub(crate) async fn many<H: Host + 'static>(
    hosts: &Arc<Vec<H>>,
    seed: u64,
    count: usize,
) -> Result<(Summary, Course), String> {
    let course = Arc::default();
    let summary = each(seed, count, |number, seed| {
        let (hosts, course) = (Arc::clone(hosts), Arc::clone(&course));
        async move { one(&hosts, &course, number, seed).await }
    })
    .await?;
    let course = *course.lock().unwrap();
    Ok((summary, course))
}

async fn one<H: Host>(
    hosts: &[H],
    course: &Mutex<Course>,
    number: usize,
    seed: u64,
) -> Result<Summary, String> {
    let mut random = Rng::with_seed(seed);
    let shape = Shape::draw(&mut random);
    let kind = if H::AT_ONCE { "requests at once" } else { "requests" };
    let bucket = Bucket::new(&format!("{kind} {number}")).unwrap();
    let mut summary = Summary::default();
    let named = |wrong| format!("history {number} of {shape:?}: {wrong}");
    let histories = record(hosts, &bucket, course, shape, &mut random).await.map_err(named)?;
    for (events, key) in histories.iter().zip(KEYS) {
        if !is_linearizable(events) {
            return Err(named(format!("on {key:?}:\n{}", readable(events))));
        }
        summary += Summary::of(events);
    }
    Ok(summary)
}

/// Lets clients ask, and gives the history of each key, with last reads when all is quiet.
async fn record<H: Host>(
    hosts: &[H],
    bucket: &Bucket,
    course: &Mutex<Course>,
    shape: Shape,
    random: &mut Rng,
) -> Result<Vec<Vec<Event>>, String> {
    let clock = &Clock::default();
    let keyed = (0..shape.keyed).map(|client| {
        let mut random = random.fork();
        let requester = Requester { hosts, bucket, clock, client, course };
        async move {
            let mut asker = Asker::new(random.u64(..));
            let mut events = Vec::new();
            for _ in 0..shape.requests {
                let mut program = program(&mut asker, shape.keys, shape.calls, shape.counts);
                if H::AT_ONCE {
                    program = at_once(program);
                }
                let sent = requester.send(&program, &mut random).await?;
                for (key, event) in &sent {
                    asker.saw(*key, event);
                }
                events.extend(sent);
            }
            Ok::<_, String>(events)
        }
    });
    let keyed: Vec<_> = keyed.collect();
    let recorder = |client: usize, random: &mut Rng| {
        let asked = hosts[random.usize(..hosts.len())].plain();
        Recorder { asked, bucket, clock, client }
    };
    let plain = (0..shape.plain).map(|client| {
        let (recorder, mut random) = (recorder(shape.keyed + client, random), random.fork());
        async move {
            let mut asker = Asker::new(random.u64(..));
            let mut events = Vec::new();
            for _ in 0..shape.rounds {
                for _ in 0..asker.pauses() {
                    tokio::task::yield_now().await;
                }
                let (key, operation) = match (shape.counts, random.u8(..4)) {
                    (true, 0) => (0, Operation::Get),
                    (true, 1) => (0, Operation::Increment(-1)),
                    (true, _) => (0, Operation::Increment(1)),
                    (false, _) => asker.next(shape.keys),
                };
                let event = recorder.ask(KEYS[key], operation).await;
                asker.saw(key, &event);
                events.push((key, event));
            }
            events
        }
    });
    let plain: Vec<_> = plain.collect();
    let (keyed, plain) = tokio::join!(try_join_all(keyed), join_all(plain));
    let mut histories = vec![Vec::new(); shape.keys];
    for (key, event) in keyed?.into_iter().flatten().chain(plain.into_iter().flatten()) {
        histories[key].push(event);
    }
    let last = recorder(shape.keyed + shape.plain, random);
    for (events, key) in histories.iter_mut().zip(KEYS) {
        events.push(answered(&last, key, Operation::Lives).await);
        events.push(last_read(&last, key).await);
    }
    Ok(histories)
}

/// Runs and checks one long history of a counter, which every third client counts without a key.
pub(crate) async fn counter<H: Host>(hosts: &[H], seed: u64) -> Result<Summary, String> {
    let (clients, requests) = COUNTING;
    let mut random = Rng::with_seed(seed);
    let (clock, course) = (&Clock::default(), &Mutex::default());
    let name = if H::AT_ONCE { "counter of requests at once" } else { "counter of requests" };
    let bucket = &Bucket::new(name).unwrap();
    let program: &[Call] = &[vec![(0, Operation::Increment(1))]];
    let clients: Vec<_> = (0..clients)
        .map(|client| {
            let mut random = random.fork();
            async move {
                let asked = hosts[client % hosts.len()].plain();
                let recorder = Recorder { asked, bucket, clock, client };
                let requester = Requester { hosts, bucket, clock, client, course };
                let mut events = Vec::new();
                for _ in 0..requests {
                    if random.u8(..6) == 0 {
                        events.push(recorder.ask(KEYS[0], Operation::Get).await);
                    } else if client % 3 == 0 {
                        events.push(recorder.ask(KEYS[0], Operation::Increment(1)).await);
                    } else {
                        let sent = requester.send(program, &mut random).await?;
                        events.extend(sent.into_iter().map(|(_, event)| event));
                    }
                }
                Ok::<_, String>(events)
            }
        })
        .collect();
    let mut events = try_join_all(clients).await?.concat();
    let recorder = Recorder { asked: hosts[0].plain(), bucket, clock, client: COUNTING.0 };
    events.push(last_read(&recorder, KEYS[0]).await);
    match counting::check(&events) {
        Ok(()) => Ok(Summary::of(&events)),
        Err(broken) => Err(format!("with seed {seed}: {broken}, in:\n{}", readable(&events))),
    }
}
