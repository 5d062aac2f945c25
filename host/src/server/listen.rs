//! Listening: at addresses and at sockets in the file system, with one socket, or with one for each worker.

use std::{
    fs::{self, File, Permissions, TryLockError},
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::{TcpListener, lookup_host};

use super::ServerError;
use crate::{config::ListenAddress, edge::StdListener};

/// Connections the kernel keeps for a moment in which all workers are busy.
const BACKLOG: i32 = 4_096;

/// Longest time for another program to make its socket in the same folder.
const FOLDER_WAIT: Duration = Duration::from_secs(5);

/// Where a listener is, and its sockets.
pub(super) struct Place {
    pub(super) at: At,
    pub(super) sockets: Vec<StdListener>,
}

/// Where a listener is.
pub(super) enum At {
    Address(SocketAddr),
    File(SocketFile),
}

/// What can be bound, of what was configured.
struct Target {
    address: SocketAddr,
    /// Whether a socket of IPv6 leaves IPv4 to others.
    only_v6: bool,
}

/// Listens at an address, with one socket for each address that it stands for.
///
/// # Errors
/// [`ServerError::Listen`].
pub(super) async fn listen(
    key: &'static str,
    address: &ListenAddress,
) -> Result<Vec<(SocketAddr, TcpListener)>, ServerError> {
    let places = listen_for_each(1, key, std::slice::from_ref(address), 0).await?;
    let listeners = places.into_iter().flat_map(|place| {
        let at = place.at;
        place.sockets.into_iter().filter_map(move |socket| match (&at, socket) {
            (At::Address(at), StdListener::Tcp(socket)) => Some((*at, socket)),
            _ => None,
        })
    });
    let registered: io::Result<_> =
        listeners.map(|(at, socket)| Ok((at, TcpListener::from_std(socket)?))).collect();
    registered.map_err(|reason| error(key, address, reason))
}

/// Listens at addresses, at each once for each worker, with sockets among which the kernel spreads
/// connections (`SO_REUSEPORT`). Linux does that; elsewhere one has all of them, as has one in the file
/// system, which gets `mode`.
///
/// # Errors
/// [`ServerError::Listen`].
pub(super) async fn listen_for_each(
    workers: usize,
    key: &'static str,
    addresses: &[ListenAddress],
    mode: u32,
) -> Result<Vec<Place>, ServerError> {
    let mut places = Vec::new();
    // Who lists every address of both families has one listener for each.
    let has_v4 = |port| {
        let every = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
        addresses.contains(&ListenAddress::Ip(every))
    };
    for address in addresses {
        let failed = |reason| error(key, address, reason);
        match address {
            ListenAddress::Unix(path) => {
                let (file, socket) = bind_file(path, mode).map_err(failed)?;
                places.push(Place { at: At::File(file), sockets: vec![StdListener::Unix(socket)] });
            }
            ListenAddress::Ip(address) => {
                let target = Target { address: *address, only_v6: has_v4(address.port()) };
                places.push(bind_for_each(workers, &target).map_err(failed)?);
            }
            ListenAddress::Every(port) => {
                let address = (Ipv6Addr::UNSPECIFIED, *port).into();
                let v6 = Target { address, only_v6: has_v4(*port) };
                let v4 = Target { address: (Ipv4Addr::UNSPECIFIED, *port).into(), only_v6: false };
                let place = bind_for_each(workers, &v6).or_else(|reason| {
                    // A machine without IPv6.
                    if is_absent(&reason) { bind_for_each(workers, &v4) } else { Err(reason) }
                });
                places.push(place.map_err(failed)?);
            }
            ListenAddress::Name(name, port) => {
                places.extend(bind_name(workers, name, *port).await.map_err(failed)?);
            }
        }
    }
    Ok(places)
}

/// Listens at each address of a name that this machine has. With port 0, at the same one of each.
async fn bind_name(workers: usize, name: &str, port: u16) -> io::Result<Vec<Place>> {
    let (mut places, mut seen, mut absent) = (Vec::new(), Vec::new(), None);
    let mut port = port;
    for mut address in lookup_host((name, port)).await? {
        if seen.contains(&address.ip()) {
            continue;
        }
        seen.push(address.ip());
        address.set_port(port);
        match bind_for_each(workers, &Target { address, only_v6: true }) {
            Ok(place) => {
                if let At::Address(address) = place.at {
                    port = address.port();
                }
                places.push(place);
            }
            // Names of this machine often have an address of IPv6 where there is no IPv6.
            Err(reason) if is_absent(&reason) => {
                tracing::warn!("{name} has the address {}, which this machine lacks", address.ip());
                absent = Some(reason);
            }
            Err(reason) => return Err(reason),
        }
    }
    match (places.is_empty(), absent) {
        (true, Some(reason)) => Err(reason),
        (true, None) => Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address")),
        _ => Ok(places),
    }
}

/// Whether the machine has no such address, or no such family of addresses.
fn is_absent(reason: &io::Error) -> bool {
    /// `EAFNOSUPPORT`
    const NO_SUCH_FAMILY: i32 = 97;
    reason.kind() == io::ErrorKind::AddrNotAvailable
        || (cfg!(target_os = "linux") && reason.raw_os_error() == Some(NO_SUCH_FAMILY))
}

fn bind_for_each(workers: usize, target: &Target) -> io::Result<Place> {
    // Bound before it shares the address: where another server has it, even one that would share,
    // this fails.
    let first = socket(target)?;
    first.bind(&target.address.into())?;
    let address = first.local_addr()?.as_socket().unwrap_or(target.address);
    let others = if cfg!(target_os = "linux") { workers.saturating_sub(1) } else { 0 };
    let mut sockets = Vec::with_capacity(workers);
    first.set_reuse_port(others > 0)?;
    sockets.push(first);
    for _ in 0..others {
        let socket = socket(target)?;
        socket.set_reuse_port(true)?;
        socket.bind(&address.into())?;
        sockets.push(socket);
    }
    let listeners = sockets.into_iter().map(|socket| {
        socket.listen(BACKLOG)?;
        Ok(StdListener::Tcp(socket.into()))
    });
    Ok(Place { at: At::Address(address), sockets: listeners.collect::<io::Result<_>>()? })
}

fn socket(target: &Target) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(target.address), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    // A restarted server need not wait for the last one's connections to be forgotten.
    socket.set_reuse_address(true)?;
    if target.address.is_ipv6() {
        socket.set_only_v6(target.only_v6)?;
    }
    Ok(socket)
}

