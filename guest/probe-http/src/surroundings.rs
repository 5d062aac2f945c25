//! What a guest finds around it, as its standard library asks for it.

use std::{
    env, fs,
    io::{self, Write as _},
    net::TcpStream,
};

use wasip2::{
    clocks::{monotonic_clock, wall_clock},
    filesystem::preopens,
    random::random,
};

use crate::number;

/// What is answered to a path, if it is one of these.
pub fn text(path: &str, argument: &str) -> Option<String> {
    Some(match path {
        "/stdout" => {
            println!("{argument}");
            "printed".into()
        }
        "/stderr" => {
            eprintln!("{argument}");
            "printed".into()
        }
        "/flood-stdout" => flood(),
        "/lines" => lines(),
        "/env" => env::vars().map(|(name, value)| format!("{name}={value}\n")).collect(),
        "/args" => env::args().map(|argument| argument + "\n").collect(),
        "/time" => time(),
        "/random" => random::get_random_bytes(8).iter().map(|byte| format!("{byte:02x}")).collect(),
        "/sleep" => sleep(number(argument)),
        "/files" => files(),
        "/connect" => connect(),
        _ => return None,
    })
}

/// Prints ten megabytes, in lines that are too long.
fn flood() -> String {
    let line = "x".repeat(99_999);
    for _ in 0..100 {
        println!("{line}");
    }
    "printed".into()
}

/// Prints lines of which one is empty, one is as long as the log has them, and one has no end.
fn lines() -> String {
    print!("first\n\nthird\n{}\nlast", "x".repeat(4 << 10));
    // The standard library keeps a line until it ends.
    let _ = io::stdout().flush();
    "printed".into()
}

/// Both clocks: nanoseconds of one, seconds of the other.
fn time() -> String {
    let (monotonic, wall) = (monotonic_clock::now(), wall_clock::now().seconds);
    assert!(monotonic > 0 && wall > 0, "a clock that stands still");
    format!("{monotonic} {wall}")
}

/// Waits as WASI has it, rather than computing.
fn sleep(milliseconds: u64) -> String {
    let before = monotonic_clock::now();
    monotonic_clock::subscribe_duration(milliseconds.saturating_mul(1_000_000)).block();
    let passed = monotonic_clock::now().saturating_sub(before) / 1_000_000;
    format!("slept for {passed} ms")
}

/// How many directories there are, and what comes of reading the root.
fn files() -> String {
    let root = match fs::read_dir("/") {
        Ok(entries) => format!("{} entries", entries.count()),
        Err(error) => error.to_string(),
    };
    format!("{} directories; {root}", preopens::get_directories().len())
}

/// What comes of a connection to this machine.
fn connect() -> String {
    match TcpStream::connect("127.0.0.1:1") {
        Ok(_) => "connected".into(),
        Err(error) => format!("{:?}: {error}", error.kind()),
    }
}
