//! Servers that it speaks to, by `wasi:sockets` 0.3.

use std::net::{IpAddr, SocketAddr};

use probing::{Answer, Failure, pair};
use wasip3::{
    sockets::{
        ip_name_lookup::resolve_addresses,
        types::{
            ErrorCode, IpAddress, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress,
            Ipv6SocketAddress, TcpSocket, UdpSocket,
        },
    },
    wit_stream,
};

use crate::bindings::wasi::keyvalue::{atomics, store};

/// What is answered to a path.
pub async fn answer(path: &str, argument: &str) -> Answer {
    match path {
        "/redis" => redis(argument).await,
        // The server first: by the time of the first write, the host would know a request that was answered before.
        "/redis-and-count" => {
            let answer = redis(argument).await?;
            atomics::increment(&store::open("")?, "requests", 1)?;
            Ok(answer)
        }
        "/lookup" => {
            let found = resolve_addresses(argument.to_owned()).await?;
            Ok(found.into_iter().map(|address| ip(address).to_string() + "\n").collect())
        }
        "/connect" => several(argument).await,
        "/wait" => {
            let (contents, _) = connect(argument).await?.receive();
            Ok(String::from_utf8_lossy(&contents.collect().await).into_owned())
        }
        "/listen" => {
            let address: SocketAddr = argument.parse()?;
            let socket = TcpSocket::create(family(address))?;
            socket.bind(socket_address(address))?;
            socket.listen()?;
            Ok(format!("listens at {:?}", socket.get_local_address()?))
        }
        "/udp" => {
            let address: SocketAddr = argument.parse()?;
            let socket = UdpSocket::create(family(address))?;
            socket.bind(socket_address(address))?;
            Ok(format!("bound to {:?}", socket.get_local_address()?))
        }
        _ => Err(Failure::NoSuchPath),
    }
}

/// Has a Redis server add one to a counter: `HOST:PORT=KEY`.
async fn redis(argument: &str) -> Answer {
    let (server, key) = pair(argument);
    let socket = connect(&server).await?;
    let (mut sender, contents) = wit_stream::new();
    let sent = socket.send(contents);
    sender.write_all(format!("INCR {key}\r\n").into_bytes()).await;
    drop(sender);
    sent.await?;
    let (mut answer, _) = socket.receive();
    let (_, read) = answer.read(Vec::with_capacity(100)).await;
    Ok(String::from_utf8_lossy(&read).trim().into())
}

/// Connects again and again, up to a number of times, and keeps the connections: `HOST:PORT=TIMES`; how many there
/// were, and why it ended.
async fn several(argument: &str) -> Answer {
    let (server, times) = pair(argument);
    let mut connections = Vec::new();
    for number in 0..times.parse()? {
        match connect(&server).await {
            Ok(connection) => connections.push(connection),
            Err(Failure::Operation(error)) => return Ok(format!("{number} connections: {error}")),
            Err(failure) => return Err(failure),
        }
    }
    Ok(format!("{times} connections"))
}

/// Connects to the first address of a server that takes a connection.
async fn connect(server: &str) -> Result<TcpSocket, Failure> {
    let addresses = match server.parse::<SocketAddr>() {
        Ok(address) => vec![address],
        Err(_) => {
            let (name, port) = server.rsplit_once(':').ok_or(Failure::Argument("HOST:PORT"))?;
            let port = port.parse()?;
            let found = resolve_addresses(name.to_owned()).await?;
            found.into_iter().map(|address| SocketAddr::new(ip(address), port)).collect()
        }
    };
    let mut last = Failure::Argument("the name of a server with an address");
    for address in addresses {
        match try_connect(address).await {
            Ok(socket) => return Ok(socket),
            Err(error) => last = error.into(),
        }
    }
    Err(last)
}

async fn try_connect(address: SocketAddr) -> Result<TcpSocket, ErrorCode> {
    let socket = TcpSocket::create(family(address))?;
    socket.connect(socket_address(address)).await?;
    Ok(socket)
}

fn family(address: SocketAddr) -> IpAddressFamily {
    if address.is_ipv4() { IpAddressFamily::Ipv4 } else { IpAddressFamily::Ipv6 }
}

fn ip(address: IpAddress) -> IpAddr {
    match address {
        IpAddress::Ipv4((a, b, c, d)) => [a, b, c, d].into(),
        IpAddress::Ipv6((a, b, c, d, e, f, g, h)) => [a, b, c, d, e, f, g, h].into(),
    }
}

fn socket_address(address: SocketAddr) -> IpSocketAddress {
    match address {
        SocketAddr::V4(address) => IpSocketAddress::Ipv4(Ipv4SocketAddress {
            port: address.port(),
            address: address.ip().octets().into(),
        }),
        SocketAddr::V6(address) => IpSocketAddress::Ipv6(Ipv6SocketAddress {
            port: address.port(),
            flow_info: address.flowinfo(),
            address: address.ip().segments().into(),
            scope_id: address.scope_id(),
        }),
    }
}
