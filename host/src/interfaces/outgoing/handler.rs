//! `wasi:http/outgoing-handler` of WASI 0.2, which takes URLs without a host as well.

use wasmtime::{
    StoreContextMut,
    component::{Linker, Resource},
};
use wasmtime_wasi_http::{
    RequestOptions, WasiHttpView as _,
    p2::{
        bindings::http::{outgoing_handler::Host as _, types::ErrorCode},
        types::{HostFutureIncomingResponse, HostOutgoingRequest},
    },
};

use super::internal::SELF;
use crate::interfaces::Context;

/// The name it is imported by, in the version that stands for all of 0.2.
const NAME: &str = "wasi:http/outgoing-handler@0.2.12";

type Parameters = (Resource<HostOutgoingRequest>, Option<Resource<RequestOptions>>);
type Handled = Result<Resource<HostFutureIncomingResponse>, ErrorCode>;

/// Offers it to a linker, in place of the crate's.
///
/// # Errors
/// When the linker allows no shadowing, which is a bug.
pub(in crate::interfaces) fn add_to_linker(linker: &mut Linker<Context>) -> wasmtime::Result<()> {
    linker.instance(NAME)?.func_wrap(
        "handle",
        |mut store: StoreContextMut<'_, Context>, (request, options): Parameters| {
            Ok((handle(store.data_mut(), request, options)?,))
        },
    )
}

fn handle(
    context: &mut Context,
    request: Resource<HostOutgoingRequest>,
    options: Option<Resource<RequestOptions>>,
) -> wasmtime::Result<Handled> {
    let mut http = context.http();
    // Without one, the crate refuses the request before this host sees it.
    let authority = &mut http.table.get_mut(&request)?.authority;
    if authority.as_ref().is_none_or(String::is_empty) {
        *authority = Some(SELF.to_owned());
    }
    match http.handle(request, options) {
        Ok(response) => Ok(Ok(response)),
        Err(error) => error.downcast().map(Err),
    }
}
