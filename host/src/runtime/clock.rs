//! The clock by which guests that compute are looked at: one thread for all engines, which sleeps
//! while no guest is at work.

use std::{
    sync::{
        LazyLock, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering, fence},
    },
    thread::Thread,
    time::{Duration, Instant},
};

use wasmtime::EngineWeak;

/// How often guests are looked at while none is known to compute long: short against the default limit on
/// computing, long against the cost of a tick, which is some microseconds and interrupts a worker.
const CALM: Duration = Duration::from_millis(10);

/// How often a guest that computes long is looked at: a slice of it takes about as much, for which others
/// wait. Short against a client's patience.
const HURRY: Duration = Duration::from_millis(1);

/// For how many milliseconds it hurries, after a guest was seen to compute long.
const HURRIES: u64 = 200;

/// Milliseconds so far, about.
static NOW: AtomicU64 = AtomicU64::new(0);

/// Until when it hurries.
static HURRY_UNTIL: AtomicU64 = AtomicU64::new(0);

static CLOCK: LazyLock<Clock> = LazyLock::new(Clock::default);

#[derive(Default)]
struct Clock {
    engines: Mutex<Vec<Ticking>>,
    thread: Mutex<Option<Thread>>,
    /// Whether the thread sleeps, or is about to once it has looked a last time.
    is_asleep: AtomicBool,
}

struct Ticking {
    engine: EngineWeak,
    is_at_work: Box<dyn Fn() -> bool + Send>,
}

/// Has an engine's epoch tick while one of its guests is at work, for as long as the engine lives.
///
/// # Errors
/// When there can be no further thread.
pub(super) fn drive(
    engine: &wasmtime::Engine,
    is_at_work: impl Fn() -> bool + Send + 'static,
) -> std::io::Result<()> {
    let ticking = Ticking { engine: engine.weak(), is_at_work: Box::new(is_at_work) };
    lock(&CLOCK.engines).push(ticking);
    let mut thread = lock(&CLOCK.thread);
    match &*thread {
        Some(thread) => thread.unpark(),
        None => {
            let started = std::thread::Builder::new().name("clock".into()).spawn(tick)?;
            *thread = Some(started.thread().clone());
        }
    }
    Ok(())
}

/// Milliseconds so far, about: a time that goes on only while guests are at work.
pub(super) fn now() -> u64 {
    NOW.load(Ordering::Relaxed)
}

pub(super) fn hurries() -> bool {
    now() < HURRY_UNTIL.load(Ordering::Relaxed)
}

/// To be called when a guest was seen to compute long.
pub(super) fn hurry() {
    let did = hurries();
    HURRY_UNTIL.store(now().saturating_add(HURRIES), Ordering::Relaxed);
    if !did && let Some(thread) = &*lock(&CLOCK.thread) {
        thread.unpark();
    }
}

/// What a guest takes at a stretch, which is looked at at each tick, and more only if its thread had to wait
/// for a core, or for one long instruction of the guest.
pub(super) const LONGEST_STRETCH: Duration = CALM.saturating_mul(2);

/// To be called when a guest was given a place to work, and before it does: the clock may sleep.
pub(super) fn wake() {
    // Either this sees that the clock goes to sleep, or the clock sees who is at work.
    fence(Ordering::SeqCst);
    if CLOCK.is_asleep.load(Ordering::Relaxed) {
        wake_thread();
    }
}

#[cold]
fn wake_thread() {
    if CLOCK.is_asleep.swap(false, Ordering::SeqCst)
        && let Some(thread) = &*lock(&CLOCK.thread)
    {
        thread.unpark();
    }
}

fn tick() {
    loop {
        let pause = if hurries() { HURRY } else { CALM };
        // Woken early when it is to hurry.
        let started = Instant::now();
        std::thread::park_timeout(pause);
        let passed = u64::try_from(started.elapsed().as_millis()).unwrap_or(1).max(1);
        NOW.fetch_add(passed, Ordering::Relaxed);
        if is_anyone_at_work(true) {
            continue;
        }
        CLOCK.is_asleep.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        if is_anyone_at_work(false) {
            CLOCK.is_asleep.store(false, Ordering::SeqCst);
            continue;
        }
        // Woken for nothing, it looks again and sleeps on.
        while CLOCK.is_asleep.load(Ordering::SeqCst) {
            std::thread::park();
            if is_anyone_at_work(false) {
                CLOCK.is_asleep.store(false, Ordering::SeqCst);
            }
        }
    }
}

/// Whether a guest of any engine is at work. May have the epochs of those engines move on.
fn is_anyone_at_work(ticks: bool) -> bool {
    let mut engines = lock(&CLOCK.engines);
    let mut any = false;
    engines.retain(|ticking| {
        let Some(engine) = ticking.engine.upgrade() else { return false };
        if (ticking.is_at_work)() {
            any = true;
            if ticks {
                engine.increment_epoch();
            }
        }
        true
    });
    any
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, atomic::AtomicUsize};

    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    fn until(what: &str, is_so: impl Fn() -> bool) {
        let started = Instant::now();
        while !is_so() {
            assert!(started.elapsed() < LONG, "not {what} within {LONG:?}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn it_ticks_while_a_guest_is_at_work_and_sleeps_otherwise() {
        let engine = wasmtime::Engine::default();
        let at_work = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&at_work);
        drive(&engine, move || seen.load(Ordering::SeqCst) > 0).unwrap();
        for _ in 0..100 {
            until("asleep", || CLOCK.is_asleep.load(Ordering::SeqCst));
            let before = now();
            at_work.fetch_add(1, Ordering::SeqCst);
            wake();
            until("ticking", || now() > before + 1);
            at_work.fetch_sub(1, Ordering::SeqCst);
        }
    }
}
