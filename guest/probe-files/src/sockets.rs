//! Servers that it speaks to.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream, ToSocketAddrs as _, UdpSocket},
};

use probing::{Answer, Failure, pair};

use crate::bindings::wasi::keyvalue::{atomics, store};

/// What is answered to a path.
pub fn answer(path: &str, argument: &str) -> Answer {
    match path {
        "/redis" => redis(argument),
        // The server first: by the time of the first write, the host would know a request that was answered before.
        "/redis-and-count" => {
            let answer = redis(argument)?;
            atomics::increment(&store::open("")?, "requests", 1)?;
            Ok(answer)
        }
        "/lookup" => {
            let found = (argument, 0).to_socket_addrs()?;
            Ok(found.map(|address| address.ip().to_string() + "\n").collect())
        }
        "/connect" => connect(argument),
        "/wait" => wait(argument),
        "/listen" => listen(argument),
        "/udp" => udp(argument),
        _ => Err(Failure::NoSuchPath),
    }
}

/// Has a Redis server add one to a counter: `HOST:PORT=KEY`.
fn redis(argument: &str) -> Answer {
    let (server, key) = pair(argument);
    let mut stream = TcpStream::connect(server)?;
    write!(stream, "INCR {key}\r\n")?;
    let mut answer = [0; 100];
    let length = stream.read(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer[..length]).trim().into())
}

/// Connects again and again, up to a number of times, and keeps the connections: `HOST:PORT=TIMES`; how many there
/// were, and why it ended.
fn connect(argument: &str) -> Answer {
    let (server, times) = pair(argument);
    let mut connections = Vec::new();
    for number in 0..times.parse()? {
        match TcpStream::connect(&server) {
            Ok(connection) => connections.push(connection),
            Err(error) => return Ok(format!("{number} connections: {error}")),
        }
    }
    Ok(format!("{times} connections"))
}

/// Reads from a server until it ends the connection.
fn wait(server: &str) -> Answer {
    let mut read = String::new();
    TcpStream::connect(server)?.read_to_string(&mut read)?;
    Ok(read)
}

fn listen(address: &str) -> Answer {
    let listener = TcpListener::bind(address)?;
    Ok(format!("listens at {}", listener.local_addr()?))
}

fn udp(address: &str) -> Answer {
    let socket = UdpSocket::bind(address)?;
    Ok(format!("bound to {}", socket.local_addr()?))
}
