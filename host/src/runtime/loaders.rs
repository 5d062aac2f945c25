//! Threads that load guests: one for each core, for as long as the runtime lives.
//!
//! They stay so that what is kept of one guest lies beside what is kept of the next: the allocator gives each thread
//! memory of its own, and a thread for each guest would leave the data of a thousand guests in ten times as
//! many pages, of which a request to a guest that was not asked for lately finds none in the caches.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, Sender, channel},
    },
};

/// Something to be done.
type Work = Box<dyn FnOnce() + Send>;

/// The threads. They end when this is dropped and all that was given is done.
pub(super) struct Loaders(Sender<Work>);

impl Loaders {
    /// Starts the threads.
    pub(super) fn start() -> Self {
        let (give, given) = channel();
        let given = Arc::new(Mutex::new(given));
        let cores = std::thread::available_parallelism().map_or(1, Into::into);
        for number in 0..cores {
            let given = Arc::clone(&given);
            let thread = std::thread::Builder::new().name(format!("load-{number}"));
            if let Err(error) = thread.spawn(move || run(&given)) {
                tracing::warn!(%error, "a thread that loads guests cannot be started");
            }
        }
        Self(give)
    }

    /// Has something done, in order of what was given.
    ///
    /// # Errors
    /// When no thread could be started.
    pub(super) fn give(&self, work: Work) -> Result<(), &'static str> {
        self.0.send(work).map_err(|_| "no thread to load it could be started")
    }
}

fn run(given: &Mutex<Receiver<Work>>) {
    loop {
        // One thread waits for work, and the others for their turn to do so.
        let next = given.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(work) = next else { return };
        // Whoever waits for it is told by its end.
        let _ = catch_unwind(AssertUnwindSafe(work));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_panics_ends_no_thread() {
        let loaders = Loaders::start();
        let cores = std::thread::available_parallelism().map_or(1, Into::into);
        for _ in 0..2 * cores {
            loaders.give(Box::new(|| panic!("asked to"))).unwrap();
        }
        let (done, all) = channel();
        for number in 0..10 {
            let done = done.clone();
            loaders.give(Box::new(move || done.send(number).unwrap())).unwrap();
        }
        let mut numbers: Vec<i32> = (0..10)
            .map(|_| all.recv_timeout(Duration::from_secs(30)).expect("a thread is left"))
            .collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (0..10).collect::<Vec<_>>());
    }
}
