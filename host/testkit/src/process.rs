//! Starting, awaiting and ending a child process.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

/// Longest time a server may take to accept connections; generous, as a loaded machine is slow.
const START_LIMIT: Duration = Duration::from_secs(60);

/// A port that was free a moment ago.
///
/// # Errors
/// When no socket can be bound.
pub fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// A child that is killed when dropped.
pub(crate) struct Server {
    child: Child,
}

impl Server {
    /// Starts a server whose output goes to a file, and waits until it listens.
    pub(crate) fn start(
        mut command: Command,
        port: u16,
        log: &Path,
        install: &str,
    ) -> Result<Self> {
        let output =
            std::fs::File::create(log).with_context(|| format!("creating {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let child = match command.spawn() {
            Ok(child) => child,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                bail!("{:?} is not installed; {install}", command.get_program())
            }
            Err(error) => return Err(error).context(format!("starting {command:?}")),
        };
        let mut server = Self { child };
        let started = Instant::now();
        loop {
            if TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).is_ok() {
                return Ok(server);
            }
            if let Some(status) = server.child.try_wait()? {
                let output = std::fs::read_to_string(log).unwrap_or_default();
                bail!("{command:?} ended with {status}:\n{output}");
            }
            if started.elapsed() > START_LIMIT {
                bail!("{command:?} does not listen on port {port} after {START_LIMIT:?}");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Asks the process to end with a signal, and waits until it has.
    pub(crate) fn end(&mut self, signal: &str) -> Result<()> {
        signal_process(self.child.id(), signal)?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Already ended is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a signal, such as `TERM`, to one process by its id.
///
/// # Errors
/// When there is no such process.
pub fn signal_process(id: u32, signal: &str) -> Result<()> {
    // The shell's own `kill`, as the program of that name is not on every machine.
    let kill = ["-c", "kill -s \"$0\" \"$1\"", signal, &id.to_string()];
    let status = Command::new("sh").args(kill).stderr(Stdio::null()).status()?;
    if !status.success() {
        bail!("kill -s {signal} {id} failed");
    }
    Ok(())
}
