#!/bin/sh
# Builds dist/counter-py.wasm, and installs what that takes (Python is expected). Does nothing where
# all is up to date.
set -eu
cd "$(dirname "$0")"

component=dist/counter-py.wasm
if [ -e "$component" ]; then
    changed=$(find app.py build.sh requirements.txt ../../wit -newer "$component")
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
.venv/bin/componentize-py --quiet -d ../../wit -w plugin componentize app -o "$component.new"
# In one step, so that nobody meets half a component.
mv "$component.new" "$component"
size=$(wc -c <"$component")
echo "guest/counter-py/$component: $((size / 1048576)) MiB"
