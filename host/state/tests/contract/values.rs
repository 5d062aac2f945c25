//! Values: any bytes, and what is read after a write.

use bytes::Bytes;

use crate::bench::Bench;

pub(crate) async fn a_missing_key_has_no_value(bench: Bench) {
    let Bench { handle, bucket, .. } = bench;
    assert_eq!(handle.get(&bucket, "missing").await, Ok(None));
    assert_eq!(handle.exists(&bucket, "missing").await, Ok(false));
    // Reading creates nothing.
    assert_eq!(handle.list(&bucket, "", None).await.unwrap().keys, Vec::<String>::new());
}

pub(crate) async fn any_bytes_come_back_as_they_were_set(bench: Bench) {
    let Bench { handle, bucket, .. } = bench;
    let all: Vec<u8> = (0..=u8::MAX).collect();
    for value in [
        &b""[..],
        b"\x00",
        b"\xff",
        b"a\x00b",
        b"plain",
        b"\r\n$5\r\n",
        b"0",
        b"-0",
        b"007",
        b"+1",
        b" 1",
        b"1.0",
        b"1e3",
        b"9223372036854775807",
        b"9223372036854775808",
        b"-9223372036854775808",
        b"-9223372036854775809",
        b"null",
        "zwölf".as_bytes(),
        &all,
    ] {
        let value = Bytes::copy_from_slice(value);
        handle.set(&bucket, "key", value.clone()).await.unwrap();
        assert_eq!(handle.get(&bucket, "key").await, Ok(Some(value.clone())));
        assert_eq!(handle.exists(&bucket, "key").await, Ok(true), "{value:?}");
    }
}

pub(crate) async fn a_deleted_key_is_gone(bench: Bench) {
    let Bench { handle, bucket, .. } = bench;
    handle.delete(&bucket, "key").await.expect("deleting what is missing is no error");
    for value in ["text", "5", ""] {
        handle.set(&bucket, "key", value.into()).await.unwrap();
        handle.delete(&bucket, "key").await.unwrap();
        assert_eq!(handle.get(&bucket, "key").await, Ok(None), "{value:?}");
        assert_eq!(handle.exists(&bucket, "key").await, Ok(false), "{value:?}");
    }
    handle.set(&bucket, "other", "stays".into()).await.unwrap();
    handle.delete(&bucket, "key").await.unwrap();
    assert_eq!(handle.get(&bucket, "other").await, Ok(Some("stays".into())));
    // A deleted counter starts anew.
    handle.increment(&bucket, "key", 5).await.unwrap();
    handle.delete(&bucket, "key").await.unwrap();
    assert_eq!(handle.increment(&bucket, "key", 1).await, Ok(1));
}

pub(crate) async fn an_acknowledged_write_is_seen_by_the_next_read(bench: Bench) {
    let Bench { handle, bucket, .. } = bench;
    for round in 1..=40_i64 {
        assert_eq!(handle.increment(&bucket, "count", 1).await, Ok(round));
        assert_eq!(handle.get(&bucket, "count").await, Ok(Some(round.to_string().into())));
        handle.set(&bucket, "value", format!("v{round}").into()).await.unwrap();
        assert_eq!(handle.exists(&bucket, "value").await, Ok(true));
        assert_eq!(handle.get(&bucket, "value").await, Ok(Some(format!("v{round}").into())));
        assert_eq!(handle.list(&bucket, "", None).await.unwrap().keys.len(), 2);
        handle.delete(&bucket, "value").await.unwrap();
        assert_eq!(handle.exists(&bucket, "value").await, Ok(false));
        assert_eq!(handle.list(&bucket, "", None).await.unwrap().keys, ["count"]);
    }
}

pub(crate) async fn an_acknowledged_write_is_seen_by_another_worker(bench: Bench) {
    let (writer, reader) = (bench.state.worker(), bench.state.worker());
    let bucket = &bench.bucket;
    for round in 1..=40_i64 {
        assert_eq!(writer.increment(bucket, "count", 1).await, Ok(round));
        assert_eq!(reader.get(bucket, "count").await, Ok(Some(round.to_string().into())));
    }
}
