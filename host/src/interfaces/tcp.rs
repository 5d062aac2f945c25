//! TCP connections of guests: to hosts that the configuration names, and to nobody by default. As for outgoing
//! requests, both the name is checked and each address that it resolves to.
//!
//! A guest gets addresses only for names that it may connect to, so it cannot ask the network for others, and may
//! connect only to those and to addresses that are configured themselves. It listens to nobody, and has no UDP.

pub(super) mod concurrent;

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use wasmtime::{
    Result, StoreContextMut,
    component::{Linker, Resource, ResourceType},
};
use wasmtime_wasi::{
    WasiCtxBuilder, WasiCtxView, WasiView as _,
    p2::{
        DynPollable, Network, Pollable,
        bindings::sockets::{
            network::{ErrorCode, Host as _, IpAddress, IpAddressFamily},
            tcp_create_socket::Host as _,
        },
        subscribe,
    },
    sockets::{SocketAddrUse, WasiSocketsCtxView},
};

use super::{Context, Effects, Settings, denied};

/// Interfaces that the crate `wasmtime-wasi` defines, by its version of them.
const LOOKUP: &str = "wasi:sockets/ip-name-lookup@0.2.12";
/// See [`LOOKUP`].
const CREATE: &str = "wasi:sockets/tcp-create-socket@0.2.12";

/// Addresses that one request may learn: those of some names.
const MAX_ADDRESSES: usize = 1_000;

/// What one request has learnt: addresses, and the names that they are of.
#[derive(Clone, Default)]
pub(super) struct Resolved(Arc<Mutex<Known>>);

/// Addresses and their names.
type Known = Vec<(IpAddr, Arc<str>)>;

impl Resolved {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes the addresses of a name; `false` if there is no room for them.
    fn learn(&self, name: &str, addresses: &[IpAddr]) -> bool {
        let mut known = self.lock();
        let name: Arc<str> = name.into();
        if known.len().saturating_add(addresses.len()) > MAX_ADDRESSES {
            return false;
        }
        known.extend(addresses.iter().map(|address| (*address, Arc::clone(&name))));
        true
    }
}

/// Lets the guest connect to whom it may.
pub(super) fn allow(
    builder: &mut WasiCtxBuilder,
    settings: &Arc<Settings>,
    effects: &Effects,
    resolved: &Resolved,
) {
    let (settings, effects, resolved) = (Arc::clone(settings), effects.clone(), resolved.clone());
    builder.allow_tcp(true).socket_addr_check(move |address, reason| {
        let is_allowed = match reason {
            // To connect, a socket is bound to any port.
            SocketAddrUse::TcpBind => address.ip().is_unspecified() && address.port() == 0,
            SocketAddrUse::TcpConnect => may_connect(&settings, &resolved, address),
            _ => false,
        };
        if is_allowed && matches!(reason, SocketAddrUse::TcpConnect) {
            // What is sent there may change something.
            effects.look_outside();
            effects.reach_out();
        }
        Box::pin(async move { is_allowed })
    });
}

fn may_connect(settings: &Settings, resolved: &Resolved, address: SocketAddr) -> bool {
    let (tcp, ip) = (&settings.tcp, address.ip().to_canonical());
    let is_known = resolved
        .lock()
        .iter()
        .any(|(known, name)| *known == ip && tcp.allows(name, address.port()));
    let is_allowed = is_known || (tcp.allows(&ip.to_string(), address.port()) && tcp.may_reach(ip));
    if !is_allowed {
        denied::connection(settings, address);
    }
    is_allowed
}

/// The addresses of a name, which the guest takes one by one.
struct Addresses(std::vec::IntoIter<IpAddr>);

#[wasmtime_wasi::async_trait]
impl Pollable for Addresses {
    async fn ready(&mut self) {}
}

/// Why a guest gets no addresses for a name.
enum Unresolved {
    Denied,
    NotFound,
    /// It has learnt as many as it may.
    TooMany,
}

impl From<Unresolved> for ErrorCode {
    fn from(reason: Unresolved) -> Self {
        match reason {
            Unresolved::Denied => Self::AccessDenied,
            Unresolved::NotFound => Self::NameUnresolvable,
            Unresolved::TooMany => Self::OutOfMemory,
        }
    }
}

