#!/bin/sh
# Installs what the application needs into a folder of its own, where that is not done yet.
set -eu
cd "$(dirname -- "$0")"
[ .venv/done -nt requirements.txt ] && exit 0
echo "installing FastAPI and aiocache"
python3 -m venv .venv
.venv/bin/pip install --quiet --disable-pip-version-check -r requirements.txt
touch .venv/done
