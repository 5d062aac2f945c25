//! How a request asks the store: every operation is counted, its effect is recorded, and a request that was
//! answered before is stopped.

use std::sync::Arc;

use tally_state::{Error, Handle};
use wasmtime::Result;

use super::{AnsweredBefore, Context, Effects, Settings};

/// State operations one request may ask for. A page of work for any handler, and an end to one
/// that loops.
const MAX_OPERATIONS: u32 = 1_000;

/// Asks for a request.
#[derive(Clone, Copy)]
pub(super) struct Operator<'a> {
    pub(super) state: &'a Handle,
    settings: &'a Arc<Settings>,
    effects: &'a Effects,
    is_one_of_several: bool,
}

/// The same, for what outlives a call of the guest: a stream, or a call that runs beside others.
#[derive(Clone)]
pub(super) struct OwnOperator {
    state: Handle,
    settings: Arc<Settings>,
    effects: Effects,
    /// Whether others of the request may be on their way.
    is_one_of_several: bool,
}

impl OwnOperator {
    pub(super) fn by(&self) -> Operator<'_> {
        let Self { state, settings, effects, is_one_of_several } = self;
        Operator { state, settings, effects, is_one_of_several: *is_one_of_several }
    }
}

/// Why an operation was not done, or may not have been.
#[derive(Debug)]
pub(super) enum Failed {
    /// The request has used up its operations.
    Operations,
    Read(Error),
    Write(Error),
}

/// What a guest is told of a failure. The store's own words stay with the host, because they may
/// name what is none of a client's business.
impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Operations => write!(
                f,
                "this request has used up its {MAX_OPERATIONS} state operations; nothing was changed"
            ),
            Self::Read(Error::Rejected(rejection)) | Self::Write(Error::Rejected(rejection)) => {
                rejection.fmt(f)
            }
            Self::Read(Error::NotApplied(_)) | Self::Write(Error::NotApplied(_)) => f.write_str(
                "the store cannot be used at the moment; nothing was changed, and it is safe to retry",
            ),
            Self::Read(Error::Unknown(_)) => f.write_str(
                "the store did not answer; nothing was changed, and it is safe to retry",
            ),
            Self::Write(Error::Unknown(_)) => f.write_str(
                "the store did not answer; whether the change was made is not known",
            ),
        }
    }
}

/// What became of an operation. The outer result is the guest's end.
type Outcome<T> = Result<Result<T, Failed>>;

impl Operator<'_> {
    /// Runs an operation that reads. A request that is to be applied once, and that reads before it
    /// writes, may have been answered before, and what it then wrote must not send it another way:
    /// if so, the guest is stopped here.
    pub(super) async fn reading<T>(
        self,
        run: impl Future<Output = Result<T, Error>>,
    ) -> Outcome<T> {
        if (self.is_one_of_several || !self.effects.has_read())
            && let Err(failed) = self.look_up().await?
        {
            return Ok(Err(failed));
        }
        Ok(self.recorded(false, run, |_| true).await)
    }

    /// Runs a write that may succeed and change nothing. The guest is stopped if it turns out that
    /// its request was answered before, and the response is stored.
    pub(super) async fn attempt<T>(
        self,
        run: impl Future<Output = Result<T, Error>>,
        changed: impl FnOnce(&T) -> bool,
    ) -> Outcome<T> {
        // Others are on their way before this one returns, so it has to be known before.
        if self.is_one_of_several
            && let Err(failed) = self.look_up().await?
        {
            return Ok(Err(failed));
        }
        let answer = self.recorded(true, run, changed).await;
        self.stop_if_answered()?;
        Ok(answer)
    }

    /// Runs a write that changes something if it succeeds.
    pub(super) async fn writing<T>(
        self,
        run: impl Future<Output = Result<T, Error>>,
    ) -> Outcome<T> {
        self.attempt(run, |_| true).await
    }

    /// Stops a guest whose request is to be applied once, and was answered before.
    async fn look_up(self) -> Outcome<()> {
        if self.state.scope().is_none() {
            return Ok(Ok(()));
        }
        let (state, settings) = (self.state.clone(), Arc::clone(self.settings));
        // In a box, as few requests have a key. Equal reads share one exchange.
        let looking = Box::pin(async move { state.look_up(settings.buckets.stored()).await });
        match looking.await {
            Ok(()) => self.stop_if_answered().map(Ok),
            Err(error) => {
                self.effects.end(false, &Err::<(), _>(error.clone()), |()| false);
                Ok(Err(Failed::Read(error)))
            }
        }
    }

    fn stop_if_answered(self) -> Result<()> {
        let answered = self.state.scope().is_some_and(|scope| scope.response().is_some());
        if answered && !self.effects.streams() {
            return Err(AnsweredBefore.into());
        }
        Ok(())
    }

    /// Runs an operation, and records its effect.
    async fn recorded<T>(
        self,
        write: bool,
        run: impl Future<Output = Result<T, Error>>,
        changed: impl FnOnce(&T) -> bool,
    ) -> Result<T, Failed> {
        if !self.effects.begin(MAX_OPERATIONS, write) {
            return Err(Failed::Operations);
        }
        let result = run.await;
        self.effects.end(write, &result, changed);
        result.map_err(|error| if write { Failed::Write(error) } else { Failed::Read(error) })
    }
}

impl Context {
    pub(super) fn operator(&self) -> Operator<'_> {
        let Self { state, settings, effects, .. } = self;
        Operator { state, settings, effects, is_one_of_several: false }
    }

    pub(super) fn own_operator(&self) -> OwnOperator {
        let Self { state, settings, effects, .. } = self;
        OwnOperator {
            state: state.clone(),
            settings: Arc::clone(settings),
            effects: effects.clone(),
            is_one_of_several: false,
        }
    }

    /// For an operation of a guest that may have several on their way at a time.
    pub(super) fn one_of_several(&self) -> OwnOperator {
        OwnOperator { is_one_of_several: true, ..self.own_operator() }
    }
}
