//! The PROXY protocol, versions 1 and 2 (haproxy.org, proxy-protocol.txt): a proxy that passes bytes on says
//! first whose they are.
//!
//! Whether a connection begins so is decided by its address, never by its bytes.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use tokio::io::{AsyncRead, AsyncReadExt as _};

/// How version 2 begins.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// Longest header of version 1, with its line end.
const MOST_LINE: usize = 107;

/// Most bytes of addresses and further values in version 2. Proxies add a certificate's names, and not
/// a certificate.
const MOST_VALUES: u16 = 4_096;

/// Reads the header and nothing behind it. Gives the client's address; none where the proxy speaks for
/// itself (`LOCAL`, `UNKNOWN`), as it does to look whether this server is well.
///
/// # Errors
/// Of the stream, or [`io::ErrorKind::InvalidData`].
pub(super) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<SocketAddr>> {
    // Both versions are longer.
    let mut start = [0; 12];
    stream.read_exact(&mut start).await?;
    if start == SIGNATURE { version_2(stream).await } else { version_1(stream, &start).await }
}

fn invalid(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the PROXY protocol: {reason}"))
}

async fn version_1(
    stream: &mut (impl AsyncRead + Unpin),
    start: &[u8],
) -> io::Result<Option<SocketAddr>> {
    if !start.starts_with(b"PROXY ") {
        return Err(invalid("a trusted proxy's connection does not begin with it"));
    }
    let mut line = start.to_vec();
    // Byte by byte, as what follows is for others to read. It is once for a connection.
    while !line.ends_with(b"\r\n") {
        if line.len() == MOST_LINE {
            return Err(invalid("the line does not end"));
        }
        line.push(stream.read_u8().await?);
    }
    let line = line.strip_suffix(b"\r\n").unwrap_or_default();
    let line = std::str::from_utf8(line).map_err(|_| invalid("the line is not text"))?;
    let words: Vec<&str> = line.split(' ').skip(1).collect();
    let wrong = || invalid("the line does not name two addresses and ports");
    match *words.as_slice() {
        ["UNKNOWN", ..] => Ok(None),
        [family, source, target, port, target_port] => {
            let address = match family {
                "TCP4" => both::<Ipv4Addr>(source, target).map(IpAddr::from),
                "TCP6" => both::<Ipv6Addr>(source, target).map(IpAddr::from),
                _ => None,
            };
            let (port, _) = number(port).zip(number(target_port)).ok_or_else(wrong)?;
            Ok(Some(SocketAddr::new(address.ok_or_else(wrong)?, port)))
        }
        _ => Err(wrong()),
    }
}

/// The first of two addresses, if both are.
fn both<A: std::str::FromStr>(source: &str, target: &str) -> Option<A> {
    target.parse::<A>().ok().and(source.parse().ok())
}

/// A port in decimal, without zeros before it.
fn number(text: &str) -> Option<u16> {
    let is_plain = text == "0" || !text.starts_with(['0', '+']);
    text.parse().ok().filter(|_| is_plain)
}

