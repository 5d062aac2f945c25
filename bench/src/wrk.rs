//! Load by wrk (<https://github.com/wg/wrk>), as much as a server takes.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};

use crate::{
    load::{KEYS, Target},
    program,
    traffic::Traffic,
};

const INSTALL: &str = "on Debian: apt-get install wrk";

/// Threads of wrk: enough to keep the cores of a small machine busy.
const THREADS: u32 = 2;

/// What begins the line of results that the script prints.
const MARK: &str = "tally-bench";

/// The request's method and counters, and the results in a form that does not round them. Requests
/// for many counters are made before the load, and chosen from by chance.
///
/// Each request ends with a new Idempotency-Key; the text before it is made before the load.
/// Formatting a UUID would take much of wrk's time, so a key is joined from three strings: 32 random
/// bits; a middle part that a thread keeps for 65,536 keys, with 56 random bits from the operating
/// system and the high digits of the thread's count; and the low digits. A key has the form of a
/// version 4 UUID, its first bytes are random, and none comes twice.
const SCRIPT: &str = r#"
local random = math.random

function init(args)
    local keyed, prefix, counters = args[2] == "keyed", args[3], tonumber(args[4])
    wrk.method = args[1]
    local requests = { wrk.format() }
    for counter = 1, counters or 0 do
        requests[counter] = wrk.format(nil, wrk.path .. "?name=" .. prefix .. (counter - 1))
    end
    local urandom = assert(io.open("/dev/urandom", "rb"))
    local seed = { urandom:read(16):byte(1, -1) }
    urandom:close()
    -- Not the first bytes, which the keys show.
    math.randomseed(seed[13] + 256 * (seed[14] + 256 * (seed[15] + 256 * seed[16])))
    if keyed then
        request = requests_with_keys(requests, seed)
    elseif counters then
        request = function() return requests[random(#requests)] end
    end
end

function requests_with_keys(requests, seed)
    for place, text in ipairs(requests) do
        -- In front of the empty line.
        requests[place] = text:sub(1, -3) .. "Idempotency-Key: "
    end
    local digits = {}
    for number = 0, 65535 do digits[number] = string.format("%04x", number) end
    local own = string.format("-%02x%02x-4%x%02x-8%x%02x-%02x%02x", seed[1], seed[2],
        seed[3] % 16, seed[4], seed[5] % 16, seed[6], seed[7], seed[8])
    local many, high, low = #requests, -1, 65535
    local middle
    return function()
        low = low + 1
        if low > 65535 then
            low, high = 0, high + 1
            middle = own .. digits[high]
        end
        return requests[random(many)] .. digits[random(0, 65535)] .. digits[random(0, 65535)]
            .. middle .. digits[low] .. "\r\n\r\n"
    end
end

function done(summary, latency, requests)
    local errors = summary.errors
    io.write(string.format("tally-bench %d %d %d %d %d %d %d %d %d\n",
        summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
        errors.status, errors.connect, errors.read, errors.write, errors.timeout))
end
"#;

/// A way to put load on a server.
pub(crate) struct Wrk {
    script: PathBuf,
}

impl Wrk {
    /// Writes the script, and checks that wrk is installed.
    pub(crate) async fn find(dir: &Path) -> Result<Self> {
        let script = dir.join("wrk.lua");
        fs::write(&script, SCRIPT)?;
        let mut version = program::command("wrk");
        // It prints its version, and ends as if that were a mistake.
        version.arg("--version");
        let found = version.output().await;
        found.map_err(|error| program::cannot_start(error, &version, INSTALL))?;
        Ok(Self { script })
    }

    /// Sends one request after the other on all connections, one at a time on each.
    pub(crate) async fn run(
        &self,
        address: SocketAddr,
        target: &Target,
        connections: u32,
        window: Duration,
    ) -> Result<Traffic> {
        let mut wrk = program::command("wrk");
        // It does not take fewer connections than threads.
        wrk.arg(format!("-t{}", THREADS.min(connections))).arg(format!("-c{connections}"));
        wrk.arg(format!("-d{}s", window.as_secs())).arg("-s").arg(&self.script);
        wrk.arg(format!("http://{address}{}", target.path)).args(["--", target.method.as_str()]);
        wrk.arg(if target.keyed { "keyed" } else { "plain" });
        if let Some(prefix) = &target.prefix {
            wrk.arg(prefix).arg(KEYS.to_string());
        }
        let printed = program::output(wrk, INSTALL).await?;
        parse(&printed, connections)
            .with_context(|| format!("cannot read what wrk printed:\n{printed}"))
    }
}

fn parse(printed: &str, connections: u32) -> Option<Traffic> {
    let line = printed.lines().find_map(|line| line.strip_prefix(MARK))?;
    let mut numbers = line.split_whitespace().map(|word| word.parse::<u64>().ok());
    let mut next = || numbers.next().flatten();
    Some(Traffic {
        requests: next()?,
        duration: Duration::from_micros(next()?),
        p50: Duration::from_micros(next()?),
        p99: Duration::from_micros(next()?),
        p999: None,
        slowest: None,
        refused: next()?,
        socket_errors: vec![
            ("connect", next()?),
            ("read", next()?),
            ("write", next()?),
            ("timeout", next()?),
        ],
        // It ends without waiting for answers, and does not say for how many.
        unanswered: connections.into(),
        refusal_p99: None,
    })
}

#[cfg(test)]
mod tests {
    use std::{
        collections::{HashMap, HashSet},
        io::{Read as _, Write as _},
        mem,
        net::{TcpListener, TcpStream},
        sync::{Arc, Mutex},
        thread,
    };

    use super::*;
    use crate::load::Load;

    #[test]
    fn results_are_found_among_what_wrk_prints() {
        let traffic =
            parse("Running 1s test\ntally-bench 9 2000000 1500 7000 2 0 3 0 1\n", 5).unwrap();
        assert_eq!((traffic.requests, traffic.acknowledged()), (9, 7));
        assert_eq!(traffic.duration, Duration::from_secs(2));
        assert_eq!(traffic.p99, Duration::from_millis(7));
        assert_eq!(traffic.unsure(), 5 + 2 + 4);
        assert_eq!(parse("tally-bench 9 2000000", 5), None);
        assert_eq!(parse("", 5), None);
    }

    /// wrk against a server that keeps the keys: they are UUIDs in form, and none comes twice, in
    /// either thread or in a second run.
    #[tokio::test]
    async fn every_request_of_a_keyed_load_has_a_key_of_its_own() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&heads);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, kept) = (stream.unwrap(), Arc::clone(&kept));
                thread::spawn(move || serve(stream, &kept));
            }
        });
        let dir = tempfile::tempdir().unwrap();
        let wrk = Wrk::find(dir.path()).await.unwrap();
        let (mut all, mut threads) = (HashSet::new(), HashMap::<_, Vec<_>>::new());
        for load in [Load::IncrementKeyed, Load::KeysKeyed] {
            let second = Duration::from_secs(1);
            wrk.run(address, &load.target(3), 4, second).await.unwrap();
            let heads = mem::take(&mut *heads.lock().unwrap());
            let paths: HashSet<_> = heads.iter().map(|head| head.lines().next().unwrap()).collect();
            assert_eq!(paths.len() > 1, load == Load::KeysKeyed, "{paths:?}");
            for head in &heads {
                let (path, _) = head.split_once(" HTTP/1.1\r\n").unwrap();
                assert!(path.starts_with("POST /increment"), "{head}");
                let (_, key) = head.split_once("\r\nIdempotency-Key: ").unwrap();
                let key = key.strip_suffix("\r\n\r\n").unwrap();
                let groups: Vec<usize> = key.split('-').map(str::len).collect();
                assert_eq!(groups, [8, 4, 4, 4, 12], "{key}");
                assert!(key.chars().all(|digit| digit == '-' || digit.is_ascii_hexdigit()));
                assert_eq!((&key[14..15], &key[19..20]), ("4", "8"), "{key}");
                threads.entry(key[8..28].to_owned()).or_default().push(key[..8].to_owned());
                // Without the digits by chance, which would hide a count that repeats.
                assert!(all.insert(key[8..].to_owned()), "{key} twice");
            }
        }
        // Two threads in each of two runs have digits of their own, behind first ones by chance: in
        // whichever order they are looked at, half of those are above the one before.
        assert!(threads.len() >= 4, "{}", threads.len());
        for starts in threads.values().filter(|starts| starts.len() > 1_000) {
            let rises = starts.windows(2).filter(|pair| pair[0] < pair[1]).count();
            let share = rises as f64 / starts.len() as f64;
            assert!((0.4..0.6).contains(&share), "{share}");
        }
    }

    /// Answers requests on a connection until it is closed, and keeps their heads.
    fn serve(mut stream: TcpStream, kept: &Mutex<Vec<String>>) {
        let (mut request, mut part) = (String::new(), [0; 1_024]);
        while let Ok(size) = stream.read(&mut part)
            && size > 0
        {
            request.push_str(str::from_utf8(&part[..size]).unwrap());
            if request.ends_with("\r\n\r\n") {
                kept.lock().unwrap().push(mem::take(&mut request));
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                if stream.write_all(answer).is_err() {
                    return;
                }
            }
        }
    }

    #[test]
    fn the_script_marks_its_line() {
        assert!(SCRIPT.contains(&format!("\"{MARK} %d")));
    }
}
