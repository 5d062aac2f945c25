//! Which guests there are, and which release of each answers.
//!
//! The way of a request through here: `routes` finds its `Guest`, which is asked once for the release that is
//! current (`Chosen`), and answers by it, whatever is deployed meanwhile. `table` exchanges the routes. A request with a key goes through
//! `idempotency`, a layer around the call. A release that is not loaded is loaded first (`loading`), which is also
//! how releases are exchanged and tried. `alone` does without the rest of the server, for measurements.

#[cfg(feature = "alone")]
mod alone;
mod guest;
mod idempotency;
mod loading;
mod routes;
mod table;

#[cfg(feature = "alone")]
pub use self::alone::Alone;
pub(crate) use self::{
    guest::Guest,
    idempotency::applies as is_to_be_made_once,
    routes::{Path, Pattern, Routes},
    table::{Local, Table},
};
