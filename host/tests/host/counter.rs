//! The counter's routes, as its clients see them: one suite for every guest that is a counter.

use std::time::Duration;

use http::Method;

use crate::{
    client::{Client, get, post},
    host::{Host, guest},
};

/// Clients that count at the same time.
const CLIENTS: usize = 64;

/// Increments of each of them: few, as interpreters take long. Compiled guests make more in `counting`.
const EACH: usize = 20;

/// The tests of one guest, in a module of its own. All counters pass the same, whatever their
/// language and world.
#[macro_export]
macro_rules! counter_suite {
    ($module:ident, $guest:literal) => {
        mod $module {
            $crate::counter_suite! { @tests $guest
                it_counts_reports_and_resets
                many_clients_count_exactly
                resets_and_increments_at_once_add_up
                a_time_to_live_is_that_of_what_is_created
                a_counter_begins_anew_when_its_time_is_over
                a_request_with_a_key_is_made_once
                counters_of_different_names_do_not_meet
                reading_never_writes_and_writing_is_never_a_get
                head_is_a_report_without_its_body
                a_report_that_was_seen_is_not_modified
                answers_to_writes_are_never_cached
                wrong_parameters_are_explained_and_count_nothing
                an_overflow_is_a_conflict_that_changes_nothing
                other_paths_are_not_found
                http2_with_prior_knowledge_is_served_on_the_same_port
                a_request_id_is_taken_over_or_made
            }
        }
    };
    (@tests $guest:literal $($test:ident)*) => {
        $(
            #[tokio::test]
            async fn $test() {
                let host = $crate::host::Host::start($guest, "memory:", &[]);
                $crate::counter::$test(host).await;
            }
        )*
    };
}

