//! Connections that are new. A worker looks at them itself until their first request is answered: as tasks they would
//! stand behind all connections that are under way, once for each step of opening, reading and answering.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use super::signals::Signals;

/// Turns that a new connection has before others at the most: a request to a guest that asks the store takes some
/// five, over TLS some more. Whatever takes longer waits as all others do.
const TURNS: u32 = 16;

/// A new connection. Ends with what is left of it, to be a task of its own, or with nothing once it is closed.
pub(super) struct Newcomer<F> {
    /// None once it has ended.
    connection: Option<Pin<Box<F>>>,
    signals: Arc<Signals>,
    turns: u32,
}

impl<F> Newcomer<F> {
    /// `signals` are what the connection tells of its requests.
    pub(super) fn new(connection: F, signals: Arc<Signals>) -> Self {
        Self { connection: Some(Box::pin(connection)), signals, turns: 0 }
    }
}

impl<F: Future<Output = ()>> Future for Newcomer<F> {
    type Output = Option<Pin<Box<F>>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let Some(connection) = &mut this.connection else { return Poll::Ready(None) };
        // As with a task, a panic ends the connection and not its worker. The hook has written it down.
        let polled = catch_unwind(AssertUnwindSafe(|| connection.as_mut().poll(context)));
        if !matches!(polled, Ok(Poll::Pending)) {
            this.connection = None;
            return Poll::Ready(None);
        }
        this.turns += 1;
        if this.turns >= TURNS || this.signals.has_served() {
            return Poll::Ready(this.connection.take());
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use futures_util::FutureExt as _;

    use super::*;

    fn poll<F: Future<Output = ()>>(newcomer: &mut Newcomer<F>) -> Poll<Option<Pin<Box<F>>>> {
        newcomer.poll_unpin(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn one_is_a_newcomer_until_its_first_request_is_answered() {
        let signals = Arc::<Signals>::default();
        let mut newcomer = Newcomer::new(std::future::pending(), Arc::clone(&signals));
        assert!(poll(&mut newcomer).is_pending(), "it has asked for nothing");
        signals.begin();
        assert!(poll(&mut newcomer).is_pending(), "it has no answer");
        signals.end();
        assert!(matches!(poll(&mut newcomer), Poll::Ready(Some(_))));
    }

    #[test]
    fn one_that_takes_long_or_asks_many_at_once_is_as_others() {
        let signals = Arc::<Signals>::default();
        let mut newcomer = Newcomer::new(std::future::pending(), Arc::clone(&signals));
        signals.begin();
        for turn in 1..TURNS {
            assert!(poll(&mut newcomer).is_pending(), "turn {turn}");
        }
        assert!(matches!(poll(&mut newcomer), Poll::Ready(Some(_))));

        let mut newcomer = Newcomer::new(std::future::pending(), Arc::clone(&signals));
        signals.note_http2();
        assert!(matches!(poll(&mut newcomer), Poll::Ready(Some(_))));
    }

    #[test]
    fn one_that_ends_or_panics_leaves_nothing() {
        let signals = Arc::<Signals>::default();
        let mut ends = Newcomer::new(std::future::ready(()), Arc::clone(&signals));
        assert!(matches!(poll(&mut ends), Poll::Ready(None)));
        let mut panics = Newcomer::new(async { panic!("as a test asks") }, signals);
        assert!(matches!(poll(&mut panics), Poll::Ready(None)));
    }
}