/// The file of a socket; removed when dropped, if it still is that one.
pub(super) struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let is_ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|now| (now.dev(), now.ino()) == (self.device, self.inode));
        if is_ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(%error, "the socket {} cannot be removed", self.path.display());
        }
    }
}

/// Listens at a socket in the file system. One that a server has left behind is replaced; one that
/// somebody listens at is not, and neither is any other file.
fn bind_file(path: &Path, mode: u32) -> io::Result<(SocketFile, std::os::unix::net::UnixListener)> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    // Two servers that start at once must not remove each other's.
    let _one_at_a_time = lock(folder.unwrap_or(Path::new(".")))?;
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            let text = "there is a file of that name that is no socket";
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
        }
        Ok(_) if has_listener(path)? => return Err(io::ErrorKind::AddrInUse.into()),
        Ok(_) => fs::remove_file(path)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::unix(path)?)?;
    let found = fs::symlink_metadata(path)?;
    let file = SocketFile { path: path.to_owned(), device: found.dev(), inode: found.ino() };
    // Nobody can connect before it listens.
    fs::set_permissions(path, Permissions::from_mode(mode))?;
    socket.listen(BACKLOG)?;
    Ok((file, socket.into()))
}

/// Whether somebody listens at a socket: else a connection is refused at once.
fn has_listener(path: &Path) -> io::Result<bool> {
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // A listener whose queue is full would be waited for.
    probe.set_nonblocking(true)?;
    match probe.connect(&SockAddr::unix(path)?) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(error),
        _ => Ok(true),
    }
}

/// Locks a folder, for as long as what comes back is kept.
fn lock(folder: &Path) -> io::Result<File> {
    let folder = File::open(folder)?;
    let begun = Instant::now();
    loop {
        match folder.try_lock() {
            Ok(()) => return Ok(folder),
            Err(TryLockError::WouldBlock) if begun.elapsed() < FOLDER_WAIT => {
                std::thread::sleep(Duration::from_millis(10));
            }
            // Some other program's lock, or a file system without locks.
            Err(_) => return Ok(folder),
        }
    }
}

fn error(key: &'static str, address: &ListenAddress, reason: io::Error) -> ServerError {
    let advice = match reason.kind() {
        io::ErrorKind::AddrInUse => {
            format!(
                "another program does, or another listener of this one; stop it or choose another with --{key} ADDRESS"
            )
        }
        _ => format!("choose another with --{key} ADDRESS"),
    };
    ServerError::Listen { address: address.to_string(), reason, advice }
}
