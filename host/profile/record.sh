#!/bin/sh
# Records the profile anew: builds the host so that it counts what it runs, lets it serve each kind
# of request over each store, and keeps the counts of what ran. Takes some fifteen minutes, and the
# component llvm-tools of rustup. To be done when the way of a request has changed much.
set -eu
cd "$(dirname "$0")/../.."
case $PWD in
    *[[:space:]]*) echo "the path $PWD has a space, which flags of the compiler cannot have" >&2; exit 1 ;;
esac
rustup component add llvm-tools
tools=$(rustc --print sysroot)/lib/rustlib/$(rustc -vV | sed -n 's/^host: //p')/bin
counts=$PWD/target/profile/counts
rm -rf "$counts"
RUSTFLAGS="-Cprofile-generate=$PWD/target/profile/build" CARGO_TARGET_DIR=target/profile \
    cargo build --locked --release -p tally
cargo build --locked --release -p tally-bench
# Guests are compiled as well, whatever was compiled before: the cache is a new one.
cache=$PWD/target/profile/cache
rm -rf "$cache"
run() {
    XDG_CACHE_HOME=$cache LLVM_PROFILE_FILE="$counts/%p.profraw" target/release/tally-bench \
        --tally target/profile/release/tally --out target/profile/bench \
        --contenders tally,tally-http,tally-p3 --rounds 1 --seconds 3 "$@"
}
report=$(run --loads hello,increment,increment-keyed,keys,report)
printf '%s\n' "$report"
# And clients that make a connection for each request.
run --loads hello,increment --backends memory --reconnect
for store in memory sqlite redis postgres; do
    if ! printf '%s\n' "$report" | grep -q "^| $store "; then
        echo "$store was not measured, so the profile stays as it was; see above for what is missing" >&2
        exit 1
    fi
done
# Without what never ran, which is most of it.
"$tools/llvm-profdata" merge --sparse -o host/profile/tally.profdata "$counts"
rustc --version > host/profile/rustc-version
