//! What an instance costs, and a call in it, without HTTP or a socket: for the guests of this
//! repository that are built.
//!
//! `--instructions` counts instructions rather than time, which a busy machine does not change: it
//! runs itself under valgrind's callgrind, for a hundred calls and for two hundred, and divides the
//! difference by a hundred, which leaves out what is done once.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a benchmark that fails should stop where it fails"
)]

use std::{fs, hint::black_box, path::PathBuf, process::Command};

use criterion::Criterion;
use http::Method;
use tally::registry::Alone;
use tally_state::{Metrics, Options, State};
use tokio::runtime::Runtime;

/// As in the server.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What a guest is asked: its name and file, and the request.
const CALLS: [(&str, &str, Method, &str); 3] = [
    ("hello, wasi:http", "hello", Method::GET, "/hello"),
    ("increment, plugin", "counter", Method::POST, "/increment"),
    ("increment, wasi:http", "counter_http", Method::POST, "/increment"),
];

/// Calls of which those of a run under valgrind are a multiple.
const COUNTED: u64 = 100;

/// In valgrind's processes, which call to make how often.
const CHILD: &str = "TALLY_BENCH_CALL";

fn main() {
    if let Ok(child) = std::env::var(CHILD) {
        let (call, times) = child.split_once(' ').unwrap();
        let (call, times): (usize, u64) = (call.parse().unwrap(), times.parse().unwrap());
        let (runtime, alone) = load(CALLS[call].1).unwrap();
        (0..times).for_each(|_| answer(&runtime, &alone, call));
        return;
    }
    let instructions = std::env::args().any(|argument| argument == "--instructions");
    if instructions { count() } else { time() }
}

/// A guest, if it is built.
fn load(guest: &str) -> Option<(Runtime, Alone)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../guest/target/wasm32-wasip2");
    let file = folder.join(format!("release/{guest}.wasm"));
    let Ok(component) = fs::read(&file) else {
        let package = guest.replace('_', "-");
        eprintln!("{guest} is left out, as it is not built: ./just build-guest {package}");
        return None;
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let alone = runtime.block_on(async {
        let state = State::open("memory:", Options::default(), Metrics::default()).await.unwrap();
        Alone::load(&component, &state).unwrap()
    });
    Some((runtime, alone))
}

/// Not inlined, as valgrind knows it by its name.
#[inline(never)]
fn answer(runtime: &Runtime, alone: &Alone, call: usize) {
    let (_, _, method, uri) = &CALLS[call];
    let status = runtime.block_on(alone.answer(method.clone(), uri)).unwrap();
    assert_eq!(black_box(status), 200);
}

fn time() {
    let mut criterion = Criterion::default().configure_from_args();
    for (call, (name, guest, _, _)) in CALLS.iter().enumerate() {
        let Some((runtime, alone)) = load(guest) else { continue };
        criterion.bench_function(&format!("instantiate, drop: {name}"), |bencher| {
            bencher.iter(|| runtime.block_on(alone.instantiate()).unwrap());
        });
        criterion.bench_function(&format!("instantiate, call, drop: {name}"), |bencher| {
            bencher.iter(|| answer(&runtime, &alone, call));
        });
    }
    criterion.final_summary();
}

fn count() {
    if Command::new("valgrind").arg("--version").output().is_err() {
        eprintln!("valgrind is not installed; on Debian: apt-get install valgrind");
        std::process::exit(1);
    }
    println!("instructions a call, in user space, of instantiating, calling and dropping:");
    for (call, (name, guest, _, _)) in CALLS.iter().enumerate() {
        // So that it is compiled and cached when it counts.
        if load(guest).is_none() {
            continue;
        }
        let (once, twice) = (counted(call, COUNTED), counted(call, 2 * COUNTED));
        println!("{name}: {}", (twice - once) / COUNTED);
    }
}

/// Instructions of a process that makes a call so many times.
fn counted(call: usize, times: u64) -> u64 {
    let out = tempfile::NamedTempFile::new().unwrap();
    let status = Command::new("valgrind")
        .args(["--tool=callgrind", "--quiet", "--toggle-collect=instances::answer*"])
        .arg(format!("--callgrind-out-file={}", out.path().display()))
        .arg(std::env::current_exe().unwrap())
        .env(CHILD, format!("{call} {times}"))
        .status();
    assert!(status.unwrap().success());
    let profile = fs::read_to_string(out.path()).unwrap();
    let total = profile.lines().find_map(|line| line.strip_prefix("totals: "));
    total.unwrap().trim().parse().unwrap()
}
