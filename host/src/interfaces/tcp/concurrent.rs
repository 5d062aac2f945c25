//! TCP connections of guests of WASI 0.3: to the same hosts and within the same limits as those of 0.2.

use std::{net::IpAddr, sync::Arc};

use wasmtime::{
    Result, StoreContextMut,
    component::{Accessor, Linker},
};
use wasmtime_wasi::p3::bindings::sockets::{
    ip_name_lookup::ErrorCode as LookupError,
    types::{ErrorCode, Host as _, HostTcpSocket as _, IpAddress, IpAddressFamily},
};

use super::{Unresolved, resolve};
use crate::interfaces::Context;

/// Interfaces that the crate `wasmtime-wasi` defines, by its version of them.
const LOOKUP: &str = "wasi:sockets/ip-name-lookup@0.3.0";
/// See [`LOOKUP`].
const TYPES: &str = "wasi:sockets/types@0.3.0";

impl From<Unresolved> for LookupError {
    fn from(reason: Unresolved) -> Self {
        match reason {
            Unresolved::Denied => Self::AccessDenied,
            Unresolved::NotFound => Self::NameUnresolvable,
            Unresolved::TooMany => {
                Self::Other(Some("the request has looked up too many names".into()))
            }
        }
    }
}

/// Offers the lookup of names to a linker, and sockets that are counted: see [`super::add_to_linker`].
///
/// # Errors
/// When an interface is not there, which is a bug.
pub(in crate::interfaces) fn add_to_linker(linker: &mut Linker<Context>) -> Result<()> {
    linker.allow_shadowing(true);
    linker.instance(TYPES)?.func_wrap(
        "[static]tcp-socket.create",
        |mut store: StoreContextMut<'_, Context>, (family,): (IpAddressFamily,)| {
            let context = store.data_mut();
            if !context.may_make_socket() {
                let reason = "the request has as many files and sockets as it may";
                return Ok((Err(ErrorCode::Other(Some(reason.into()))),));
            }
            let mut sockets = context.sockets();
            Ok((match sockets.create(family) {
                Ok(socket) => Ok(socket),
                Err(error) => Err(sockets.convert_error_code(error)?),
            },))
        },
    )?;
    linker.instance(LOOKUP)?.func_wrap_concurrent(
        "resolve-addresses",
        |store: &Accessor<Context>, (name,): (String,)| {
            Box::pin(async move { Ok((lookup(store, &name).await.map_err(LookupError::from),)) })
        },
    )?;
    linker.allow_shadowing(false);
    Ok(())
}

async fn lookup(store: &Accessor<Context>, name: &str) -> Result<Vec<IpAddress>, Unresolved> {
    let settings = store.with(|mut store| {
        store.get().look_outside();
        Arc::clone(&store.get().settings)
    });
    let found = resolve(&settings, name).await?;
    store.with(|mut store| store.get().learn(name, &found))?;
    Ok(found.into_iter().map(<IpAddress as From<IpAddr>>::from).collect())
}
