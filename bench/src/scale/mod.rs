//! How the cost of a request grows: with the pool, connections, guests, keys, the size of the store,
//! of values and of bodies. One line for each store, one window for each point, a plot for each.

mod plot;
mod preload;
mod requests;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};

use self::plot::{Plot, Point, Series};
use crate::{
    backend::{Backend, Store},
    client::{Requests, closed_loop},
    contender::{Contender, Files},
    processes::Clock,
    server::Server,
};

/// Connections that are kept busy, where it is not they that grow.
const CONNECTIONS: u32 = 64;

/// Load before each window that is not measured.
const WARM_UP: Duration = Duration::from_secs(1);

const ALL: [Backend; 4] = [Backend::Memory, Backend::Sqlite, Backend::Redis, Backend::Postgres];

/// What grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Dimension {
    /// Places in the pool, of which 64 are used
    Pool,
    /// Connections that are kept busy
    Connections,
    /// Guests; requests go to all of them at random
    Guests,
    /// Counters that requests go to
    Keys,
    /// Keys in the store
    Size,
    /// Bytes of a value that is written
    Value,
    /// Bytes of a request's body
    Body,
    /// Bytes of a response's body
    Response,
}

/// The options of `scale`.
#[derive(Args)]
pub(crate) struct ScaleOptions {
    /// What grows, separated by commas; everything by default.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Dimension>,
    /// Length of each window.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: u32,
    /// Folder for the plots.
    #[arg(long, default_value = "target/bench/scale")]
    out: PathBuf,
}

/// One point's server and load.
struct Setup<'a> {
    guest: PathBuf,
    store: &'a Store,
    arguments: Vec<String>,
    requests: Requests,
    connections: u32,
    /// Keys to be in the store before.
    preload: u64,
}

struct Scale<'a> {
    files: &'a Files,
    clock: Clock,
    window: Duration,
    dir: &'a Path,
}

/// Measures what was asked for, prints it, and writes the plots.
pub(crate) async fn run(files: &Files, options: &ScaleOptions) -> Result<()> {
    let dir = tempfile::tempdir().context("cannot make a folder for the stores")?;
    let window = Duration::from_secs(options.seconds.into());
    let scale = Scale { files, clock: Clock::new().await?, window, dir: dir.path() };
    let only = match options.only.as_slice() {
        [] => Dimension::value_variants(),
        only => only,
    };
    fs::create_dir_all(&options.out)?;
    for dimension in only {
        let plot = scale.plot(*dimension).await?;
        if plot.series.is_empty() {
            continue;
        }
        print!("{}", plot.text());
        let name = dimension.to_possible_value().context("a dimension has a name")?;
        let file = options.out.join(format!("{}.svg", name.get_name()));
        fs::write(&file, plot.svg())?;
        eprintln!("written: {}", file.display());
    }
    Ok(())
}

impl Dimension {
    /// The axis, where the line is drawn, and on which stores.
    fn axis(self) -> (&'static str, &'static [u64], &'static [Backend]) {
        const SIZES: &[u64] = &[1, 1 << 10, 16 << 10, 64 << 10, 256 << 10];
        match self {
            Self::Pool => ("places in the pool", &[64, 250, 1_000, 4_000], &[Backend::Memory]),
            Self::Connections => (
                "connections",
                &[1, 8, 64, 512, 4_096],
                &[Backend::Memory, Backend::Redis, Backend::Postgres],
            ),
            Self::Guests => ("guests", &[1, 10, 100, 1_000], &[Backend::Memory]),
            Self::Keys => ("counters asked for", &[1, 100, 10_000, 100_000], &ALL),
            Self::Size => (
                "keys in the store",
                &[10_000, 100_000, 1_000_000, 10_000_000],
                &[Backend::Sqlite, Backend::Redis, Backend::Postgres],
            ),
            Self::Value => ("bytes of a value that is written", SIZES, &ALL),
            Self::Body => ("bytes of a request's body", SIZES, &[Backend::Memory]),
            Self::Response => ("bytes of a response's body", SIZES, &[Backend::Memory]),
        }
    }
}

