//! Which buckets there are, and which are not.

use serde_json::json;

use super::Store;

#[tokio::test]
async fn buckets_are_listed() {
    for store in Store::both() {
        store.text(&["set", "k", "v", "--bucket", "a\nb"]);
        store.text(&["set", "k", "v", "--bucket", "tally"]);
        let all: Vec<String> = (0..30).map(|number| format!("key:{number}")).collect();
        store.fill(&all).await;
        // Keys with colons are in no bucket of their own.
        assert_eq!(store.text(&["buckets"]), "a\\nb\nmany\ntally\n");
        let documents = store.json(&["buckets"]);
        assert_eq!(documents, ["a\nb", "many", "tally"].map(|name| json!({"bucket": name})));
        store.text(&["delete", "k", "--bucket", "a\nb"]);
        assert_eq!(store.text(&["buckets"]), "many\ntally\n");
    }
}

#[test]
fn a_bucket_that_is_not_there_is_said_not_shown_as_empty() {
    for store in Store::both() {
        store.text(&["set", "k", "v", "--bucket", "main"]);
        for arguments in [
            &["list"][..],
            &["list", "--values", "--json"],
            &["list", "--prefix", "x"],
            &["get", "k"],
            &["ttl", "k"],
            &["ttl", "k", "--persist"],
        ] {
            let (output, error) = store.fails(arguments);
            assert_eq!(output, "", "{arguments:?}");
            let expected = "there is no bucket 'default' in this store; there are: 'main'; name one with --bucket";
            assert!(error.contains(expected), "{arguments:?}: {error}");
        }
        // What is there and has nothing of the kind is another matter.
        let main = ["--bucket", "main"];
        assert_eq!(store.text(&[&["list", "--prefix", "x"][..], &main].concat()), "");
        let (_, error) = store.fails(&[&["get", "x"][..], &main].concat());
        assert!(error.contains("there is no key 'x' in the bucket 'main'"), "{error}");

        for number in 0..12 {
            store.text(&["set", "k", "v", "--bucket", &format!("more-{number:02}")]);
        }
        let (_, error) = store.fails(&["list"]);
        assert!(error.contains("'more-08' and more, which tally kv buckets lists"), "{error}");

        for number in 0..12 {
            store.text(&["delete", "k", "--bucket", &format!("more-{number:02}")]);
        }
        store.text(&["delete", "k", "--bucket", "main"]);
        let (_, error) = store.fails(&["list"]);
        assert!(
            error.contains("there is no bucket 'default' in this store; it holds no keys"),
            "{error}"
        );
        assert_eq!(store.text(&["buckets"]), "");
    }
}
