//! The queue and its loop over connections that are made for it.

use std::{
    pin::Pin,
    sync::atomic::{AtomicUsize, Ordering},
};

use super::*;
use crate::{
    Bucket,
    backend::memory,
    operation::{Action, Outcome},
};

fn increment() -> Step {
    Step {
        bucket: Bucket::new("test").unwrap(),
        key: "key".into(),
        action: Action::Increment { delta: 1, ttl: None },
        write: None,
    }
}

/// A connection that waits for a permit before each batch and counts what it is given.
#[derive(Clone)]
struct Gated {
    inner: memory::Memory,
    gate: Arc<tokio::sync::Semaphore>,
    batches: Arc<AtomicUsize>,
}

impl Connection for Gated {
    async fn apply(&mut self, steps: &[Step]) -> Vec<Reply> {
        self.gate.acquire().await.unwrap().forget();
        self.batches.fetch_add(1, Ordering::Relaxed);
        self.inner.apply(steps).await
    }
}

struct Bench {
    lane: Arc<Lane>,
    gate: Arc<tokio::sync::Semaphore>,
    batches: Arc<AtomicUsize>,
}

fn start<C: Connection>(lane: &Arc<Lane>, new: impl Fn() -> C + Send + 'static) {
    let lane = Arc::clone(lane);
    tokio::spawn(lane.run(Place::Worker, new(), move || Ok(new())));
}

fn bench(options: Options) -> Bench {
    let lane = Lane::new(Role::Write, options, Metrics::default());
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let batches = Arc::new(AtomicUsize::new(0));
    let connection = Gated {
        inner: memory::Memory::new(Duration::from_secs(60)),
        gate: Arc::clone(&gate),
        batches: Arc::clone(&batches),
    };
    start(&lane, move || connection.clone());
    Bench { lane, gate, batches }
}

async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn what_arrives_while_a_batch_is_on_its_way_is_the_next_batch() {
    let bench = bench(Options::default());
    let first = bench.lane.push(Owner::default(), increment(), false).unwrap();
    settle().await;
    let later: Vec<_> =
        (0..10).map(|_| bench.lane.push(Owner::default(), increment(), false).unwrap()).collect();
    bench.gate.add_permits(2);
    assert_eq!(first.await.unwrap(), Ok(Outcome::Count(1)));
    for (answer, count) in later.into_iter().zip(2..) {
        assert_eq!(answer.await.unwrap(), Ok(Outcome::Count(count)));
    }
    assert_eq!(bench.batches.load(Ordering::Relaxed), 2);
}

/// Asks, and after a pause has another ask when it is its turn to run, so many times.
fn ask_in_turn(
    lane: Arc<Lane>,
    times: usize,
    pause: Duration,
) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    Box::pin(async move {
        let answer = lane.push(Owner::default(), increment(), false).unwrap();
        // As a guest that computes.
        std::thread::sleep(pause);
        if let Some(times) = times.checked_sub(1) {
            tokio::spawn(ask_in_turn(lane, times, pause));
        }
        drop(answer.await);
    })
}

#[tokio::test]
async fn whoever_is_ready_to_run_may_ask_before_a_batch_leaves() {
    let bench = bench(Options::default());
    bench.gate.add_permits(100);
    ask_in_turn(Arc::clone(&bench.lane), 20, Duration::ZERO).await;
    settle().await;
    assert_eq!(bench.batches.load(Ordering::Relaxed), 1);
}

/// Batches of 41 who ask in turn, where a round of those who are ready is two of them.
fn batches_in_rounds_of_two(pause: Duration) -> usize {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    // Where nobody pauses, no time passes, however slow the machine.
    runtime.event_interval(2).enable_all().start_paused(pause.is_zero());
    let runtime = runtime.build().unwrap();
    runtime.block_on(async {
        let bench = bench(Options::default());
        bench.gate.add_permits(100);
        ask_in_turn(Arc::clone(&bench.lane), 40, pause).await;
        settle().await;
        bench.batches.load(Ordering::Relaxed)
    })
}

#[test]
fn a_batch_gathers_while_rounds_bring_more_and_not_for_long_where_they_take_long() {
    let quick = batches_in_rounds_of_two(Duration::ZERO);
    let slow = batches_in_rounds_of_two(LONGEST_GATHERING);
    assert!(quick <= 4, "{quick}");
    assert!(slow > 4, "{slow}");
}

