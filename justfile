# Everything that can be done with this repository. `./just` runs it where `just` is missing.

# Comments in recipes are for those who read them here.
set ignore-comments := true

shipped := "guest/target/wasm32-wasip2/release/counter.wasm"

# Guests in Rust that tests run. Built one by one, as they want different features of one crate.
test_guests := "counter counter-http counter-p3 probe probe-files probe-files-p3 probe-http probe-imports probe-p3 probe-draft probe-draft2 probe-spin probe-spin-data probe-spin-kv probe-blobstore probe-labels probe-labels-p3 probe-wasmcloud stuck"

# What `serve` serves, and over which store
export STORE := env("STORE", "sqlite:tally.db")
export GUEST := env("GUEST", shipped)

# Backtraces slow every request whose host builds an error.
export RUST_BACKTRACE := "0"

_default:
    @{{ just_executable() }} --list --unsorted

# Build a guest: counter (the default); the same in http, p3, js, py or py-p3; or another folder of guest/
build-guest name="counter": _target
    #!/bin/sh
    set -eu
    case '{{ name }}' in
        js | py) exec guest/counter-{{ name }}/build.sh ;;
        py-p3) exec guest/counter-py/build.sh p3 ;;
        http | p3) package='counter-{{ name }}' ;;
        *) package='{{ name }}' ;;
    esac
    cd guest
    exec cargo build --locked --release -p "$package"

# Serve GUEST= (the counter) over STORE= (an SQLite file); flags are passed on to `tally serve`
[positional-arguments]
serve *flags:
    #!/bin/sh
    set -eu
    # STORE= and GUEST= may stand before `just`, before `serve`, or after it.
    for flag do
        shift
        case $flag in
            STORE=*) STORE=${flag#STORE=} ;;
            GUEST=*) GUEST=${flag#GUEST=} ;;
            *) set -- "$@" "$flag" ;;
        esac
    done
    # The guest that ships is kept up to date; any other has its own way to be built.
    if [ "$GUEST" = '{{ shipped }}' ]; then
        '{{ just_executable() }}' build-guest
    fi
    RUSTFLAGS=$(host/profile/flags.sh) cargo build --locked --release -p tally
    exec target/release/tally serve --store "$STORE" "$@" "$GUEST"

# Install what tests need: the target of guests, redis-server, PostgreSQL, PgBouncer, wrk, npm and Python
setup: _target
    ./.ci/setup

# All tests: state, host, guests, on every backend, with servers of their own
test: setup build-test-guests
    cargo test --locked --workspace
    '{{ just_executable() }}' test-guests

# The guests that tests run
build-test-guests: _target
    cd guest && for guest in {{ test_guests }}; do cargo build --locked --release -p $guest || exit; done
    # As a core module, which the host turns into a component.
    cd guest && cargo build --locked --release --target wasm32-wasip1 -p counter-http

# The suite of the counter on all guests, in JavaScript and Python as well
test-guests: setup (build-guest "js") (build-guest "py") (build-guest "py-p3") build-test-guests
    host/tests/languages/fastapi/setup.sh
    cargo test --locked -p tally --test languages
    cargo test --locked -p tally --test host -- _counter::

# Check ten thousand histories of concurrent clients on each backend, at peace and under faults, rather than the thousand of `test`
verify histories="10000": setup
    TALLY_HISTORIES={{ histories }} cargo test --locked -p tally-state --test histories -- --nocapture

# Formatting, clippy, and documentation without warnings
lint: _target
    cargo fmt --all --check
    cd guest && cargo fmt --all --check
    cargo clippy --locked --workspace --all-targets --all-features -- -D warnings
    cd guest && for guest in {{ test_guests }} hello hello-p3; do cargo clippy --locked --release -p $guest -- -D warnings || exit; done
    # The profile of another compiler would be left out, without a mistake to see.
    test "$(cut -d ' ' -f 2 host/profile/rustc-version)" = "$(sed -n 's/^channel = "\(.*\)"/\1/p' rust-toolchain.toml)"
    RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --document-private-items
    ./.ci/deny

# Check dependencies: licences, duplicates, sources and advisories; --strict fails where the advisory database cannot be had
deny *flags:
    ./.ci/deny {{ flags }}

# Fuzz one target for some minutes; without one, says which there are
fuzz target="" minutes="1":
    fuzz/run {{ target }} {{ minutes }}

# What CI runs
ci: lint test

# Measure Tally beside plain hyper, `wasmtime serve`, FastAPI and others, whichever are installed; flags are passed on
[positional-arguments]
bench *flags: build-guest (build-guest "http") (build-guest "p3") (build-guest "hello") (build-guest "hello-p3") _bench
    target/release/tally-bench "$@"

# Measure how the cost of a request grows, and draw it; flags are passed on
[positional-arguments]
bench-scale *flags: build-guest (build-guest "probe") (build-guest "probe-http") _bench
    target/release/tally-bench scale "$@"

# Measure how many guests fit on a host, and what the first request to one takes; flags are passed on
[positional-arguments]
bench-density *flags: build-guest _bench
    target/release/tally-bench density "$@"

# Measure what a guest feels of its neighbours, and how they share the machine; flags are passed on
[positional-arguments]
bench-neighbours *flags: build-guest (build-guest "probe") _bench
    target/release/tally-bench neighbours "$@"

# Measure the edge: overload, idle connections, newcomers, slow clients; and draw it; flags are passed on
[positional-arguments]
bench-edge *flags: build-guest build-test-guests _bench
    target/release/tally-bench edge "$@"

# Put mixed load on a host for some minutes, and fail where its memory, open files or threads climb
soak minutes="15": build-guest (build-guest "probe-http") _bench
    target/release/tally-bench soak {{ minutes }}

# Ask Tally, plain hyper, and nginx and HAProxy where they are installed, what the RFCs ask of HTTP servers
compare-http: (build-guest "probe-http")
    cargo test --locked --workspace --test host -- --ignored --nocapture raw::compare::

# One after the other: built together, their dependencies have the features of both, and the profile,
# which is of the host alone, does not fit them. What it is compared with has none.
_bench:
    RUSTFLAGS=$(host/profile/flags.sh) cargo build --locked --release -p tally
    cargo build --locked --release -p tally-bench

# Measure instances and state operations by themselves; --instructions counts those of instances instead
[positional-arguments]
bench-parts *flags: build-guest (build-guest "http") (build-guest "hello")
    #!/bin/sh
    set -eu
    cargo bench --locked -p tally --features alone --bench instances -- "$@"
    case " $* " in
        *' --instructions '*) ;;
        *) cargo bench --locked -p tally-state --bench operations -- "$@" ;;
    esac

# Record anew what the host runs for a request, by which the compiler makes it faster
profile: build-guest (build-guest "http") (build-guest "p3") (build-guest "hello") (build-guest "hello-p3")
    host/profile/record.sh

# rustup installs the toolchain of rust-toolchain.toml by itself, but not always its targets
_target:
    @for target in wasm32-wasip1 wasm32-wasip2; do rustup target list --installed | grep -q "^$target$" || rustup target add $target || exit; done
