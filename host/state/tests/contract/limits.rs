//! Limits: what is taken up to the last byte, and what is refused without effect.

use bytes::Bytes;
use tally_state::{Bucket, Error, MAX_BUCKET_BYTES, MAX_KEY_BYTES, Rejection, Swapped};

use crate::bench::Bench;

/// Text that no store can compress away, for the limits of its index.
fn incompressible(bytes: usize) -> String {
    let mut random = fastrand::Rng::with_seed(7);
    (0..bytes).map(|_| random.alphanumeric()).collect()
}

pub(crate) async fn keys_up_to_the_limit_are_taken(bench: Bench) {
    let handle = &bench.handle;
    let bucket = Bucket::new(&incompressible(MAX_BUCKET_BYTES)).unwrap();
    for key in ["k".into(), incompressible(MAX_KEY_BYTES), "ü".repeat(MAX_KEY_BYTES / 2)] {
        handle.set(&bucket, &key, "v".into()).await.unwrap();
        assert_eq!(handle.get(&bucket, &key).await, Ok(Some("v".into())));
        assert!(handle.list(&bucket, "", None).await.unwrap().keys.contains(&key));
        handle.delete(&bucket, &key).await.unwrap();
        assert_eq!(handle.increment(&bucket, &key, 2).await, Ok(2));
    }
}

pub(crate) async fn keys_out_of_bounds_are_refused(bench: Bench) {
    let Bench { handle, bucket, .. } = bench;
    let long = incompressible(MAX_KEY_BYTES + 1);
    let longer = incompressible(2_048);
    for key in ["", &long, &longer, "\0", "a\0b", &"ü".repeat(501)] {
        let refused =
            |error: Error| assert!(matches!(error, Error::Rejected(Rejection::Key(_))), "{error}");
        refused(handle.get(&bucket, key).await.unwrap_err());
        refused(handle.exists(&bucket, key).await.unwrap_err());
        refused(handle.set(&bucket, key, "v".into()).await.unwrap_err());
        refused(handle.delete(&bucket, key).await.unwrap_err());
        refused(handle.increment(&bucket, key, 1).await.unwrap_err());
        refused(handle.swap(&bucket, key, None, "v".into()).await.unwrap_err());
    }
    assert_eq!(handle.list(&bucket, "", None).await.unwrap().keys, Vec::<String>::new());
}

pub(crate) async fn values_up_to_the_limit_are_taken_and_larger_ones_refused(bench: Bench) {
    let Bench { handle, bucket, .. } = bench;
    let largest = Bytes::from(incompressible(1 << 20));
    let larger = Bytes::from(vec![0xff; (1 << 20) + 1]);
    let refused =
        Error::Rejected(Rejection::ValueTooLarge { actual: larger.len(), limit: 1 << 20 });
    handle.set(&bucket, "key", largest.clone()).await.unwrap();
    assert_eq!(handle.get(&bucket, "key").await, Ok(Some(largest.clone())));
    assert_eq!(handle.set(&bucket, "key", larger.clone()).await, Err(refused.clone()));
    assert_eq!(handle.swap(&bucket, "key", Some(largest.clone()), larger).await, Err(refused));
    assert_eq!(handle.get(&bucket, "key").await, Ok(Some(largest.clone())), "unchanged");
    let mut next = largest.to_vec();
    next[0] ^= 1;
    let swapped = handle.swap(&bucket, "key", Some(largest), next.clone().into()).await;
    assert_eq!(swapped, Ok(Swapped::Yes));
    assert_eq!(handle.get(&bucket, "key").await, Ok(Some(next.into())));
}

pub(crate) async fn one_call_names_no_more_keys_than_allowed(bench: Bench) {
    let Bench { handle, bucket, .. } = bench;
    let keys: Vec<String> = (0..=1_000).map(|number| number.to_string()).collect();
    let values: Vec<_> = keys.iter().map(|key| (key.clone(), Bytes::from("v"))).collect();
    let refused = Error::Rejected(Rejection::TooManyKeys { actual: 1_001, limit: 1_000 });
    assert_eq!(handle.set_many(&bucket, values.clone()).await, Err(refused.clone()));
    assert_eq!(handle.get_many(&bucket, &keys, usize::MAX).await, Err(refused.clone()));
    assert_eq!(handle.get(&bucket, "0").await, Ok(None), "nothing was set");
    handle.set_many(&bucket, values[..1_000].to_vec()).await.unwrap();
    assert_eq!(handle.delete_many(&bucket, &keys).await, Err(refused));
    let held = handle.get_many(&bucket, &keys[..1_000], usize::MAX).await.unwrap();
    assert_eq!(held, vec![Some(Bytes::from("v")); 1_000], "nothing was deleted");
    handle.delete_many(&bucket, &keys[..1_000]).await.unwrap();
    assert_eq!(handle.list(&bucket, "", None).await.unwrap().keys, Vec::<String>::new());
}
