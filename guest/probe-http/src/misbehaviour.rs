//! What a handler should not do.

use wasip2::http::types::{ErrorCode, ResponseOutparam};

use crate::streams::Writing;

/// Panics before there is a response.
pub fn trap_before() {
    panic!("asked to");
}

/// Panics when its response has begun, and has little to show.
pub fn trap_after_head(out: ResponseOutparam) {
    let writing = Writing::plain(out);
    let _ = writing.write(b"ten bytes.");
    panic!("asked to");
}

/// Panics when much of its response is with the client.
pub fn trap_after_stream(out: ResponseOutparam) {
    let writing = Writing::plain(out);
    for _ in 0..1_000 {
        let _ = writing.write(&[b'x'; 1_000]);
    }
    panic!("asked to");
}

/// Gives an error in place of a response.
pub fn error_code(out: ResponseOutparam) {
    let reason = "a secret of the guest".to_owned();
    ResponseOutparam::set(out, Err(ErrorCode::InternalError(Some(reason))));
}

/// Lets go of a body without its end.
pub fn no_finish(out: ResponseOutparam) {
    let writing = Writing::plain(out);
    let _ = writing.write(b"half a body");
}

/// Keeps the host busy with writes of nothing.
pub fn zero_writes(out: ResponseOutparam) {
    let writing = Writing::plain(out);
    for _ in 0..1_000_000 {
        if writing.write_nothing().is_err() {
            return;
        }
    }
    if writing.write(b"done").is_ok() {
        writing.finish(None);
    }
}

/// Computes for ever once its response is complete.
pub fn long_after(out: ResponseOutparam) {
    probing::send(out, 200, "done");
    loop {
        std::hint::spin_loop();
    }
}