pub async fn it_counts_reports_and_resets(host: Host) {
    let mut client = Client::connect(host.address).await;
    assert_eq!(client.get("/report").await.count(), 0, "a counter nobody has raised");
    assert_eq!(client.post("/increment").await.text(), r#"{"count":1}"#);
    assert_eq!(client.post("/increment?by=5").await.count(), 6);
    assert_eq!(client.post("/increment?by=-2").await.count(), 4);
    assert_eq!(client.post("/increment?by=%2B3").await.count(), 7);
    assert_eq!(client.get("/report").await.count(), 7);
    assert_eq!(client.post("/reset").await.text(), r#"{"count":0,"previous":7}"#);
    assert_eq!(client.post("/reset?name=new").await.text(), r#"{"count":0,"previous":0}"#);
    let report = client.get("/report").await;
    assert_eq!(report.count(), 0, "still a number after a reset");
    assert_eq!(report.json()["current_process_id"], host.id());
    assert_eq!(report.headers["content-type"], "application/json");
}

/// Those that a host refuses, because interpreters take long, are sent again.
pub async fn many_clients_count_exactly(host: Host) {
    let address = host.address;
    let count = move || async move {
        let mut client = Client::connect(address).await;
        let mut values = Vec::new();
        while values.len() < EACH {
            let response = client.post("/increment").await;
            if response.status == 200 {
                values.push(response.count());
            } else {
                // Places or turns: which of them there are too few of depends on the machine.
                assert_eq!(response.status, 503, "{response:?}");
                assert_eq!(response.json()["applied"], "no", "{response:?}");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        values
    };
    let clients: Vec<_> = (0..CLIENTS).map(|_| tokio::spawn(count())).collect();
    let counted = futures_util::future::try_join_all(clients);
    let counted = tokio::time::timeout(Duration::from_secs(300), counted).await;
    let counted = counted.expect("all clients get through").unwrap();
    let mut values = counted.concat();
    values.sort_unstable();
    let all = i64::try_from(CLIENTS * EACH).unwrap();
    assert_eq!(values, (1..=all).collect::<Vec<_>>(), "each increment has a value of its own");
    assert_eq!(get(address, "/report").await.count(), all);
}

pub async fn a_time_to_live_is_that_of_what_is_created(host: Host) {
    let mut client = Client::connect(host.address).await;
    // An hour is far off. What exists keeps its own time, so it does not end in a moment.
    let started = std::time::Instant::now();
    assert_eq!(client.post("/increment?name=long&ttl=1h").await.text(), r#"{"count":1}"#);
    assert_eq!(client.post("/increment?name=long&by=5&ttl=1ms").await.count(), 6);
    assert_eq!(client.post("/increment?name=long&by=-2&ttl=1ms").await.count(), 4);
    client.post("/increment?name=ever").await;
    assert_eq!(client.post("/increment?name=ever&ttl=1ms").await.count(), 2);
    while started.elapsed() < Duration::from_millis(30) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(client.get("/report?name=long").await.count(), 4);
    assert_eq!(client.get("/report?name=ever").await.count(), 2);
    for _ in 0..2 {
        let keyed = client.post_with_key("/increment?name=keyed&by=3&ttl=1h", "add").await;
        assert_eq!(keyed.count(), 3);
        let keyed = client.post_with_key("/increment?name=less&by=-3&ttl=1h", "subtract").await;
        assert_eq!(keyed.count(), -3);
    }
    for (number, ttl) in ["60000ms", "060s", "10m", "24h", "36525d"].into_iter().enumerate() {
        let path = format!("/increment?name=unit-{number}&ttl={ttl}");
        assert_eq!(client.post(&path).await.count(), 1, "{ttl}");
        assert_eq!(client.post(&path).await.count(), 2, "{ttl}");
    }
}

/// Adds until a counter is no higher than before: it has ended, and begun anew.
async fn until_it_falls(client: &mut Client, path: &str) -> i64 {
    let mut before = i64::MIN;
    let falling = async {
        loop {
            let count = client.post(path).await.count();
            if count <= before {
                return count;
            }
            before = count;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let fell = tokio::time::timeout(Duration::from_secs(30), falling).await;
    fell.unwrap_or_else(|_| panic!("{path}: the counter's time does not end"))
}

pub async fn a_counter_begins_anew_when_its_time_is_over(host: Host) {
    let mut client = Client::connect(host.address).await;
    for round in 0..3 {
        // A window: each ends, whatever is added to it meanwhile.
        assert_eq!(until_it_falls(&mut client, "/increment?by=5&ttl=40ms").await, 5, "{round}");
    }
    // What is subtracted from nothing lives as long.
    assert_eq!(client.post("/increment?name=down&by=-5&ttl=40ms").await.count(), -5);
    let over = async {
        while client.get("/report?name=down").await.count() != 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), over).await.expect("its time ends");
    // What a reset leaves too; before, it was to live for ever.
    client.post("/increment?name=reset&by=9").await;
    assert_eq!(client.post("/reset?name=reset&ttl=40ms").await.json()["previous"], 9);
    assert_eq!(until_it_falls(&mut client, "/increment?name=reset&ttl=40ms").await, 1);
}

pub async fn resets_and_increments_at_once_add_up(host: Host) {
    let address = host.address;
    let clients: Vec<_> = (0..8)
        .map(|number| {
            tokio::spawn(async move {
                let mut client = Client::connect(address).await;
                let mut replaced = 0;
                for round in 0..40 {
                    if (round + number) % 8 == 0 {
                        let response = client.post("/reset").await;
                        replaced += response.json()["previous"].as_i64().unwrap();
                    } else {
                        client.post("/increment").await.count();
                    }
                }
                replaced
            })
        })
        .collect();
    let mut total = 0;
    for client in clients {
        total += client.await.unwrap();
    }
    assert_eq!(total + get(address, "/report").await.count(), 8 * 35);
}

pub async fn a_request_with_a_key_is_made_once(host: Host) {
    let mut client = Client::connect(host.address).await;
    let first = client.post_with_key("/increment?by=5", "\"one\"").await;
    assert_eq!(first.count(), 5);
    assert!(!first.headers.contains_key("idempotent-replayed"));
    client.post("/increment").await;
    for _ in 0..3 {
        let again = client.post_with_key("/increment?by=5", "one").await;
        assert_eq!(again.text(), first.text());
        assert_eq!(again.headers["idempotent-replayed"], "true");
        assert_eq!(again.headers["content-type"], first.headers["content-type"]);
    }
    client.post_with_key("/increment?by=6", "one").await.problem(422, "idempotency_reused");
    client.post_with_key("/reset", "one").await.problem(422, "idempotency_reused");
    assert_eq!(client.get("/report").await.count(), 6);
    let reset = client.post_with_key("/reset", "two").await;
    client.post("/increment").await;
    assert_eq!(client.post_with_key("/reset", "two").await.text(), reset.text());
    assert_eq!(client.get("/report").await.count(), 1);
}

pub async fn counters_of_different_names_do_not_meet(host: Host) {
    let mut client = Client::connect(host.address).await;
    for name in ["a", "a:b", "a%2Fb", "b%20c", "%C3%A9", "count"] {
        assert_eq!(client.post(&format!("/increment?name={name}")).await.count(), 1, "{name}");
    }
    assert_eq!(client.post("/increment").await.count(), 2, "the default is named count");
    assert_eq!(client.post("/increment?name=b+c").await.count(), 2, "a plus is a space");
    client.post("/reset?name=a").await;
    assert_eq!(client.get("/report?name=a%3Ab").await.count(), 1, "its sibling is untouched");
}

pub async fn reading_never_writes_and_writing_is_never_a_get(host: Host) {
    for (method, path, allow) in [
        (Method::GET, "/increment", "POST"),
        (Method::HEAD, "/increment", "POST"),
        (Method::GET, "/reset", "POST"),
        (Method::PUT, "/reset", "POST"),
        (Method::POST, "/report", "GET, HEAD"),
        (Method::DELETE, "/report", "GET, HEAD"),
    ] {
        let mut client = Client::connect(host.address).await;
        let response = client.send(method.clone(), path).await;
        assert_eq!(response.status, 405, "{method} {path}");
        assert_eq!(response.headers["allow"], allow);
    }
    assert_eq!(get(host.address, "/report").await.count(), 0);
}

pub async fn head_is_a_report_without_its_body(host: Host) {
    for mut client in
        [Client::connect(host.address).await, Client::connect_http2(host.address).await]
    {
        for (path, status) in [("/report", 200), ("/nothing", 404), ("/increment", 405)] {
            let response = client.send(Method::HEAD, path).await;
            assert_eq!(response.status, status);
            assert_eq!(response.body.len(), 0);
            let length: usize =
                response.headers["content-length"].to_str().unwrap().parse().unwrap();
            assert!(length > 10, "the length that GET would have");
        }
        let mut request = client.request(Method::HEAD, "/report");
        request.headers_mut().insert("if-none-match", "*".parse().unwrap());
        assert_eq!(client.try_send(request).await.unwrap().status, 304);
        assert_eq!(client.get("/report").await.status, 200, "the connection goes on");
    }
}

pub async fn a_report_that_was_seen_is_not_modified(host: Host) {
    let mut client = Client::connect(host.address).await;
    client.post("/increment").await;
    let tag = client.get("/report").await.headers["etag"].clone();
    for (seen, status) in
        [(tag.to_str().unwrap(), 304), ("*", 304), ("\"other\", W/\"1\"", 304), ("\"other\"", 200)]
    {
        let mut request = client.request(Method::GET, "/report");
        request.headers_mut().insert("if-none-match", seen.parse().unwrap());
        let response = client.try_send(request).await.unwrap();
        assert_eq!(response.status, status, "{seen}");
        assert_eq!(response.headers["etag"], tag);
        assert_eq!(response.body.is_empty(), status == 304);
    }
    client.post("/increment").await;
    assert_ne!(client.get("/report").await.headers["etag"], tag);
}

pub async fn answers_to_writes_are_never_cached(host: Host) {
    for path in ["/increment", "/reset"] {
        assert_eq!(post(host.address, path).await.headers["cache-control"], "no-store");
    }
}

pub async fn wrong_parameters_are_explained_and_count_nothing(host: Host) {
    let mut client = Client::connect(host.address).await;
    let long = format!("name={}", "k".repeat(2048));
    for (query, part) in [
        ("by=x", "'by' must be a whole number"),
        ("by=", "'by' must be a whole number"),
        ("by=1.5", "'by' must be a whole number"),
        ("by=9223372036854775808", "'by' must be a whole number"),
        ("by=1&by=2", "'by' must be given once"),
        ("ttl=", "'ttl' must be a time from 1ms to 36525d"),
        ("ttl=60", "'ttl' must be a time"),
        ("ttl=s", "'ttl' must be a time"),
        ("ttl=0s", "'ttl' must be a time"),
        ("ttl=-1s", "'ttl' must be a time"),
        ("ttl=%2B1s", "'ttl' must be a time"),
        ("ttl=1.5s", "'ttl' must be a time"),
        ("ttl=1w", "'ttl' must be a time"),
        ("ttl=1S", "'ttl' must be a time"),
        ("ttl=36525001h", "'ttl' must be a time"),
        ("ttl=36526d", "'ttl' must be a time"),
        ("ttl=18446744073709551615d", "'ttl' must be a time"),
        ("ttl=99999999999999999999999s", "'ttl' must be a time"),
        ("ttl=1s&ttl=1s", "'ttl' must be given once"),
        ("name=", "'name' must be 1 to 256 bytes"),
        ("name=%00", "'name' must be 1 to 256 bytes"),
        ("name=%ff", "'name' must be percent-encoded UTF-8"),
        ("name=%f", "'name' must be percent-encoded UTF-8"),
        ("name=a&name=b", "'name' must be given once"),
        (long.as_str(), "'name' must be 1 to 256 bytes"),
    ] {
        let detail = client.post(&format!("/increment?{query}")).await.problem(400, "bad_request");
        assert!(detail.contains(part), "{query}: {detail}");
    }
    assert_eq!(client.get("/report").await.count(), 0);
}

pub async fn an_overflow_is_a_conflict_that_changes_nothing(host: Host) {
    let mut client = Client::connect(host.address).await;
    let most = i64::MAX;
    assert_eq!(client.post(&format!("/increment?by={most}")).await.count(), most);
    let response = client.post("/increment").await;
    let detail = response.problem(409, "state_conflict");
    assert!(detail.contains("64-bit"), "{detail}");
    assert_eq!(response.json()["applied"], "no");
    assert_eq!(client.get("/report").await.count(), most);
}

pub async fn other_paths_are_not_found(host: Host) {
    for path in ["/", "/increment/", "/%69ncrement", "/report%00", "/%ff%fe", "//increment"] {
        let response = get(host.address, path).await;
        response.problem(404, "not_found");
    }
}

pub async fn http2_with_prior_knowledge_is_served_on_the_same_port(host: Host) {
    let mut client = Client::connect_http2(host.address).await;
    for count in 1..=50 {
        assert_eq!(client.post("/increment").await.count(), count);
    }
    assert_eq!(get(host.address, "/report").await.count(), 50);
}

pub async fn a_request_id_is_taken_over_or_made(host: Host) {
    let mut client = Client::connect(host.address).await;
    let first = client.get("/report").await.headers["x-request-id"].clone();
    assert_ne!(client.get("/report").await.headers["x-request-id"], first);
    let mut request = client.request(Method::GET, "/report");
    request.headers_mut().insert("x-request-id", "mine-1".parse().unwrap());
    assert_eq!(client.try_send(request).await.unwrap().headers["x-request-id"], "mine-1");
}

/// The counter that ships writes to one page of the host's for a request: what it uses of its stack, its
/// data, and what it allocates follow on one another (`guest/counter/src/arena.rs`). Constants that grow
/// would push that over a page's end, which nothing else shows but a slower request. How much a request
/// uses of stack and arena was measured, and is not seen here.
#[test]
fn the_counter_that_ships_has_its_stack_and_data_on_one_page() {
    use wasmparser::{Data, DataKind, Operator, Parser, Payload};

    const PAGE: u64 = 4_096;
    /// What a request was seen to use.
    const STACK: u64 = 1_536;
    const ARENA: u64 = 1_024;

    let constant =
        |expression: &wasmparser::ConstExpr| match expression.get_operators_reader().read() {
            Ok(Operator::I32Const { value }) => u64::try_from(value).unwrap(),
            other => panic!("{other:?}"),
        };
    let bytes = std::fs::read(guest("counter")).unwrap();
    let (mut stack, mut data) = (None, Vec::new());
    for payload in Parser::new(0).parse_all(&bytes) {
        match payload.unwrap() {
            // The first global of a module that was linked is where its stack begins.
            Payload::GlobalSection(globals) if stack.is_none() => {
                let first = globals.into_iter().next().unwrap().unwrap();
                assert!(first.ty.mutable);
                stack = Some(constant(&first.init_expr));
            }
            Payload::DataSection(all) => {
                data.extend(all.into_iter().map(|data| match data.unwrap() {
                    Data { kind: DataKind::Active { offset_expr, .. }, data, .. } => {
                        let start = constant(&offset_expr);
                        start..start + u64::try_from(data.len()).unwrap()
                    }
                    passive => panic!("{passive:?}"),
                }))
            }
            _ => {}
        }
    }
    let stack = stack.unwrap();
    let start = data.iter().map(|range| range.start).min().unwrap();
    let end = data.iter().map(|range| range.end).max().unwrap();
    assert!(start >= stack, "the stack grows down from {stack}, and data is at {start}");
    assert_eq!(
        (stack - STACK) / PAGE,
        (end + ARENA - 1) / PAGE,
        "stack {stack}, data {start} to {end}"
    );
}
