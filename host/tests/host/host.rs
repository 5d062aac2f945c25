//! A running `tally` of a test's own.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, PipeReader, Read as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use http::Request;
use http_body_util::Full;
use tempfile::TempDir;

use crate::client::{Client, Response};

/// Longest time the program may take to say that it serves; a loaded machine is slow, and a guest
/// may have to be compiled.
const START_LIMIT: Duration = Duration::from_secs(180);

/// Longest time the program may take to end.
const END_LIMIT: Duration = Duration::from_secs(120);

/// A guest that `just build-test-guests` or `just test-guests` has built.
pub fn guest(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let (path, recipe) = match name {
        // Not compiled by cargo.
        "counter-js" | "counter-py" => (format!("{name}/dist/{name}.wasm"), "test-guests"),
        "counter-py-p3" => (format!("counter-py/dist/{name}.wasm"), "test-guests"),
        // The standard counter, built for WASI preview 1.
        "counter-module" => {
            ("target/wasm32-wasip1/release/counter_http.wasm".into(), "build-test-guests")
        }
        _ => {
            let file = name.replace('-', "_");
            (format!("target/wasm32-wasip2/release/{file}.wasm"), "build-test-guests")
        }
    };
    let path = root.join("guest").join(path);
    assert!(path.exists(), "{} is missing: run ./just {recipe}", path.display());
    path
}

/// The program with a clean environment, in a folder of its own, where hosts keep their tokens as well.
pub fn tally(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tally"));
    command.env("XDG_RUNTIME_DIR", dir.join("run"));
    command.current_dir(dir).env_remove("RUST_BACKTRACE").stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TALLY_") {
            command.env_remove(name);
        }
    }
    // Not those of a server that had the same port.
    command.env("TALLY_RELEASES_DIR", dir.join("releases"));
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
        Self::run(tempfile::tempdir().unwrap(), |command| {
            command.arg(guest(guest_name)).args(["--store", store]).args(flags);
        })
    }

    /// Serves a guest with whatever else a command is given.
    pub fn start_with(guest_name: &str, complete: impl FnOnce(&mut Command)) -> Self {
        let started = Self::run(tempfile::tempdir().unwrap(), |command| {
            command.arg(guest(guest_name));
            complete(command);
        });
        started.unwrap_or_else(|log| panic!("{log}"))
    }

    /// Serves what a `tally.toml` says, in a folder that holds further files.
    pub fn start_configured(dir: TempDir, config: &str) -> Self {
        Self::start_configured_with(dir, config, |_| {})
    }

    /// As [`Host::start_configured`], with whatever else a command is given.
    pub fn start_configured_with(
        dir: TempDir,
        config: &str,
        complete: impl FnOnce(&mut Command),
    ) -> Self {
        std::fs::write(dir.path().join("tally.toml"), config).unwrap();
        Self::run(dir, complete).unwrap_or_else(|log| panic!("{log}"))
    }

    /// As [`Host::start`], in a process that may have so much address space.
    pub fn start_within(kibibytes: usize, guest_name: &str, store: &str, flags: &[&str]) -> Self {
        Self::start_limited(&format!("-v {kibibytes}"), guest_name, store, flags)
    }

    /// As [`Host::start`], in a process with a limit that `ulimit` sets.
    pub fn start_limited(limit: &str, guest_name: &str, store: &str, flags: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let limited = format!("ulimit {limit}; exec \"$0\" \"$@\"");
        let mut command = Command::new("sh");
        command.current_dir(dir.path()).env_remove("RUST_BACKTRACE").stdin(Stdio::null());
        command.env("XDG_RUNTIME_DIR", dir.path().join("run"));
        command.args(["-c", &limited, env!("CARGO_BIN_EXE_tally")]);
        let started = Self::launch(dir, command, |command| {
            command.arg(guest(guest_name)).args(["--store", store]).args(flags);
        });
        started.unwrap_or_else(|log| panic!("{log}"))
    }

    fn run(dir: TempDir, complete: impl FnOnce(&mut Command)) -> Result<Self, String> {
        let command = tally(dir.path());
        Self::launch(dir, command, complete)
    }

    fn launch(
        dir: TempDir,
        command: Command,
        complete: impl FnOnce(&mut Command),
    ) -> Result<Self, String> {
        let log = File::create(dir.path().join("log")).unwrap();
        Self::launch_logging_to(log.into(), dir, command, complete)
    }

    /// As [`Host::start`], with a standard error that is a pipe, and its reading end.
    pub fn start_unread(guest_name: &str, store: &str, flags: &[&str]) -> (Self, PipeReader) {
        let (reader, writer) = std::io::pipe().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let command = tally(dir.path());
        let started = Self::launch_logging_to(writer.into(), dir, command, |command| {
            command.arg(guest(guest_name)).args(["--store", store]).args(flags);
        });
        (started.unwrap_or_else(|log| panic!("{log}")), reader)
    }

    fn launch_logging_to(
        log: Stdio,
        dir: TempDir,
        mut command: Command,
        complete: impl FnOnce(&mut Command),
    ) -> Result<Self, String> {
        command.args(["serve", "--listen", "127.0.0.1:0"]);
        // Tests share a machine that may be slow: those of this limit set their own.
        command.env("TALLY_CPU_LIMIT", "30s");
        complete(&mut command);
        if !command.get_args().any(|argument| argument == "--admin") {
            command.args(["--admin", "127.0.0.1:0"]);
        }
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut banner = String::new();
        let started = Instant::now();
        // The line of the store is the last that always comes.
        while !banner.contains("\nstore ") {
            let read = output.read_line(&mut banner).unwrap();
            if read == 0 {
                child.wait().unwrap();
                let log = std::fs::read_to_string(dir.path().join("log"));
                return Err(log.unwrap_or_else(|_| "it ended at once".into()));
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

    /// The file with the admin token that it has made.
    pub fn token_file(&self) -> PathBuf {
        self.dir().join("run/tally").join(format!("admin-{}.token", self.admin))
    }

    /// The admin token that it has made.
    pub fn token(&self) -> String {
        std::fs::read_to_string(self.token_file()).unwrap().trim().to_owned()
    }

    /// Deploys a component over the admin listener.
    pub async fn deploy(&self, name: &str, component: Vec<u8>) -> Response {
        let mut client = Client::connect(self.admin).await;
        let request = Request::put(format!("/guests/{name}"))
            .header("host", self.admin.to_string())
            .header("authorization", format!("Bearer {}", self.token()))
            .body(Full::from(component))
            .unwrap();
        client.try_send(request).await.unwrap()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: &str) {
        tally_testkit::signal_process(self.child.id(), signal).unwrap();
    }

    /// Waits until it has ended.
    pub fn wait(&mut self) -> ExitStatus {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(started.elapsed() < END_LIMIT, "it has not ended");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The folder it runs in.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Waits until its log holds a text; gives the log. A line is written a moment after it was logged.
    pub fn wait_for_log(&self, text: &str) -> String {
        let started = Instant::now();
        loop {
            let log = self.log();
            if log.contains(text) {
                return log;
            }
            assert!(started.elapsed() < START_LIMIT, "no '{text}' in the log:\n{log}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Bytes of memory that it has resident.
    pub fn resident(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.split_whitespace().next().unwrap().parse::<usize>().unwrap() << 10
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
