//! Turns for guests that have had more than others.
//!
//! Most calls of guests are over in microseconds, and run when they are ready. Two kinds wait for a turn: one
//! that has computed for a slice, which gets one more slice for it, and a new one of a guest that has used more
//! lately than another one that is at work on the same worker. Of the guests that wait, the one that has used
//! least goes first, whatever the number of its calls; calls of one guest go round. Who is next lets all
//! else that is ready on the worker run, and then goes if no other guest had anything to do, or if none that
//! had has used less. So a guest gets what others leave, and its share beside those who leave nothing.
//!
//! Usage is that of all workers ([`Account`]): a guest with one client, which one worker serves, gets
//! more of that worker when others compute on all.
//!
//! Of one guest only so many calls are in the middle of computing on a worker. Others wait to begin, and are refused
//! where that queue does not become empty (`overload`).
//!
//! All of this is of one thread, and takes no lock. Where one guest alone is at work, it costs two looks at
//! memory of the thread's own.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    future::poll_fn,
    task::{Poll, Waker},
    time::{Duration, Instant},
};

use super::{account::Account, clock, overload::Delay};

/// How long one that computes waits, when it is next and the worker has nothing else to do, for requests of a
/// guest that has used less and has just had some: about as long as a client takes to ask again. The thread
/// sleeps meanwhile, as clients may be on the same machine.
const PATIENCE: Duration = Duration::from_micros(50);

/// How long ago that is, in milliseconds of the clock.
const RECENT: u64 = 2;

/// A guest may have used so much more than another one at work before its new calls wait, in nanoseconds at the
/// default weight.
const SLACK: u64 = 2_000_000;

/// So many calls of one guest may be in the middle of computing on a worker. More would only make each of them take
/// longer, and hold memory meanwhile; fewer would have one that is short wait for one that is long.
const BEGUN: usize = 8;

/// Guests at work that are remembered.
const MOST_SEEN: usize = 8;

thread_local! {
    /// Calls that wait on this thread.
    static WAITING: RefCell<Vec<Queue>> = const { RefCell::new(Vec::new()) };
    /// How many there are.
    static COUNT: Cell<usize> = const { Cell::new(0) };
    /// The ticket of the call that is next.
    static NEXT: Cell<Option<u64>> = const { Cell::new(None) };
    /// And the place of its guest's account.
    static NEXT_GUEST: Cell<usize> = const { Cell::new(0) };
    static TICKETS: Cell<u64> = const { Cell::new(0) };
    /// The least usage of other guests that ran since the one who is next last looked; `None` where none did.
    static RAN: Cell<Option<u64>> = const { Cell::new(None) };
    /// How long it took the last time to run all that was ready.
    static ROUND: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    /// The guest that ran last, and when another one had before it.
    static GUEST: Cell<usize> = const { Cell::new(0) };
    static MIXED: Cell<Option<u64>> = const { Cell::new(None) };
    /// Guests that ran of late, where several do.
    static SEEN: RefCell<Vec<Seen>> = const { RefCell::new(Vec::new()) };
    /// Whether all that a call did, when it was polled, was to wait for its turn.
    static ONLY_WAITED: Cell<bool> = const { Cell::new(false) };
}

/// A guest that ran: its account's place, its usage then, and when, by the clock.
struct Seen {
    guest: usize,
    usage: u64,
    at: u64,
}

/// The calls of one guest that wait, in order of arrival.
struct Queue {
    account: &'static Account,
    /// Those in the middle of computing, and how many of them compute for long.
    slices: VecDeque<Call>,
    long: usize,
    /// Those that have not begun, and how they have to wait.
    starts: VecDeque<Call>,
    delay: Delay,
}

struct Call {
    ticket: u64,
    /// Set once it is asked whether it is next.
    waker: Option<Waker>,
}

/// How a new call of a guest has to wait before it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Before {
    /// Until it is its guest's turn, as another one at work has used less.
    Turn,
    /// Until fewer calls of its own guest are in the middle of computing: at most for so long.
    Others(Duration),
}

/// How a new call of this guest has to wait, if it does: another guest is at work, and calls of this one wait, or
/// it has used more; or this one has all the calls that it can compute. `longest` is how long it may wait for
/// others of its own guest.
pub(super) fn before(account: &'static Account, longest: Duration) -> Option<Before> {
    let mut own_wait = false;
    if COUNT.get() > 0 {
        let others = WAITING.with_borrow(|queues| {
            let queue = queues.iter().find(|queue| is_of(queue, account))?;
            own_wait = true;
            queue.is_full().then(|| {
                let is_empty = queue.starts.is_empty();
                // Nobody has had a turn before all that was ready has run.
                let delay = queue.delay.longest(is_empty, longest, Instant::now());
                delay.max(ROUND.get().saturating_mul(2)).min(longest)
            })
        });
        if let Some(longest) = others {
            return Some(Before::Others(longest));
        }
    }
    if !is_mixed() {
        return None;
    }
    let has_used_more = || {
        let least = least_of_others(account);
        least.is_some_and(|least| least.saturating_add(SLACK) < account.usage(Instant::now()))
    };
    (own_wait || has_used_more()).then_some(Before::Turn)
}