#[tokio::test]
async fn a_caller_who_leaves_before_sealing_is_not_applied_and_after_it_is() {
    let bench = bench(Options::default());
    let sealed = bench.lane.push(Owner::default(), increment(), false).unwrap();
    settle().await;
    drop(sealed);
    drop(bench.lane.push(Owner::default(), increment(), false).unwrap());
    let last = bench.lane.push(Owner::default(), increment(), false).unwrap();
    bench.gate.add_permits(2);
    assert_eq!(last.await.unwrap(), Ok(Outcome::Count(2)), "the sealed one and its own");
}

#[tokio::test]
async fn a_full_queue_refuses_at_once_as_not_applied() {
    let bench = bench(Options { queue_operations: 2, ..Options::default() });
    let _first = bench.lane.push(Owner::default(), increment(), false).unwrap();
    settle().await;
    let _second = bench.lane.push(Owner::default(), increment(), false).unwrap();
    let _third = bench.lane.push(Owner::default(), increment(), false).unwrap();
    let error = bench.lane.push(Owner::default(), increment(), false).unwrap_err();
    assert!(matches!(error, Error::NotApplied(_)), "{error}");
}

#[tokio::test]
async fn no_owner_fills_the_queue_for_others() {
    let (greedy, other) = (Owner::another(), Owner::another());
    // Whatever their buckets.
    let buckets = std::cell::Cell::new(0);
    let push = |bench: &Bench, owner| {
        buckets.set(buckets.get() + 1);
        let bucket = Bucket::new(&buckets.get().to_string()).unwrap();
        bench.lane.push(owner, Step { bucket, ..increment() }, false)
    };
    let bench = bench(Options { queue_operations: 100, ..Options::default() });
    let mut kept = vec![push(&bench, greedy).unwrap()];
    settle().await;
    // The first is on its way.
    kept.extend(std::iter::from_fn(|| push(&bench, greedy).ok()));
    assert_eq!(kept.len(), 1 + 50 + 25);
    kept.extend(std::iter::from_fn(|| push(&bench, other).ok()));
    assert_eq!(kept.len(), 1 + 100, "what is left is for others");
    bench.gate.add_permits(100);
    for answer in kept {
        assert!(answer.await.unwrap().is_ok());
    }
    assert!(bench.lane.lock().crowd.is_empty(), "nothing is left of the crowd");
    assert!(push(&bench, greedy).is_ok());
}

#[tokio::test]
async fn the_queue_is_bounded_in_bytes() {
    let bench = bench(Options { queue_bytes: 100, ..Options::default() });
    let large =
        || Step { action: Action::Set { value: vec![0; 60].into(), ttl: None }, ..increment() };
    let _first = bench.lane.push(Owner::default(), large(), false).unwrap();
    settle().await;
    let _second = bench.lane.push(Owner::default(), large(), false).unwrap();
    assert!(matches!(bench.lane.push(Owner::default(), large(), false), Err(Error::NotApplied(_))));
}

#[tokio::test(start_paused = true)]
async fn a_batch_without_an_answer_is_unknown_and_those_behind_it_are_not_applied() {
    let bench = bench(Options::default());
    let first = bench.lane.push(Owner::default(), increment(), false).unwrap();
    settle().await;
    tokio::time::advance(Duration::from_millis(1)).await;
    let second = bench.lane.push(Owner::default(), increment(), false).unwrap();
    assert!(matches!(first.await.unwrap(), Err(Error::Unknown(_))));
    bench.gate.add_permits(1);
    assert_eq!(second.await.unwrap(), Ok(Outcome::Count(1)));
}

/// A connection that is a bug, for the first batch of all.
#[derive(Clone)]
struct Panics(Gated);

