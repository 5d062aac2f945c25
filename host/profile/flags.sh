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
            # Named by what is in it, and copied once: cargo builds all anew when the flags change, and when
            # the file's time does.
            profile=$target/tally-$(cksum < tally.profdata | cut -d " " -f 1).profdata
            if ! [ -e "$profile" ]; then
                mkdir -p "$target"
                cp tally.profdata "$profile.new"
                mv "$profile.new" "$profile"
            fi
            # What has changed since it was recorded is built without it, which is no mistake.
            flags="$flags -Cprofile-use=$profile -Cllvm-args=-no-pgo-warn-mismatch"
        else
            echo "this is not $(cat rustc-version), so the host is built without its profile, and is slower" >&2
        fi
        ;;
esac
printf '%s\n' "$flags"
