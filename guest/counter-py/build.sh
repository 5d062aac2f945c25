#!/bin/sh
# Builds dist/counter-py.wasm of the plugin world, or with `p3` dist/counter-py-p3.wasm of WASI 0.3. Installs
# what that takes (Python is expected, and cargo for WASI 0.3). Does nothing where all is up to date.
set -eu
cd "$(dirname "$0")"

case ${1-} in
    '') module=app world=plugin component=dist/counter-py.wasm ;;
    p3) module=service world=service component=dist/counter-py-p3.wasm ;;
    *) echo "usage: $0 [p3]" >&2 && exit 2 ;;
esac
if [ -e "$component" ]; then
    changed=$(find ./*.py service.wit build.sh requirements.txt ../../wit ../Cargo.lock -newer "$component")
    [ -n "$changed" ] || exit 0
fi

# A file marks what was installed in full.
installed=.venv/installed
if ! [ "$installed" -nt requirements.txt ]; then
    rm -rf .venv
    python3 -m venv .venv
    .venv/bin/pip install --quiet --disable-pip-version-check -r requirements.txt
    touch "$installed"
fi

mkdir -p dist
wit=../../wit
if [ "$module" = service ]; then
    # In one folder, as the tool wants them: the world, this repository's interfaces, and those of WASI 0.3, which
    # the crate `wasip3` of the Rust guests has: of those in Cargo.lock, the one with the version that the world names.
    version=$(sed -n 's/.*include wasi:http\/service@\(.*\);/\1/p' service.wit)
    wit=dist/wit
    rm -rf "$wit"
    mkdir -p "$wit"
    cp -r service.wit ../../wit/deps "$wit"
    cp ../../wit/plugin.wit "$wit/deps/tally-plugin.wit"
    wasip3=$(cargo metadata --locked --format-version 1 --manifest-path ../Cargo.toml | python3 -c '
import json, sys
crates = [crate for crate in json.load(sys.stdin)["packages"] if crate["name"] == "wasip3"]
crates = [crate for crate in crates if crate["version"].endswith("+wasi-" + sys.argv[1])]
print(crates[0]["manifest_path"] if crates else sys.exit("no crate wasip3 in Cargo.lock has WASI " + sys.argv[1]))' "$version")
    cp "$(dirname "$wasip3")"/wit/deps/*.wit "$wit/deps"
fi
.venv/bin/componentize-py --quiet -d "$wit" -w "$world" componentize "$module" -o "$component.new"
# In one step, so that nobody meets half a component.
mv "$component.new" "$component"
size=$(wc -c <"$component")
echo "guest/counter-py/$component: $((size / 1048576)) MiB"
