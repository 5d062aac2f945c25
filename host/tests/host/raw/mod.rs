//! What the RFCs ask of a server, as a table of bytes: RFC 9110, 9112 and 9113.
//!
//! `case` says how a line of the table is written, `http1` and `http2` have the lines and send them. Here
//! they are asked of Tally; `compare` asks others the same.

mod case;
mod compare;
mod http1;
mod http2;

use std::{
    collections::HashSet,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use crate::host::Host;

/// Longest wait for each thing that a server is asked for.
const LONGEST: Duration = Duration::from_secs(30);

/// Cases that are asked at once.
const AT_ONCE: usize = 8;

/// Asks all cases, some at once; gives what was seen of each, in order.
fn ask_all<C: Sync, O: Send>(cases: &[C], ask: impl Fn(&C) -> O + Sync) -> Vec<O> {
    let next = AtomicUsize::new(0);
    let (next, ask) = (&next, &ask);
    let mut seen: Vec<(usize, O)> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..AT_ONCE)
            .map(|_| {
                scope.spawn(move || {
                    let mut seen = Vec::new();
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        let Some(case) = cases.get(number) else { return seen };
                        seen.push((number, ask(case)));
                    }
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    seen.sort_by_key(|(number, _)| *number);
    seen.into_iter().map(|(_, observed)| observed).collect()
}

fn host() -> Host {
    Host::start("probe-http", "memory:", &[])
}

/// Asks the table of HTTP/1.1, with the bytes in parts.
fn ask_http1(cases: &[case::Case], part: usize) {
    let host = host();
    let seen = ask_all(cases, |case| http1::observe(host.address, case, part, LONGEST));
    let wrong: Vec<String> = cases
        .iter()
        .zip(&seen)
        .filter(|(case, observed)| !case::is_met(case.wanted, observed))
        .map(|(case, observed)| {
            format!(
                "{} (RFC {}): {observed}, and asked for is {}",
                case.name, case.section, case.wanted
            )
        })
        .collect();
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

#[test]
fn http1_is_spoken_as_the_rfcs_say() {
    ask_http1(&http1::cases(), usize::MAX);
}

#[test]
fn http1_is_spoken_the_same_when_it_comes_byte_by_byte() {
    let mut cases = http1::cases();
    cases.retain(|case| case.bytes.len() < 400);
    ask_http1(&cases, 1);
}

#[test]
fn http2_is_spoken_as_the_rfcs_say() {
    let (host, cases) = (host(), http2::cases());
    let seen = ask_all(&cases, |case| http2::observe(host.address, case, LONGEST));
    let mut wrong = Vec::new();
    for (case, observed) in cases.iter().zip(&seen) {
        let mut different = http2::DIFFERENT.iter().filter(|(name, _)| *name == case.name);
        let wanted = different.next().map_or(case.wanted, |(_, different)| different);
        if !http2::is_met(wanted, observed) {
            let (name, section) = (&case.name, case.section);
            wrong.push(format!("{name} (RFC {section}): {observed}, and asked for is {wanted}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

#[test]
fn the_tables_are_of_some_size_and_name_each_case_once() {
    let names = |names: Vec<&str>, least: usize| {
        assert!(names.len() >= least, "{} cases", names.len());
        let mut seen = HashSet::new();
        for name in names {
            assert!(seen.insert(name), "twice: {name}");
        }
    };
    names(http1::cases().iter().map(|case| case.name.as_str()).collect(), 250);
    names(http2::cases().iter().map(|case| case.name.as_str()).collect(), 100);
}