/// To be told when a call begins that had to wait for others of its guest.
pub(super) fn begins(account: &'static Account) {
    WAITING.with_borrow(|queues| {
        if let Some(queue) = queues.iter().find(|queue| is_of(queue, account)) {
            queue.delay.served(Instant::now());
        }
    });
}

/// Calls of this guest that wait.
fn of_own(account: &'static Account) -> usize {
    WAITING.with_borrow(|queues| {
        let queue = queues.iter().find(|queue| is_of(queue, account));
        queue.map_or(0, |queue| queue.slices.len().saturating_add(queue.starts.len()))
    })
}

/// Whether several guests are at work on this thread.
fn is_mixed() -> bool {
    MIXED.get().is_some_and(|at| clock::now().saturating_sub(at) <= RECENT)
}

/// The least usage of the other guests at work.
fn least_of_others(account: &'static Account) -> Option<u64> {
    let (guest, now) = (place(account), clock::now());
    SEEN.with_borrow(|seen| {
        let others = seen.iter().filter(|seen| seen.guest != guest);
        others.filter(|seen| now.saturating_sub(seen.at) <= RECENT).map(|seen| seen.usage).min()
    })
}

fn place(account: &'static Account) -> usize {
    std::ptr::from_ref(account).addr()
}

/// To be told when a guest's call is about to be polled.
pub(super) fn runs() {
    ONLY_WAITED.set(false);
}

/// To be told when it was.
pub(super) fn ran(account: &'static Account, until: Instant) {
    if ONLY_WAITED.take() {
        return;
    }
    let guest = place(account);
    if GUEST.replace(guest) != guest {
        MIXED.set(Some(clock::now()));
    }
    if COUNT.get() == 0 && !is_mixed() {
        return;
    }
    let usage = account.usage(until);
    if NEXT_GUEST.get() != guest {
        RAN.set(Some(RAN.get().map_or(usage, |least| least.min(usage))));
    }
    let new = Seen { guest, usage, at: clock::now() };
    SEEN.with_borrow_mut(|seen| {
        let known = seen.iter().position(|seen| seen.guest == guest);
        let oldest = || seen.iter().enumerate().min_by_key(|(_, seen)| seen.at).map(|(at, _)| at);
        let place = known.or_else(|| if seen.len() < MOST_SEEN { None } else { oldest() });
        match place.and_then(|place| seen.get_mut(place)) {
            Some(place) => *place = new,
            None => seen.push(new),
        }
    });
}

/// Why a call waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wants {
    /// It is new.
    Start,
    /// It has had a slice. Most often it was the thread that lost its core for a while, and the call is about to end.
    Slice,
    /// It has had several.
    More,
}

/// Waits for a turn.
///
/// # Cancel safety
/// Who no longer waits has no place in the queue.
pub(super) async fn turn(account: &'static Account, wants: Wants) {
    if wants == Wants::Slice && !is_mixed() && COUNT.get() == of_own(account) {
        // No other guest wants anything. Behind its own, a call that is about to end would wait for those that are not.
        tokio::task::yield_now().await;
        return;
    }
    let waiting = Waiting::enter(account, wants);
    let mut has_run = wants != Wants::Start;
    let mut is_patient = has_run;
    loop {
        waiting.be_next(has_run).await;
        has_run = false;
        RAN.set(None);
        // Tokio's way, which has the worker look at the network, and run all that is ready, before it
        // goes on here.
        let yielded = Instant::now();
        tokio::task::yield_now().await;
        ROUND.set(yielded.elapsed());
        if !waiting.is_still_next() {
            continue;
        }
        let usage = waiting.account.usage(Instant::now());
        let others_go_first = match RAN.get() {
            Some(least) => least < usage,
            None => {
                let least = least_of_others(waiting.account);
                let waits = is_patient && least.is_some_and(|least| least < usage);
                if waits {
                    is_patient = false;
                    std::thread::sleep(PATIENCE);
                }
                waits
            }
        };
        if !others_go_first {
            return;
        }
        if RAN.get().is_some() {
            is_patient = wants != Wants::Start;
        }
        ONLY_WAITED.set(true);
    }
}

