//! Increments that give a key a time to live.

use super::Store;

#[test]
fn an_increment_gives_what_it_creates_its_time() {
    for store in Store::both() {
        assert_eq!(store.text(&["incr", "n", "--ttl", "10m"]), "1\n");
        assert_eq!(store.text(&["incr", "n", "--ttl", "9h"]), "2\n", "it keeps its own");
        let left = store.text(&["ttl", "n"]);
        assert!(left.starts_with("9m 5") || left.starts_with("10m"), "{left}");
        store.text(&["incr", "ever"]);
        assert_eq!(store.text(&["incr", "ever", "--ttl", "10m"]), "2\n");
        assert_eq!(store.text(&["ttl", "ever"]), "unlimited\n");

        // Within bounds as well.
        store.fails(&["incr", "limited", "--by", "2", "--max", "1", "--ttl", "10m"]);
        store.fails(&["get", "limited"]);
        assert_eq!(store.text(&["incr", "limited", "--max", "1", "--ttl", "10m"]), "1\n");
        let (_, error) = store.fails(&["incr", "limited", "--max", "1", "--ttl", "10m"]);
        assert!(error.contains("nothing was changed"), "{error}");
        let left = store.text(&["ttl", "limited"]);
        assert!(left.starts_with("9m 5") || left.starts_with("10m"), "{left}");

        let (_, error) = store.fails(&["incr", "zero", "--ttl", "0s"]);
        assert!(error.contains("at least one millisecond"), "{error}");
    }
}