async fn version_2(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<SocketAddr>> {
    let (version, family) = (stream.read_u8().await?, stream.read_u8().await?);
    let length = stream.read_u16().await?;
    if length > MOST_VALUES {
        return Err(invalid("there are too many values"));
    }
    let mut values = vec![0; length.into()];
    stream.read_exact(&mut values).await?;
    match (version, family) {
        // LOCAL: the addresses are to be ignored.
        (0x20, _) => Ok(None),
        (0x21, 0x11) => {
            let (address, rest) =
                values.split_first_chunk::<4>().ok_or_else(|| invalid("it is too short"))?;
            with_port(IpAddr::from(*address), rest, 4)
        }
        (0x21, 0x21) => {
            let (address, rest) =
                values.split_first_chunk::<16>().ok_or_else(|| invalid("it is too short"))?;
            with_port(IpAddr::from(*address), rest, 16)
        }
        // Of a family that is no address of a network, or none.
        (0x21, 0x00 | 0x31 | 0x32) => Ok(None),
        _ => Err(invalid("this version or family is not known")),
    }
}

/// The port behind the other address.
fn with_port(address: IpAddr, rest: &[u8], skipped: usize) -> io::Result<Option<SocketAddr>> {
    match rest.get(skipped..).and_then(<[u8]>::first_chunk::<4>) {
        Some([high, low, ..]) => {
            Ok(Some(SocketAddr::new(address, u16::from_be_bytes([*high, *low]))))
        }
        None => Err(invalid("it is too short")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The client, and what is left for others to read.
    async fn parse(bytes: &[u8]) -> Result<(Option<String>, Vec<u8>), io::ErrorKind> {
        let mut stream = bytes;
        let client = read(&mut stream).await.map_err(|error| error.kind())?;
        Ok((client.map(|client| client.to_string()), stream.to_vec()))
    }

    fn version_2(version: u8, family: u8, values: &[u8]) -> Vec<u8> {
        let length = u16::try_from(values.len()).unwrap().to_be_bytes();
        [&SIGNATURE, [version, family].as_slice(), &length, values, b"GET"].concat()
    }

    const IPV4: &[u8] = &[192, 0, 2, 1, 10, 0, 0, 1, 0x12, 0x67, 0, 80];

    #[tokio::test]
    async fn a_client_is_read_and_nothing_behind_it() {
        let ipv6 = [[0x20; 16], [0; 16]].concat();
        let ipv6 = [ipv6.as_slice(), &[0x12, 0x67, 0, 80]].concat();
        // Further values are passed over.
        let more = [IPV4, &[4, 0, 2, 0, 0]].concat();
        let local = version_2(0x20, 0, b"whatever");
        let client = |text: &str| Some(text.to_owned());
        for (bytes, expected) in [
            (b"PROXY TCP4 192.0.2.1 10.0.0.1 4711 80\r\nGET".to_vec(), client("192.0.2.1:4711")),
            (b"PROXY TCP6 2001:db8::1 ::1 4711 80\r\nGET".to_vec(), client("[2001:db8::1]:4711")),
            (b"PROXY UNKNOWN\r\nGET".to_vec(), None),
            (b"PROXY UNKNOWN ff::1 ff::2 1 2\r\nGET".to_vec(), None),
            (version_2(0x21, 0x11, IPV4), client("192.0.2.1:4711")),
            (version_2(0x21, 0x11, &more), client("192.0.2.1:4711")),
            (
                version_2(0x21, 0x21, &ipv6),
                client("[2020:2020:2020:2020:2020:2020:2020:2020]:4711"),
            ),
            (version_2(0x21, 0x00, b""), None),
            (local, None),
        ] {
            assert_eq!(parse(&bytes).await, Ok((expected, b"GET".to_vec())), "{bytes:?}");
        }
    }

    #[tokio::test]
    async fn what_is_no_header_is_refused() {
        let long = [b"PROXY TCP4 ".as_slice(), &[b'1'; 200]].concat();
        for bytes in [
            b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 10.0.0.1 4711\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 10.0.0.1 4711 80 1\r\n".to_vec(),
            b"PROXY TCP4 2001:db8::1 ::1 4711 80\r\n".to_vec(),
            b"PROXY TCP6 192.0.2.1 10.0.0.1 4711 80\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 nonsense 4711 80\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 10.0.0.1 70000 80\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 10.0.0.1 04711 80\r\n".to_vec(),
            b"PROXY UDP4 192.0.2.1 10.0.0.1 4711 80\r\n".to_vec(),
            b"PROXY  TCP4 192.0.2.1 10.0.0.1 4711 80\r\n".to_vec(),
            long,
            version_2(0x11, 0x11, IPV4),
            version_2(0x22, 0x11, IPV4),
            version_2(0x21, 0x44, IPV4),
            version_2(0x21, 0x11, &[0; 5_000]),
            version_2(0x21, 0x11, &[1, 2, 3, 4]),
            version_2(0x21, 0x21, IPV4),
        ] {
            assert_eq!(parse(&bytes).await, Err(io::ErrorKind::InvalidData), "{bytes:?}");
        }
        for bytes in [b"PROXY".as_slice(), b"PROXY TCP4 192.0.2.1 ", &SIGNATURE] {
            assert_eq!(parse(bytes).await, Err(io::ErrorKind::UnexpectedEof), "{bytes:?}");
        }
    }
}
