//! `GET /hello`: one component that exports `wasi:http`, served by Tally and by `wasmtime serve`,
//! beside plain hyper that answers the same without WebAssembly. Each of the hosts makes a fresh
//! instance for each request.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use hyper::{Method, Response, StatusCode, header::CONTENT_TYPE};

use crate::{
    http,
    load::Target,
    measure::{Measure, order},
    programs::{Kind, Task},
    report::Report,
    server::Server,
    table::{Column, Layout},
};

/// The servers that are compared.
pub(crate) const KINDS: [Kind; 4] = [Kind::Plain, Kind::Tally, Kind::Wasmtime, Kind::WasmtimeTuned];

const TARGET: Target = Target { method: "GET", path: "/hello" };

const TEXT: &str = "Hello, World!";

const LAYOUT: Layout = Layout {
    title: "GET /hello through wasi:http",
    columns: &[
        Column::Server,
        Column::Rate,
        Column::Cpu,
        Column::P50,
        Column::P99,
        Column::RateRatio("requests/s ÷ wasmtime serve"),
        Column::CpuRatio("CPU ÷ wasmtime serve"),
    ],
    baseline: Kind::Wasmtime.name(),
    compared: &[Kind::Plain.name(), Kind::Tally.name(), Kind::WasmtimeTuned.name()],
};

/// Measures these servers.
pub(crate) async fn run(
    measure: &Measure<'_>,
    kinds: &[Kind],
    guest: &Path,
    report: &mut Report,
) -> Result<()> {
    for round in 0..measure.rounds {
        for kind in order(kinds, round) {
            let title = format!("{}, hello", kind.name());
            eprintln!("{title}");
            let task = Task { guest, store: "memory:" };
            let mut server = Server::start(measure.programs, kind, task, measure.dir).await?;
            greeted(&server).await.with_context(|| title.clone())?;
            let window = measure.window(&mut server, &TARGET, None).await?;
            greeted(&server).await.with_context(|| title.clone())?;
            server.end().await?;
            for note in window.failures() {
                report.note(format!("{title}: {note}"));
            }
            report.add(&LAYOUT, "", kind.name(), window.sample);
        }
    }
    Ok(())
}

/// Checks that a server answers as all of them must.
async fn greeted(server: &Server) -> Result<()> {
    let answer = http::request(server.address(), Method::GET, TARGET.path).await?;
    if !is_greeting(&answer) {
        bail!("GET {} answered {answer:?}", TARGET.path);
    }
    Ok(())
}

fn is_greeting(answer: &Response<Bytes>) -> bool {
    answer.status() == StatusCode::OK
        && answer.headers().get(CONTENT_TYPE).is_some_and(|value| value == "text/plain")
        && answer.body() == TEXT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_must_be_the_greeting_with_its_type() {
        let answer = |content_type, body| {
            let response = Response::builder().header(CONTENT_TYPE, content_type);
            response.body(Bytes::from_static(body)).unwrap()
        };
        assert!(is_greeting(&answer("text/plain", b"Hello, World!")));
        assert!(!is_greeting(&answer("text/html", b"Hello, World!")));
        assert!(!is_greeting(&answer("text/plain", b"Hello, World!\n")));
        let mut error = answer("text/plain", b"Hello, World!");
        *error.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        assert!(!is_greeting(&error));
    }
}
