//! Who is measured, with which requests and stores, and how each is called.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
};

use clap::ValueEnum;
use tokio::process::Command;

use crate::{
    backend::{Backend, Store},
    fastapi,
    load::Load,
    program, wasmtime,
};

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Contender {
    /// The same routes in Rust without WebAssembly
    Plain,
    /// Tally with the counter as a plugin
    Tally,
    /// Tally with a standard handler, wasi:http
    TallyHttp,
    /// Tally with a handler of WASI 0.3
    TallyP3,
    /// Tally with the counter in JavaScript
    TallyJs,
    /// Tally with the counter in Python
    TallyPy,
    /// `wasmtime serve` as it is
    Wasmtime,
    /// `wasmtime serve` with the settings that were best for it
    WasmtimeTuned,
    /// `wasmtime serve` with a handler of WASI 0.3, 128 requests to an instance
    WasmtimeP3,
    /// The same with a fresh instance for each request
    WasmtimeP3Fresh,
    /// FastAPI with aiocache on Redis, Tortoise ORM on PostgreSQL
    Fastapi,
    /// PostgreSQL's own load generator, without a server in front
    Pgbench,
    /// Redis' own load generator, without a server in front
    RedisBenchmark,
}

/// Where the files are that contenders need.
#[derive(Clone)]
pub(crate) struct Files {
    pub(crate) tally: PathBuf,
    /// What `tally serve` is called with besides.
    pub(crate) tally_args: Vec<String>,
    pub(crate) plain: PathBuf,
    pub(crate) wasmtime: PathBuf,
    pub(crate) guests: PathBuf,
    pub(crate) peers: PathBuf,
}

impl Contender {
    /// Its name in tables. What FastAPI counts with depends on the store.
    pub(crate) const fn name(self, backend: Option<Backend>) -> &'static str {
        match (self, backend) {
            (Self::Plain, _) => "plain hyper",
            (Self::Tally, _) => "tally, plugin",
            (Self::TallyHttp, _) => "tally, wasi:http",
            (Self::TallyP3, _) => "tally, WASI 0.3",
            (Self::TallyJs, _) => "tally, JavaScript",
            (Self::TallyPy, _) => "tally, Python",
            (Self::Wasmtime, _) => "wasmtime serve",
            (Self::WasmtimeTuned, _) => "wasmtime serve, tuned",
            (Self::WasmtimeP3, _) => "wasmtime serve, WASI 0.3",
            (Self::WasmtimeP3Fresh, _) => "wasmtime serve, WASI 0.3, no reuse",
            (Self::Fastapi, Some(Backend::Redis)) => "FastAPI, aiocache",
            (Self::Fastapi, Some(Backend::Postgres)) => "FastAPI, Tortoise ORM",
            (Self::Fastapi, _) => "FastAPI",
            (Self::Pgbench, _) => "pgbench",
            (Self::RedisBenchmark, _) => "redis-benchmark",
        }
    }

    /// Whether it can answer these requests on this backend.
    pub(crate) fn takes(self, load: Load, backend: Option<Backend>) -> bool {
        let Some(backend) = backend else {
            return matches!(
                self,
                Self::Plain
                    | Self::TallyHttp
                    | Self::TallyP3
                    | Self::Wasmtime
                    | Self::WasmtimeTuned
                    | Self::WasmtimeP3
                    | Self::WasmtimeP3Fresh
                    | Self::Fastapi
            );
        };
        if load.unkeyed().is_some() {
            // The others ignore the key, so their figures would be those of another promise.
            return self.is_tally();
        }
        match self {
            Self::Plain => true,
            _ if self.is_tally() => true,
            Self::Fastapi => matches!(backend, Backend::Redis | Backend::Postgres),
            Self::Pgbench => backend == Backend::Postgres && load.counts(),
            Self::RedisBenchmark => backend == Backend::Redis && load.counts(),
            _ => false,
        }
    }

    /// Whether it is Tally, with whichever guest.
    pub(crate) fn is_tally(self) -> bool {
        matches!(
            self,
            Self::Tally | Self::TallyHttp | Self::TallyP3 | Self::TallyJs | Self::TallyPy
        )
    }

    /// Whether it is `wasmtime serve`, with whichever guest and settings.
    pub(crate) fn is_wasmtime(self) -> bool {
        matches!(
            self,
            Self::Wasmtime | Self::WasmtimeTuned | Self::WasmtimeP3 | Self::WasmtimeP3Fresh
        )
    }

    /// Whether it is a server, that others put load on.
    pub(crate) fn is_server(self) -> bool {
        !matches!(self, Self::Pgbench | Self::RedisBenchmark)
    }
}

/// Where guests in Rust are built.
const BUILT: &str = "target/wasm32-wasip2/release";

impl Files {
    /// The component that a contender serves for a load.
    fn guest(&self, contender: Contender, load: Load) -> Option<PathBuf> {
        Some(match (contender, load) {
            (Contender::Wasmtime | Contender::WasmtimeTuned, _)
            | (Contender::TallyHttp, Load::Hello) => self.built("hello"),
            (Contender::WasmtimeP3 | Contender::WasmtimeP3Fresh, _)
            | (Contender::TallyP3, Load::Hello) => self.built("hello_p3"),
            (Contender::TallyP3, _) => self.built("counter_p3"),
            (Contender::Tally, _) => self.built("counter"),
            (Contender::TallyHttp, _) => self.built("counter_http"),
            (Contender::TallyJs, _) => self.guests.join("counter-js/dist/counter-js.wasm"),
            (Contender::TallyPy, _) => self.guests.join("counter-py/dist/counter-py.wasm"),
            _ => return None,
        })
    }

