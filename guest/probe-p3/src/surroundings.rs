//! What a guest finds around it: of WASI 0.3 itself, and of 0.2 as its standard library asks for it.

use std::{env, fs, net::TcpStream};

use wasip3::{
    cli::stdout,
    clocks::{monotonic_clock, system_clock},
    random::random,
    wit_stream,
};

use crate::number;

/// What is answered to a path, if it is one of these.
pub async fn text(path: &str, argument: &str) -> Option<String> {
    Some(match path {
        "/stdout" => print(format!("{argument}\n").into_bytes()).await,
        "/stderr" => {
            eprintln!("{argument}");
            "printed".into()
        }
        "/flood-stdout" => flood().await,
        "/env" => env::vars().map(|(name, value)| format!("{name}={value}\n")).collect(),
        "/args" => env::args().map(|argument| argument + "\n").collect(),
        "/time" => time(),
        "/random" => random::get_random_bytes(8).iter().map(|byte| format!("{byte:02x}")).collect(),
        "/sleep" => sleep(number(argument)).await,
        "/files" => files(),
        "/connect" => connect(),
        _ => return None,
    })
}

/// Prints by a stream.
async fn print(bytes: Vec<u8>) -> String {
    let (mut writer, reader) = wit_stream::new();
    let printed = stdout::write_via_stream(reader);
    drop(writer.write_all(bytes).await);
    drop(writer);
    printed.await.map_or_else(|error| format!("{error:?}"), |()| "printed".into())
}

/// Prints ten megabytes, in lines that are too long.
async fn flood() -> String {
    let mut line = vec![b'x'; 99_999];
    line.push(b'\n');
    for _ in 0..100 {
        print(line.clone()).await;
    }
    "printed".into()
}

/// Both clocks: nanoseconds of one, seconds of the other.
fn time() -> String {
    let (monotonic, wall) = (monotonic_clock::now(), system_clock::now().seconds);
    assert!(monotonic > 0 && wall > 0, "a clock that stands still");
    format!("{monotonic} {wall}")
}

/// Waits, and lets the guest's other tasks go on.
async fn sleep(milliseconds: u64) -> String {
    let before = monotonic_clock::now();
    monotonic_clock::wait_for(milliseconds.saturating_mul(1_000_000)).await;
    let passed = monotonic_clock::now().saturating_sub(before) / 1_000_000;
    format!("slept for {passed} ms")
}

/// How many directories there are, and what comes of reading the root.
fn files() -> String {
    let root = match fs::read_dir("/") {
        Ok(entries) => format!("{} entries", entries.count()),
        Err(error) => error.to_string(),
    };
    format!("{} directories; {root}", wasip3::filesystem::preopens::get_directories().len())
}

/// What comes of a connection to this machine.
fn connect() -> String {
    match TcpStream::connect("127.0.0.1:1") {
        Ok(_) => "connected".into(),
        Err(error) => format!("{:?}: {error}", error.kind()),
    }
}