impl Connection for Panics {
    async fn apply(&mut self, steps: &[Step]) -> Vec<Reply> {
        settle().await;
        assert!(self.0.batches.load(Ordering::Relaxed) > 0, "asked to panic: {:?}", {
            self.0.batches.fetch_add(1, Ordering::Relaxed)
        });
        self.0.apply(steps).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_loop_that_panics_leaves_nobody_waiting_and_is_started_again() {
    let gated = bench(Options::default());
    gated.gate.add_permits(10);
    let connection = Panics(Gated {
        inner: memory::Memory::new(Duration::from_secs(60)),
        gate: gated.gate,
        batches: gated.batches,
    });
    let lane = Lane::new(Role::Write, Options::default(), Metrics::default());
    start(&lane, move || connection.clone());
    let sent = lane.push(Owner::default(), increment(), false).unwrap();
    for _ in 0..5 {
        // Sealed by now, and not ended yet.
        tokio::task::yield_now().await;
    }
    let queued = lane.push(Owner::default(), increment(), false).unwrap();
    assert!(sent.await.is_err(), "no answer; the caller takes it as unknown");
    assert!(matches!(lane.health().await, Err(Error::NotApplied(_))), "it has just failed");
    assert_eq!(queued.await.unwrap(), Ok(Outcome::Count(1)), "it was kept");
    assert_eq!(
        lane.push(Owner::default(), increment(), false).unwrap().await.unwrap(),
        Ok(Outcome::Count(2))
    );
    assert_eq!(lane.health().await, Ok(()));
}

/// A connection whose checks are counted and fail from the second on.
#[derive(Clone)]
struct Checked(Arc<AtomicUsize>);

impl Connection for Checked {
    async fn apply(&mut self, steps: &[Step]) -> Vec<Reply> {
        steps.iter().map(|_| Ok(Outcome::Count(1))).collect()
    }

    async fn check(&mut self) -> Result<(), Error> {
        match self.0.fetch_add(1, Ordering::Relaxed) {
            0 => Ok(()),
            _ => Err(Error::not_applied("asked to fail")),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_lane_is_checked_once_an_interval_and_a_busy_one_never() {
    let lane = Lane::new(Role::Write, Options::default(), Metrics::default());
    let checks = Arc::new(AtomicUsize::new(0));
    let connection = Checked(Arc::clone(&checks));
    start(&lane, move || connection.clone());
    for _ in 0..5 {
        assert_eq!(lane.health().await, Ok(()));
    }
    assert_eq!(checks.load(Ordering::Relaxed), 1);
    tokio::time::advance(Duration::from_secs(2)).await;
    assert!(lane.push(Owner::default(), increment(), false).unwrap().await.unwrap().is_ok());
    assert_eq!(lane.health().await, Ok(()), "a write has just been applied");
    assert_eq!(checks.load(Ordering::Relaxed), 1);
    tokio::time::advance(Duration::from_secs(2)).await;
    for _ in 0..5 {
        assert!(matches!(lane.health().await, Err(Error::NotApplied(_))));
    }
    assert_eq!(checks.load(Ordering::Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn a_lane_whose_store_hangs_is_said_not_to_answer() {
    let bench = bench(Options::default());
    let _hangs = bench.lane.push(Owner::default(), increment(), false).unwrap();
    settle().await;
    let Err(error) = bench.lane.health().await else { panic!("it hangs") };
    assert!(error.to_string().contains("no answer"), "{error}");
}

#[tokio::test]
async fn closing_answers_what_is_queued_and_refuses_what_comes() {
    let bench = bench(Options::default());
    let queued = bench.lane.push(Owner::default(), increment(), false).unwrap();
    bench.lane.close();
    bench.gate.add_permits(1);
    assert_eq!(queued.await.unwrap(), Ok(Outcome::Count(1)));
    assert!(matches!(
        bench.lane.push(Owner::default(), increment(), false),
        Err(Error::NotApplied(_))
    ));
}

#[tokio::test]
async fn what_is_put_there_quietly_waits_to_be_told_of_or_for_one_that_is_not() {
    let bench = bench(Options::default());
    settle().await;
    let push = |quietly| bench.lane.push(Owner::default(), increment(), quietly).unwrap();
    for tells in [true, false] {
        bench.batches.store(0, Ordering::Relaxed);
        let mut answers: Vec<_> = (0..10).map(|_| push(true)).collect();
        settle().await;
        assert_eq!(bench.lane.queued(), 10, "nothing has left");
        if tells {
            bench.lane.tell();
        } else {
            answers.push(push(false));
        }
        bench.gate.add_permits(1);
        for answer in answers {
            assert!(answer.await.unwrap().is_ok());
        }
        assert_eq!(bench.batches.load(Ordering::Relaxed), 1, "all of it in one batch");
    }
    // What is taken along by another leaves nothing behind that nobody is told of.
    let _on_its_way = push(false);
    settle().await;
    let quiet = push(true);
    let _another = push(false);
    bench.gate.add_permits(2);
    assert!(quiet.await.unwrap().is_ok());
}