/// Looks a name up for a guest that may connect to it.
async fn resolve(settings: &Settings, name: &str) -> Result<Vec<IpAddr>, Unresolved> {
    if !settings.tcp.allows_name(name) {
        denied::name(settings, name);
        return Err(Unresolved::Denied);
    }
    let addresses = match name.parse::<IpAddr>() {
        Ok(address) => vec![address],
        Err(_) => {
            let found = tally_net::resolve(name, 0).await.map_err(|error| {
                tracing::debug!(guest = %settings.name, %error, "a name has no address");
                Unresolved::NotFound
            })?;
            found.into_iter().map(|address| address.ip().to_canonical()).collect()
        }
    };
    // All of them, as for outgoing requests.
    if !addresses.iter().all(|address| settings.tcp.may_reach(*address)) {
        denied::private(settings, name);
        return Err(Unresolved::Denied);
    }
    Ok(addresses)
}

impl Context {
    /// Notes the addresses that the guest has learnt.
    fn learn(&mut self, name: &str, addresses: &[IpAddr]) -> Result<(), Unresolved> {
        match self.resolved().is_some_and(|resolved| resolved.learn(name, addresses)) {
            true => Ok(()),
            false => Err(Unresolved::TooMany),
        }
    }

    /// Counts a socket that the guest makes; `false` if it may have no more. Where it may connect to nobody, it gets
    /// none anyway.
    fn may_make_socket(&mut self) -> bool {
        !self.settings.tcp.allows_any() || self.may_open()
    }

    fn sockets(&mut self) -> WasiSocketsCtxView<'_> {
        let WasiCtxView { ctx, table } = self.ctx();
        WasiSocketsCtxView { ctx: ctx.sockets(), table }
    }
}

/// Offers the lookup of names to a linker, and sockets that are counted, in the place of those of `wasmtime-wasi`.
///
/// # Errors
/// When an interface is not there, which is a bug.
pub(super) fn add_to_linker(linker: &mut Linker<Context>) -> Result<()> {
    linker.allow_shadowing(true);
    linker.instance(CREATE)?.func_wrap(
        "create-tcp-socket",
        |mut store: StoreContextMut<'_, Context>, (family,): (IpAddressFamily,)| {
            let context = store.data_mut();
            if !context.may_make_socket() {
                return Ok((Err(ErrorCode::NewSocketLimit),));
            }
            let mut sockets = context.sockets();
            Ok((match sockets.create_tcp_socket(family) {
                Ok(socket) => Ok(socket),
                Err(error) => Err(sockets.convert_error_code(error)?),
            },))
        },
    )?;
    let mut lookup = linker.instance(LOOKUP)?;
    let drop_addresses = |mut store: StoreContextMut<'_, Context>, handle| {
        store.data_mut().table().delete(Resource::<Addresses>::new_own(handle))?;
        Ok(())
    };
    lookup.resource("resolve-address-stream", ResourceType::host::<Addresses>(), drop_addresses)?;
    lookup.func_wrap_async(
        "resolve-addresses",
        |mut store: StoreContextMut<'_, Context>, (_, name): (Resource<Network>, String)| {
            Box::new(async move {
                let context = store.data_mut();
                context.look_outside();
                let settings = Arc::clone(&context.settings);
                let found = resolve(&settings, &name).await;
                let found = found.and_then(|found| context.learn(&name, &found).map(|()| found));
                Ok((match found {
                    Ok(found) => Ok(context.table().push(Addresses(found.into_iter()))?),
                    Err(reason) => Err(ErrorCode::from(reason)),
                },))
            })
        },
    )?;
    lookup.func_wrap(
        "[method]resolve-address-stream.resolve-next-address",
        |mut store: StoreContextMut<'_, Context>, (this,): (Resource<Addresses>,)| {
            let next = store.data_mut().table().get_mut(&this)?.0.next();
            Ok((Ok::<_, ErrorCode>(next.map(IpAddress::from)),))
        },
    )?;
    lookup.func_wrap(
        "[method]resolve-address-stream.subscribe",
        |mut store: StoreContextMut<'_, Context>, (this,): (Resource<Addresses>,)| {
            let pollable: Resource<DynPollable> = subscribe(store.data_mut().table(), this)?;
            Ok((pollable,))
        },
    )?;
    linker.allow_shadowing(false);
    Ok(())
}
