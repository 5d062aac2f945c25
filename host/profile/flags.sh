#!/bin/sh
# Prints the RUSTFLAGS of a release build of the host: those that are set, and the recorded profile, by
# which the compiler knows what every request runs. A profile is for one compiler, and is left out for
# others. Where it is used, flags of cargo's configuration are not.
set -eu
cd "$(dirname "$0")"
flags=${RUSTFLAGS-}
target=$(cd ../.. && pwd -P)/target
case $target in
    # Flags are separated by spaces.
    *[[:space:]]*) echo "the path $target has a space, so the host is built without its profile, and is slower" >&2 ;;
    *)
        if [ "$(rustc --version)" = "$(cat rustc-version)" ]; then
            # Named by what is in it: cargo builds anew when flags change, not when a file does.
            profile=$target/tally-$(cksum < tally.profdata | cut -d " " -f 1).profdata
            mkdir -p "$target"
            cp tally.profdata "$profile"
            # What has changed since it was recorded is built without it, which is no mistake.
            flags="$flags -Cprofile-use=$profile -Cllvm-args=-no-pgo-warn-mismatch"
        else
            echo "this is not $(cat rustc-version), so the host is built without its profile, and is slower" >&2
        fi
        ;;
esac
printf '%s\n' "$flags"
