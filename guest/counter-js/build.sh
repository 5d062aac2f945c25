#!/bin/sh
# Builds dist/counter-js.wasm, and installs what that takes (Node.js is expected). Does nothing
# where all is up to date.
set -eu
cd "$(dirname "$0")"

# npm writes this file when it is done.
if ! [ node_modules/.package-lock.json -nt package-lock.json ]; then
    npm ci --silent
fi
exec node build.mjs
