//! Fuzzing on a stable compiler: inputs are made from seeds by random changes, from a seed that can be
//! given again.
//!
//! `fuzz/README.md` says how to run a target for long, and what becomes of a finding.

use std::{
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// Inputs of a run that is not told how long to take: a second or two in a debug build.
const INPUTS: usize = 2_000;

/// Longest input that is made, in bytes: beyond the limits of all parsers but that of components.
const LONGEST: usize = 16 << 10;

/// How long to run, in seconds, in place of a number of inputs.
const SECONDS: &str = "TALLY_FUZZ_SECONDS";

/// The seed of a run that is to be repeated.
const SEED: &str = "TALLY_FUZZ_SEED";

/// Runs a target on what is in its folder of `fuzz/corpus`, and then on inputs that are made from that,
/// from the seeds and from the words.
///
/// # Panics
/// When the target panics. The input is printed, and written to `fuzz/findings`.
pub fn fuzz(target: &str, seeds: &[&[u8]], words: &[&[u8]], run: impl Fn(&[u8])) {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz"));
    let mut seeds: Vec<Vec<u8>> = seeds.iter().map(|seed| seed.to_vec()).collect();
    seeds.extend(files(&root.join("corpus").join(target)));
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seed = number(SEED).unwrap_or_else(|| std::process::id().into());
    let until = number(SECONDS).map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let try_one = |input: &[u8]| {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(input))) {
            let path = save(&root.join("findings"), target, input);
            eprintln!("{target} fails with {SEED}={seed} on \"{}\"", input.escape_ascii());
            eprintln!("the input is in {}; see fuzz/README.md", path.display());
            resume_unwind(panic);
        }
    };
    seeds.iter().for_each(|seed| try_one(seed));
    let mut random = fastrand::Rng::with_seed(seed);
    let mut made = 0_usize;
    while until.map_or(made < INPUTS, |until| Instant::now() < until) {
        try_one(&change(&seeds, words, &mut random));
        made += 1;
    }
    eprintln!("{target}: {made} inputs with {SEED}={seed}");
}

fn files(folder: &Path) -> Vec<Vec<u8>> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths.iter().filter_map(|path| std::fs::read(path).ok()).collect()
}

fn save(folder: &Path, target: &str, input: &[u8]) -> PathBuf {
    // FNV-1a, to give one input one name.
    let hash = input.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let path = folder.join(format!("{target}-{hash:016x}"));
    let saved = std::fs::create_dir_all(folder).and_then(|()| std::fs::write(&path, input));
    if let Err(error) = saved {
        eprintln!("the input cannot be written to {}: {error}", path.display());
    }
    path
}

/// An input: one of the seeds, with some changes.
fn change(seeds: &[Vec<u8>], words: &[&[u8]], random: &mut fastrand::Rng) -> Vec<u8> {
    let mut input = random.choice(seeds).cloned().unwrap_or_default();
    for _ in 0..random.usize(1..=6) {
        let (one, other) = (random.usize(0..=input.len()), random.usize(0..=input.len()));
        let (start, end) = (one.min(other), one.max(other));
        match random.u8(0..9) {
            0 => drop(input.drain(start..end.min(start + 16))),
            1 => drop(input.drain(start..end)),
            2 => input.truncate(start),
            3 => {
                let again = input.get(start..end).unwrap_or_default().to_vec();
                let times = random.usize(1..=4);
                input.splice(end..end, again.repeat(times));
            }
            4 => {
                let other = random.choice(seeds).map(Vec::as_slice).unwrap_or_default();
                let from = random.usize(0..=other.len());
                input.splice(start..end, other.iter().skip(from).copied());
            }
            5 if start < input.len() => {
                if let Some(byte) = input.get_mut(start) {
                    *byte ^= 1 << random.u8(0..8);
                }
            }
            6 => {
                let some: Vec<u8> = (0..random.usize(1..=8)).map(|_| random.u8(..)).collect();
                input.splice(start..start, some);
            }
            7 => input.splice(start..start, random.u64(..).to_string().into_bytes()).for_each(drop),
            _ => {
                let word = random.choice(words).copied().unwrap_or(b"\0");
                let end = if random.bool() { start } else { end };
                input.splice(start..end, word.iter().copied());
            }
        }
        input.truncate(LONGEST.max(seeds.iter().map(Vec::len).max().unwrap_or_default()));
    }
    input
}

#[cfg(test)]
#[allow(clippy::panic, clippy::unwrap_used, reason = "a test that fails should stop there")]
mod tests {
    use super::*;

    #[test]
    fn a_planted_fault_is_found_and_its_input_told() {
        let found = catch_unwind(|| {
            fuzz("planted", &[b"GET /abc HTTP/1.1"], &[b"//", b"?"], |input| {
                assert!(!input.windows(2).any(|part| part == b"?/"), "the fault");
            });
        });
        assert!(found.is_err());
        let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/findings"));
        let mut removed = 0;
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            if entry.file_name().to_string_lossy().starts_with("planted-") {
                let input = std::fs::read(entry.path()).unwrap();
                assert!(input.windows(2).any(|part| part == b"?/"));
                std::fs::remove_file(entry.path()).unwrap();
                removed += 1;
            }
        }
        assert!(removed > 0);
    }

    #[test]
    fn one_seed_makes_the_same_inputs() {
        let make = |seed| {
            let mut random = fastrand::Rng::with_seed(seed);
            let seeds = [b"one".to_vec(), b"another".to_vec()];
            (0..100).map(|_| change(&seeds, &[b"word"], &mut random)).collect::<Vec<_>>()
        };
        assert_eq!(make(7), make(7));
        assert_ne!(make(7), make(8));
    }
}
