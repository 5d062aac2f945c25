//! An application in FastAPI and aiocache, and Tally, on one counter in Redis: the way to move from
//! one to the other while both count.

use std::{
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tally_testkit::{Redis, free_port, signal_process};

use crate::{
    client::{Client, get},
    host::Host,
};

const WORKERS: &str = "5";
const CLIENTS: usize = 16;
const INCREMENTS: usize = 2_500;

/// The application with its workers; ended when dropped.
struct FastApi {
    child: Child,
    address: SocketAddr,
}

impl FastApi {
    async fn start(redis: &Redis) -> Self {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/languages/fastapi");
        let program = dir.join(".venv/bin/uvicorn");
        assert!(program.exists(), "FastAPI is missing: run ./just test-guests");
        let port = free_port().unwrap();
        let child = Command::new(program)
            .args(["app:app", "--workers", WORKERS, "--log-level", "error", "--port"])
            .arg(port.to_string())
            .current_dir(dir)
            .env("REDIS_PORT", redis.port().to_string())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let started = Instant::now();
        while tokio::net::TcpStream::connect(address).await.is_err() {
            assert!(started.elapsed() < Duration::from_secs(60), "FastAPI does not start");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Self { child, address }
    }
}

impl Drop for FastApi {
    fn drop(&mut self) {
        // Asked, it ends its workers; killed, it would leave them behind.
        let _ = signal_process(self.child.id(), "TERM");
        let _ = self.child.wait();
    }
}

async fn count(address: SocketAddr) -> usize {
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            tokio::spawn(async move {
                let mut client = Client::connect(address).await;
                let mut counted = 0;
                for _ in 0..INCREMENTS / CLIENTS {
                    let response = client.post("/increment").await;
                    assert_eq!(response.status, 200, "{response:?}");
                    counted += 1;
                }
                counted
            })
        })
        .collect();
    let mut counted = 0;
    for client in clients {
        counted += client.await.unwrap();
    }
    counted
}

#[tokio::test]
async fn an_application_with_aiocache_and_tally_count_together_exactly() {
    let redis = Redis::start().unwrap();
    let fastapi = FastApi::start(&redis).await;
    let host = Host::start("counter", &redis.url(), &["--bucket", "default=main"]);
    let (theirs, ours) = tokio::join!(count(fastapi.address), count(host.address));
    let sum = i64::try_from(theirs + ours).unwrap();
    assert_eq!(get(host.address, "/report").await.count(), sum);
    assert_eq!(get(fastapi.address, "/report").await.count(), sum);
}
