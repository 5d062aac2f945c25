#!/bin/sh
# Prints the RUSTFLAGS of a release build: those that are set, and the recorded profile, by which the
# compiler knows what every request runs. A profile is for one compiler, and is left out for others.
set -eu
cd "$(dirname "$0")"
flags=${RUSTFLAGS-}
here=$(pwd -P)
case $here in
    # Flags are separated by spaces.
    *[[:space:]]*) echo "the path $here has a space, so the host is built without its profile, and is slower" >&2 ;;
    *)
        if [ "$(rustc --version)" = "$(cat rustc-version)" ]; then
            flags="$flags -Cprofile-use=$here/tally.profdata"
        else
            echo "this is not $(cat rustc-version), so the host is built without its profile, and is slower" >&2
        fi
        ;;
esac
printf '%s\n' "$flags"
