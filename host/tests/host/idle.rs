//! What the host does while there is nothing to do, and when the machine changes beneath it.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Method;
use http_body_util::Full;

use crate::{
    client::{Client, Held, get, until_metrics_say},
    host::Host,
};

const HEADINGS: &str = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n";
const DEVICE: &str = "/dev/sda2                               partition\t8388604\t\t0\t\t-2\n";

/// The times that any thread of a process has gone to sleep by itself.
fn sleeps(process: u32) -> u64 {
    let threads = std::fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let of_thread = |path: std::path::PathBuf| {
        // A thread may just have ended.
        let status = std::fs::read_to_string(path.join("status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
        line.trim().parse::<u64>().ok()
    };
    threads.filter_map(|thread| of_thread(thread.unwrap().path())).sum()
}

/// The kernel is asked for pages that are present, so those that were moved to swap would be missed and
/// would reach the next guest.
#[tokio::test]
async fn guests_are_loaded_anew_without_memory_that_is_kept_when_swap_is_turned_on() {
    let dir = tempfile::tempdir().unwrap();
    let swaps = dir.path().join("swaps");
    std::fs::write(&swaps, HEADINGS).unwrap();
    let flags = ["--swaps-file", swaps.to_str().unwrap()];
    let host = Host::start("counter", "memory:", &flags);
    let loads = |count: usize| {
        format!("tally_guest_loads_total{{guest=\"default\",outcome=\"loaded\"}} {count}\n")
    };
    let mut client = Client::connect(host.address).await;
    assert_eq!(client.post("/increment").await.count(), 1);
    until_metrics_say(host.admin, &loads(1)).await;
    assert!(!host.log().contains("swap"), "{}", host.log());

    std::fs::write(&swaps, format!("{HEADINGS}{DEVICE}")).unwrap();
    host.wait_for_log("swap was turned on");
    for count in 2..=20 {
        assert_eq!(client.post("/increment").await.count(), count);
    }
    until_metrics_say(host.admin, &loads(2)).await;
    assert_eq!(get(host.admin, "/readyz").await.status, 200);

    // Pages may still be in swap when it is turned off again.
    std::fs::write(&swaps, HEADINGS).unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(client.post("/increment").await.count(), 21);
    until_metrics_say(host.admin, &loads(2)).await;
}

/// Those that are at work when swap is turned on end as if it was not.
#[tokio::test]
async fn requests_in_flight_end_when_swap_is_turned_on() {
    let dir = tempfile::tempdir().unwrap();
    let swaps = dir.path().join("swaps");
    std::fs::write(&swaps, HEADINGS).unwrap();
    let flags = ["--swaps-file", swaps.to_str().unwrap()];
    let host = Host::start("probe-http", "memory:", &flags);
    let slow = Held::begin(host.address, "/count-body");
    until_metrics_say(host.admin, "tally_pool_instances_in_use{guest=\"default\"} 1\n").await;
    std::fs::write(&swaps, format!("{HEADINGS}{DEVICE}")).unwrap();
    host.wait_for_log("swap was turned on");
    assert_eq!(get(host.address, "/hello").await.status, 200);
    let answer = slow.finish();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn swap_at_the_start_and_a_kernel_that_does_not_tell_are_said() {
    let dir = tempfile::tempdir().unwrap();
    let swaps = dir.path().join("swaps");
    for text in [Some(format!("{HEADINGS}{DEVICE}")), None] {
        match text {
            Some(text) => std::fs::write(&swaps, text).unwrap(),
            None => std::fs::remove_file(&swaps).unwrap(),
        }
        let flags = ["--swaps-file", swaps.to_str().unwrap()];
        let host = Host::start("counter", "memory:", &flags);
        assert!(host.log().contains("this machine has swap"), "{}", host.log());
        let mut client = Client::connect(host.address).await;
        assert_eq!(client.post("/increment").await.count(), 1);
    }
}

/// Each wake-up takes some ten microseconds: at ten a second an idle host takes a hundredth of a per
/// cent of a core.
#[tokio::test]
async fn an_idle_host_sleeps() {
    let host = Host::start("counter", "sqlite:tally.db", &["--workers", "4"]);
    let mut client = Client::connect(host.address).await;
    assert_eq!(client.post("/increment").await.count(), 1);
    // What follows a request, such as the clock's last tick and the allocator's, ends soon.
    let limit = Instant::now() + Duration::from_secs(60);
    loop {
        let (before, looked) = (sleeps(host.id()), Instant::now());
        tokio::time::sleep(Duration::from_secs(3)).await;
        let a_second = (sleeps(host.id()) - before) as f64 / looked.elapsed().as_secs_f64();
        // It looks for releases four times a second and keeps its session, each by some threads. Something that ticks
        // wakes up a hundred times, or a thousand.
        if a_second < 45.0 {
            break;
        }
        assert!(Instant::now() < limit, "it wakes up {a_second:.0} times a second");
    }
    // Its connection is still open.
    assert_eq!(client.post("/increment").await.count(), 2);
}

/// The allocator gives back what was freed when something is freed later, and after a burst nothing need be.
/// That it takes two seconds and not many more was measured; this is about that it happens at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_of_a_burst_goes_back_to_the_system() {
    const REQUESTS: usize = 400;
    /// What guests' slots and the allocator's own pages may keep.
    const KEPT: usize = 40 << 20;
    let flags = ["--workers=2", "--pool=8", "--queue-timeout=60s", "--bodies-limit=1GiB"];
    let host = Host::start("counter", "memory:", &flags);
    get(host.address, "/report").await;
    let before = host.resident();
    let body = Bytes::from(vec![b'x'; 1 << 20]);
    let send = |address, body| async move {
        let mut client = Client::connect(address).await;
        let request = client.request(Method::POST, "/increment").map(|_| Full::new(body));
        assert_eq!(client.try_send(request).await.unwrap().status, 200);
    };
    let burst = (0..REQUESTS).map(|_| tokio::spawn(send(host.address, body.clone())));
    for request in burst.collect::<Vec<_>>() {
        request.await.unwrap();
    }
    let limit = Instant::now() + Duration::from_secs(60);
    while host.resident() > before + KEPT {
        let kept = (host.resident() - before) >> 20;
        assert!(Instant::now() < limit, "{kept} MiB more than before the burst");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