    /// What a contender lacks for a load, and how to get it.
    pub(crate) async fn missing(&self, contender: Contender, load: Load) -> Option<String> {
        let build = match contender {
            Contender::TallyJs => "./just build-guest js",
            Contender::TallyPy => "./just build-guest py",
            Contender::WasmtimeP3 | Contender::WasmtimeP3Fresh => "./just build-guest hello-p3",
            Contender::TallyP3 if load == Load::Hello => "./just build-guest hello-p3",
            Contender::TallyP3 => "./just build-guest p3",
            _ if load == Load::Hello => "./just build-guest hello",
            Contender::TallyHttp => "./just build-guest http",
            _ => "./just build-guest",
        };
        let mut files: Vec<(PathBuf, &str)> = Vec::new();
        files.extend(self.guest(contender, load).map(|guest| (guest, build)));
        match contender {
            Contender::Plain => {
                files.push((self.plain.clone(), "cargo build --release -p tally-bench"));
            }
            Contender::Fastapi => {
                files.push((fastapi::program(&self.peers), "bench/peers/setup.sh"));
            }
            _ if contender.is_wasmtime() => {
                if let Err(error) = wasmtime::version(&self.wasmtime).await {
                    return Some(format!("{error:#}"));
                }
            }
            _ if contender.is_tally() => {
                files.push((self.tally.clone(), "cargo build --release -p tally"));
            }
            _ => {}
        }
        let (path, how) = files.into_iter().find(|(path, _)| !path.is_file())?;
        Some(format!("{} is not there; get it with {how}", path.display()))
    }

    /// How a server is called. Only Tally has a second listener.
    pub(crate) fn command(
        &self,
        contender: Contender,
        load: Load,
        store: Option<&Store>,
        listen: SocketAddr,
        admin: SocketAddr,
    ) -> Command {
        let url = store.map_or_else(|| "memory:".to_owned(), Store::url);
        let guest = self.guest(contender, load).unwrap_or_default();
        let address = listen.to_string();
        match contender {
            Contender::Plain => {
                let mut command = program::command(&self.plain);
                command.args(["--store", &url, "--listen", &address]);
                command
            }
            Contender::WasmtimeP3Fresh => {
                wasmtime::serve(&self.wasmtime, &wasmtime::FRESH, &address, &guest)
            }
            Contender::Wasmtime | Contender::WasmtimeP3 => {
                wasmtime::serve(&self.wasmtime, &[], &address, &guest)
            }
            Contender::WasmtimeTuned => {
                wasmtime::serve(&self.wasmtime, &wasmtime::TUNED, &address, &guest)
            }
            Contender::Fastapi => fastapi::serve(&self.peers, store, listen.port()),
            _ => self.tally(&guest, &url, &address, admin),
        }
    }

    /// How Tally is called; without a guest, its configuration names some.
    pub(crate) fn tally(
        &self,
        guest: &Path,
        url: &str,
        listen: &str,
        admin: SocketAddr,
    ) -> Command {
        let mut command = program::command(&self.tally);
        command.arg("serve");
        if guest != Path::new("") {
            command.arg(guest);
        }
        command.args(["--store", url, "--listen", listen, "--admin", &admin.to_string()]);
        command.args(&self.tally_args);
        command
    }

    /// A command that deploys a component as a guest of a host of the same user, without a word.
    pub(crate) fn deploy(
        &self,
        component: &Path,
        guest: &str,
        admin: SocketAddr,
    ) -> std::process::Command {
        let mut command = std::process::Command::new(&self.tally);
        command.arg("deploy").arg(component).args(["--route", guest]);
        command.args(["--admin", &format!("http://{admin}")]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// A guest in Rust that was built, by its file's name.
    pub(crate) fn built(&self, name: &str) -> PathBuf {
        self.guests.join(BUILT).join(name).with_extension("wasm")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contenders_are_measured_where_they_have_the_route_and_the_store() {
        assert!(Contender::Tally.takes(Load::Increment, Some(Backend::Sqlite)));
        assert!(!Contender::Tally.takes(Load::Hello, None));
        assert!(!Contender::Fastapi.takes(Load::Increment, Some(Backend::Sqlite)));
        assert!(!Contender::Pgbench.takes(Load::Report, Some(Backend::Postgres)));
        assert!(!Contender::Wasmtime.takes(Load::Increment, Some(Backend::Memory)));
        let keyed = |contender: Contender| {
            [Load::IncrementKeyed, Load::KeysKeyed]
                .map(|load| contender.takes(load, Some(Backend::Postgres)))
        };
        assert_eq!(keyed(Contender::Tally), [true; 2]);
        assert_eq!(keyed(Contender::TallyPy), [true; 2]);
        assert_eq!(keyed(Contender::Pgbench), [false; 2]);
        assert_eq!(keyed(Contender::Plain), [false; 2]);
    }
}