impl Scale<'_> {
    async fn plot(&self, dimension: Dimension) -> Result<Plot> {
        let (axis, places, backends) = dimension.axis();
        let mut plot = Plot { axis, series: Vec::new() };
        for backend in backends {
            let mut points = Vec::new();
            for x in places {
                eprintln!("{axis}: {x}, on {}", backend.name());
                match self.point(dimension, *x, *backend).await {
                    Ok(point) => points.push(point),
                    // The others go on.
                    Err(error) => eprintln!("  !! left out: {error:#}"),
                }
            }
            if !points.is_empty() {
                plot.series.push(Series { name: backend.name(), points });
            }
        }
        Ok(plot)
    }

    /// One point, with a store of its own, so that it finds nothing that another left.
    async fn point(&self, dimension: Dimension, x: u64, backend: Backend) -> Result<Point> {
        let dir = tempfile::tempdir_in(self.dir)?;
        let store = Store::start(backend, dir.path())?;
        let setup = self.setup(dimension, x, &store)?;
        self.measure(x, setup).await
    }

    fn setup<'a>(&self, dimension: Dimension, x: u64, store: &'a Store) -> Result<Setup<'a>> {
        let guest = |name: &str| self.files.built(name);
        let mut setup = Setup {
            guest: guest("counter"),
            store,
            arguments: Vec::new(),
            requests: Requests::of(vec![requests::increment(None)]),
            connections: CONNECTIONS,
            preload: 0,
        };
        match dimension {
            Dimension::Pool => setup.arguments = vec!["--pool".into(), x.to_string()],
            Dimension::Connections => {
                setup.connections = x.try_into()?;
                // All are at work at once, or wait for their turn.
                setup.arguments =
                    ["--pool", "4096", "--max-connections", "5000"].map(Into::into).into();
            }
            Dimension::Guests => {
                let config = self.dir.join("tally.toml");
                fs::write(&config, requests::routes(x, &setup.guest))?;
                setup.arguments = vec!["--config".into(), config.display().to_string()];
                setup.guest = PathBuf::new();
                setup.requests = Requests::of((0..x).map(requests::to_guest).collect());
            }
            Dimension::Keys => setup.requests = requests::keys(x),
            Dimension::Size => {
                setup.preload = x;
                setup.requests = requests::keys(x);
            }
            Dimension::Value => {
                setup.guest = guest("probe");
                setup.requests = Requests::of(vec![requests::get("/long-value", x)]);
            }
            Dimension::Body => {
                setup.guest = guest("probe_http");
                setup.requests = Requests::of(vec![requests::post("/count-body", x)]);
            }
            Dimension::Response => {
                setup.guest = guest("probe");
                setup.requests = Requests::of(vec![requests::get("/body", x)]);
            }
        }
        Ok(setup)
    }

    async fn measure(&self, x: u64, setup: Setup<'_>) -> Result<Point> {
        let Setup { guest, store, arguments, requests, connections, preload } = setup;
        if guest != Path::new("") && !guest.is_file() {
            bail!("{} is not there; ./just bench-scale builds all it needs", guest.display());
        }
        let url = store.url();
        let server = Server::start_by(Contender::Tally, self.dir, |address, admin| {
            let mut command = self.files.tally(&guest, &url, &address.to_string(), admin);
            command.args(&arguments);
            command
        });
        let mut server = server.await?;
        preload::fill(store, preload).await?;
        let address = server.address();
        let load = |requests: Requests, duration| {
            tokio::task::spawn_blocking(move || {
                closed_loop::run(address, requests, connections, duration)
            })
        };
        load(requests.clone(), WARM_UP).await??;
        let used = || -> Result<_> {
            let store = store.process_id().map(|id| self.clock.used(id)).transpose()?;
            Ok((self.clock.used(server.id())?, store))
        };
        let before = used()?;
        let traffic = load(requests, self.window).await??;
        let after = used()?;
        server.still_runs()?;
        server.end().await?;
        if let Some(failure) = traffic.failures("measuring").first() {
            bail!("{failure}");
        }
        let each = |after: Duration, before: Duration| {
            traffic.per_request(after.saturating_sub(before)).unwrap_or(f64::NAN) * 1e6
        };
        #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
        Ok(Point {
            x: x as f64,
            host: each(after.0, before.0),
            store: after.1.zip(before.1).map(|(after, before)| each(after, before)),
            rate: traffic.rate(),
        })
    }
}
