//! The way in: a request to a guest, made once if it has an `Idempotency-Key`.

use std::sync::Arc;

use tally_state::Handle;

use super::{
    Request, Response,
    failure::Failure,
    guest::{Chosen, Guest},
    idempotency,
};
use crate::interfaces::Effects;

/// Answers one request in a fresh instance of a release.
///
/// # Errors
/// [`Failure`], when there is no instance to be had or the guest gives no proper response.
///
/// # Cancel safety
/// Dropping the future throws the instance away. A state operation that it was waiting for is
/// withdrawn if it was not sent yet.
pub(crate) async fn answer(
    guest: &Arc<Guest>,
    chosen: Chosen,
    state: Handle,
    request: Request,
) -> Result<Response, Failure> {
    if idempotency::applies(&request.method, &request.headers) {
        // In a box, as it would double the size of every request's future, and few have a key.
        return Box::pin(idempotency::answer(guest, chosen, state, request)).await;
    }
    guest.run(chosen, state, request, Effects::default()).await
}
