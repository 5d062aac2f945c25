//! Listening: at one address, with one socket, or with one for each worker.

use std::{io, net::SocketAddr};

use tokio::net::{TcpListener, TcpSocket};

use super::ServerError;

/// Connections the kernel keeps for a moment in which all workers are busy.
const BACKLOG: u32 = 4_096;

/// Listens at an address; gives the one it has, which differs where port 0 was asked for.
///
/// # Errors
/// [`ServerError::Listen`].
pub(super) fn listen(
    key: &str,
    address: SocketAddr,
) -> Result<(SocketAddr, TcpListener), ServerError> {
    let listening = || {
        let socket = bind(address)?;
        let address = socket.local_addr()?;
        Ok((address, socket.listen(BACKLOG)?))
    };
    listening().map_err(|reason| error(key, address, reason))
}

/// Listens at an address once for each worker, with sockets among which the kernel spreads connections
/// (`SO_REUSEPORT`). Linux does that; elsewhere one has all of them.
///
/// # Errors
/// [`ServerError::Listen`].
pub(super) fn listen_for_each(
    workers: usize,
    key: &str,
    address: SocketAddr,
) -> Result<(SocketAddr, Vec<std::net::TcpListener>), ServerError> {
    let listening = || {
        // Bound before it shares the address: where another server has it, even one that would share,
        // this fails.
        let first = bind(address)?;
        let address = first.local_addr()?;
        let others = if cfg!(target_os = "linux") { workers.saturating_sub(1) } else { 0 };
        let mut sockets = Vec::with_capacity(workers);
        first.set_reuseport(others > 0)?;
        sockets.push(first);
        for _ in 0..others {
            let socket = socket(address)?;
            socket.set_reuseport(true)?;
            socket.bind(address)?;
            sockets.push(socket);
        }
        let listeners = sockets.into_iter().map(|socket| socket.listen(BACKLOG)?.into_std());
        Ok((address, listeners.collect::<io::Result<_>>()?))
    };
    listening().map_err(|reason| error(key, address, reason))
}

fn bind(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = socket(address)?;
    socket.bind(address)?;
    Ok(socket)
}

fn socket(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // A restarted server need not wait for the last one's connections to be forgotten.
    socket.set_reuseaddr(true)?;
    Ok(socket)
}

fn error(key: &str, address: SocketAddr, reason: io::Error) -> ServerError {
    let advice = match reason.kind() {
        io::ErrorKind::AddrInUse => {
            format!("another program does; stop it or choose another with --{key} ADDRESS")
        }
        _ => format!("choose another with --{key} ADDRESS"),
    };
    ServerError::Listen { address, reason, advice }
}
