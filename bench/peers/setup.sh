#!/bin/sh
# Installs the peers that are written in Python into a folder of their own, in the versions of
# requirements.txt. Does nothing where that is done.
set -eu
cd "$(dirname -- "$0")/fastapi"

# A file marks what was installed in full.
installed=.venv/installed
[ "$installed" -nt requirements.txt ] && exit 0
if ! python3 -c 'import venv, ensurepip' 2>/dev/null; then
    echo "setup: Python with venv is missing; on Debian: apt-get install python3-venv" >&2
    exit 1
fi
echo "installing FastAPI, aiocache and Tortoise ORM"
rm -rf .venv
python3 -m venv .venv
.venv/bin/pip install --quiet --disable-pip-version-check -r requirements.txt
touch "$installed"
