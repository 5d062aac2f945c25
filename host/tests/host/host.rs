//! A running `tally` of a test's own.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Read as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

/// Longest time the program may take to say that it serves; a loaded machine is slow, and a guest
/// may have to be compiled.
const START_LIMIT: Duration = Duration::from_secs(60);

/// A guest that `just build-test-guests` has built.
pub fn guest(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let path = root.join(format!("guest/target/wasm32-wasip2/release/{name}.wasm"));
    assert!(path.exists(), "{} is missing: run ./just build-test-guests", path.display());
    path
}

/// The program with a clean environment, in a folder of its own.
pub fn tally(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tally"));
    command.current_dir(dir).env_remove("RUST_BACKTRACE").stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TALLY_") {
            command.env_remove(name);
        }
    }
    command
}

/// A running host; killed when dropped.
pub struct Host {
    child: Child,
    /// Where requests are served.
    pub address: SocketAddr,
    /// Where health and metrics are served.
    pub admin: SocketAddr,
    /// What it printed when it started.
    pub banner: String,
    dir: TempDir,
}

impl Host {
    /// Serves a guest over a store, with further flags.
    pub fn start(guest_name: &str, store: &str, flags: &[&str]) -> Self {
        Self::try_start(guest_name, store, flags).unwrap_or_else(|log| panic!("{log}"))
    }

    /// As [`Host::start`]; gives the log if the program ends instead.
    pub fn try_start(guest_name: &str, store: &str, flags: &[&str]) -> Result<Self, String> {
        let dir = tempfile::tempdir().unwrap();
        let log = File::create(dir.path().join("log")).unwrap();
        let mut child = tally(dir.path())
            .arg("serve")
            .arg(guest(guest_name))
            .args(["--store", store, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
            .args(flags)
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut banner = String::new();
        let started = Instant::now();
        // The line of the store is the last that always comes.
        while !banner.contains("\nstore ") {
            let read = output.read_line(&mut banner).unwrap();
            if read == 0 {
                child.wait().unwrap();
                return Err(std::fs::read_to_string(dir.path().join("log")).unwrap());
            }
            assert!(started.elapsed() < START_LIMIT, "not serving yet:\n{banner}");
        }
        // Whatever else it prints must not fill the pipe.
        std::thread::spawn(move || {
            let mut rest = Vec::new();
            output.read_to_end(&mut rest)
        });
        let address = |line: &str| {
            let line = banner.lines().find(|found| found.starts_with(line)).unwrap();
            let rest = line.split_once("http://").unwrap().1;
            rest.split_whitespace().next().unwrap().parse().unwrap()
        };
        Ok(Self { address: address("serving"), admin: address("admin"), child, banner, dir })
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: &str) {
        tally_testkit::signal_process(self.child.id(), signal).unwrap();
    }

    /// Waits until it has ended.
    pub fn wait(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Already ended is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