/// A call's place in the queue of its guest, until dropped.
struct Waiting {
    account: &'static Account,
    wants: Wants,
    ticket: u64,
}

impl Waiting {
    fn enter(account: &'static Account, wants: Wants) -> Self {
        let ticket = TICKETS.get();
        TICKETS.set(ticket.wrapping_add(1));
        COUNT.set(COUNT.get().saturating_add(1));
        WAITING.with_borrow_mut(|queues| {
            let known = queues.iter().position(|queue| is_of(queue, account));
            let place = known.unwrap_or(queues.len());
            if known.is_none() {
                queues.push(Queue::new(account));
            }
            if let Some(queue) = queues.get_mut(place) {
                queue.long = queue.long.saturating_add(usize::from(wants == Wants::More));
                queue.those_who(wants).push_back(Call { ticket, waker: None });
            }
        });
        if NEXT.get().is_none() {
            NEXT.set(Some(ticket));
            NEXT_GUEST.set(place(account));
        }
        Self { account, wants, ticket }
    }

    /// Waits until it is next.
    async fn be_next(&self, has_run: bool) {
        let mut only_waited = !has_run;
        poll_fn(|context| {
            if NEXT.get() == Some(self.ticket) {
                return Poll::Ready(());
            }
            self.wake_by(context.waker());
            ONLY_WAITED.set(only_waited);
            only_waited = true;
            Poll::Pending
        })
        .await;
    }

    fn wake_by(&self, waker: &Waker) {
        WAITING.with_borrow_mut(|queues| {
            let queue = queues.iter_mut().find(|queue| is_of(queue, self.account));
            let calls = queue.into_iter().flat_map(|queue| queue.those_who(self.wants).iter_mut());
            for call in calls.filter(|call| call.ticket == self.ticket) {
                call.waker = Some(waker.clone());
            }
        });
    }

    /// Lets another guest be next that has used less, if there is one.
    fn is_still_next(&self) -> bool {
        choose();
        NEXT.get() == Some(self.ticket)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        COUNT.set(COUNT.get().saturating_sub(1));
        WAITING.with_borrow_mut(|queues| {
            for queue in queues.iter_mut().filter(|queue| is_of(queue, self.account)) {
                queue.long = queue.long.saturating_sub(usize::from(self.wants == Wants::More));
                queue.those_who(self.wants).retain(|call| call.ticket != self.ticket);
            }
            queues.retain(|queue| !(queue.slices.is_empty() && queue.starts.is_empty()));
        });
        if NEXT.get() == Some(self.ticket) {
            choose();
        }
    }
}

/// Chooses who is next: of the guest that has used least, the call that waits longest. Wakes it.
fn choose() {
    let (ticket, waker) = WAITING.with_borrow_mut(|queues| {
        let now = Instant::now();
        let least = queues.iter_mut().min_by_key(|queue| queue.account.usage(now));
        NEXT_GUEST.set(least.as_ref().map_or(0, |queue| place(queue.account)));
        match least.and_then(Queue::first) {
            Some(call) => (Some(call.ticket), call.waker.take()),
            None => (None, None),
        }
    });
    if NEXT.replace(ticket) != ticket
        && let Some(waker) = waker
    {
        waker.wake();
    }
}

impl Queue {
    fn new(account: &'static Account) -> Self {
        let (slices, starts, delay) = (VecDeque::new(), VecDeque::new(), Delay::default());
        Self { account, slices, long: 0, starts, delay }
    }

    fn those_who(&mut self, wants: Wants) -> &mut VecDeque<Call> {
        match wants {
            Wants::Slice | Wants::More => &mut self.slices,
            Wants::Start => &mut self.starts,
        }
    }

    /// Whether as many calls are in the middle of computing as may be.
    fn is_full(&self) -> bool {
        self.long >= BEGUN
    }

    /// The call that is next: the one that waits longest, of those that have begun where no more may.
    fn first(&mut self) -> Option<&mut Call> {
        let begins = match (self.slices.front(), self.starts.front()) {
            (Some(slice), Some(start)) => !self.is_full() && start.ticket < slice.ticket,
            (slice, _) => slice.is_none(),
        };
        self.those_who(if begins { Wants::Start } else { Wants::Slice }).front_mut()
    }
}

