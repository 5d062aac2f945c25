//! What a handler should not do.

use std::future::pending;

use wasip3::{
    clocks::monotonic_clock,
    http::types::{Fields, Response},
    spawn_local,
    wit_bindgen::yield_async,
    wit_future, wit_stream,
};

use crate::{
    number,
    reply::{self, streaming},
};

/// An hour, in nanoseconds: longer than any test takes.
const LONG: u64 = 3_600_000_000_000;

/// What is answered to a path, if it is one of these, and if it comes to that.
pub async fn answer(path: &str, argument: &str) -> Option<Response> {
    Some(match path {
        "/trap-before" => panic!("asked to"),
        "/trap-after-head" => writes_then_panics(1, 10),
        "/trap-after-stream" => writes_then_panics(1_000, 1_000),
        "/trap-while-waiting" => {
            spawn_local(async {
                yield_async().await;
                panic!("asked to");
            });
            pending().await
        }
        "/forget" => pending().await,
        "/zero-writes" => zero_writes(),
        "/never-ends" => never_ends(),
        "/long-after" => streaming(Fields::new(), async |mut contents, end| {
            drop(contents.write_all(b"done".into()).await);
            drop(contents);
            let _ = end.write(Ok(None)).await;
            yield_async().await;
            spin()
        }),
        "/loop" => spin(),
        "/loop-in-turns" => loop {
            yield_async().await;
        },
        "/grow" => grow(number(argument)),
        "/grow-after" => {
            spawn_local(async {
                monotonic_clock::wait_for(1_000_000).await;
                drop(grow(1 << 30));
            });
            reply::text(200, "done")
        }
        "/tasks" => tasks(number(argument)).await,
        "/streams" => streams(number(argument)),
        "/futures" => futures(number(argument)),
        "/fields" => fields(number(argument)),
        "/wait-after" => {
            spawn_local(async { monotonic_clock::wait_for(LONG).await });
            reply::text(200, "done")
        }
        _ => return None,
    })
}

/// Writes parts of a body, and panics.
fn writes_then_panics(parts: usize, bytes: usize) -> Response {
    streaming(Fields::new(), async move |mut contents, _end| {
        for _ in 0..parts {
            drop(contents.write_all(vec![b'x'; bytes]).await);
        }
        panic!("asked to");
    })
}

/// Keeps the host busy with writes of nothing.
fn zero_writes() -> Response {
    streaming(Fields::new(), async |mut contents, _end| {
        for _ in 0..1_000_000 {
            let _ = contents.write(Vec::new()).await;
        }
        drop(contents.write_all(b"done".into()).await);
    })
}

/// Begins a body, and keeps the end that is written to.
fn never_ends() -> Response {
    let (contents, reader) = wit_stream::new();
    let (end, ending) = wit_future::new(|| Ok(None));
    let (response, _) = Response::new(Fields::new(), Some(reader), ending);
    std::mem::forget((contents, end));
    response
}

fn spin() -> ! {
    loop {
        std::hint::spin_loop();
    }
}

/// Takes so much memory.
fn grow(bytes: usize) -> Response {
    let taken = vec![1_u8; bytes];
    reply::text(200, &std::hint::black_box(taken).len().to_string())
}

/// Has so many tasks that wait, and answers when all of them do.
async fn tasks(count: usize) -> Response {
    for _ in 0..count {
        spawn_local(async { monotonic_clock::wait_for(LONG).await });
    }
    yield_async().await;
    reply::text(200, &count.to_string())
}

/// Has so many streams open.
fn streams(count: usize) -> Response {
    let open: Vec<_> = (0..count).map(|_| wit_stream::new::<u8>()).collect();
    reply::text(200, &open.len().to_string())
}

/// Has so many futures open.
fn futures(count: usize) -> Response {
    let open: Vec<_> = (0..count)
        .map(|_| wit_future::new::<Result<(), wasip3::http::types::ErrorCode>>(|| Ok(())))
        .collect();
    reply::text(200, &open.len().to_string())
}

/// Has so many headers of nothing.
fn fields(count: usize) -> Response {
    let open: Vec<_> = (0..count).map(|_| Fields::new()).collect();
    reply::text(200, &open.len().to_string())
}