fn is_of(queue: &Queue, account: &'static Account) -> bool {
    std::ptr::eq(queue.account, account)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::cpu::Metered;

    const SLICE: Duration = Duration::from_micros(300);

    fn spin(time: Duration) {
        let started = Instant::now();
        while started.elapsed() < time {
            std::hint::spin_loop();
        }
    }

    /// A call that computes all the time, and waits for a turn after each slice.
    async fn computes(account: &'static Account, until: Instant) {
        let computing = async {
            while Instant::now() < until {
                spin(SLICE);
                turn(account, Wants::Slice).await;
            }
        };
        Metered::new(account, computing).await;
    }

    /// The times of guests with so many calls and weights, on one thread.
    fn shares<const N: usize>(guests: [(usize, u32); N]) -> [f64; N] {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let accounts = guests.map(|(_, weight)| Account::open(weight, 0));
        runtime.block_on(async {
            let until = Instant::now() + Duration::from_millis(600);
            let mut calls = Vec::new();
            for ((count, _), account) in guests.iter().zip(accounts) {
                let call = || tokio::spawn(computes(account, until));
                calls.extend(std::iter::repeat_with(call).take(*count));
            }
            for call in calls {
                let ended = tokio::time::timeout(Duration::from_secs(30), call).await;
                ended.expect("each call gets its turns").unwrap();
            }
        });
        accounts.map(|account| account.total().as_secs_f64())
    }

    #[test]
    fn guests_share_evenly_whatever_the_number_of_their_calls() {
        let [one, many] = shares([(1, 1), (16, 1)]);
        assert!((0.7..1.4).contains(&(one / many)), "{one} s and {many} s");
    }

    #[test]
    fn weights_divide_the_time() {
        let [light, heavy] = shares([(4, 100), (4, 300)]);
        assert!((2.2..4.0).contains(&(heavy / light)), "{heavy} s and {light} s");
    }

    #[test]
    fn whoever_is_alone_has_all() {
        let [alone] = shares([(3, 1)]);
        assert!(alone > 0.4, "{alone} s of 0.6");
    }

    #[test]
    fn short_calls_do_not_wait_for_long_ones() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let [long, short] = [(); 2].map(|()| Account::open(1, 0));
        let answered = runtime.block_on(async {
            let until = Instant::now() + Duration::from_millis(400);
            let calls: Vec<_> = (0..32).map(|_| tokio::spawn(computes(long, until))).collect();
            let mut answered = 0;
            while Instant::now() < until {
                Metered::new(short, async { spin(Duration::from_micros(20)) }).await;
                answered += 1;
                tokio::task::yield_now().await;
            }
            for call in calls {
                call.await.unwrap();
            }
            answered
        });
        // Behind all 32 at a time, it would be 40.
        assert!(answered > 400, "{answered} short calls in 400 ms");
        let ratio = short.total().as_secs_f64() / long.total().as_secs_f64();
        assert!(ratio > 0.3, "{ratio}");
    }

    #[test]
    fn only_so_many_calls_of_a_guest_are_in_the_middle_of_computing() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let account = Account::open(1, 0);
        let (begun, most) = (std::rc::Rc::new(Cell::new(0)), std::rc::Rc::new(Cell::new(0)));
        let ended = std::rc::Rc::new(Cell::new(0));
        let local = tokio::task::LocalSet::new();
        local.block_on(&runtime, async {
            let calls: Vec<_> = (0..100)
                .map(|_| {
                    let (begun, most, ended) = (begun.clone(), most.clone(), ended.clone());
                    tokio::task::spawn_local(Metered::new(account, async move {
                        if before(account, Duration::from_secs(10)).is_some() {
                            turn(account, Wants::Start).await;
                        }
                        begun.set(begun.get() + 1);
                        most.set(most.get().max(begun.get()));
                        for _ in 0..3 {
                            spin(SLICE);
                            turn(account, Wants::More).await;
                        }
                        begun.set(begun.get() - 1);
                        ended.set(ended.get() + 1);
                    }))
                })
                .collect();
            for call in calls {
                let call = tokio::time::timeout(Duration::from_secs(30), call).await;
                call.expect("each call gets its turns").unwrap();
            }
        });
        assert_eq!(ended.get(), 100);
        assert!((2..=BEGUN + 2).contains(&most.get()), "{} at once", most.get());
    }

    #[tokio::test]
    async fn who_goes_away_lets_the_next_one_go() {
        let account = Account::open(1, 0);
        let wait = || tokio::spawn(turn(account, Wants::Start));
        let (first, second, third) = (wait(), wait(), wait());
        first.abort();
        second.abort();
        let turn = tokio::time::timeout(Duration::from_secs(10), third).await;
        assert!(turn.expect("it is its turn").is_ok());
        assert_eq!(before(account, Duration::ZERO), None);
        assert_eq!(NEXT.get(), None);
    }
}
