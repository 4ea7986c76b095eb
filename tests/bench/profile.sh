#!/usr/bin/env bash
# Writes src/link/cupbearer.profdata anew: how often each branch of the program was taken, which release builds are compiled by (see
# .cargo/rustc-with-profile). It takes a quarter of an hour, and hot.sh comes after it. A profile ages slowly: functions that were
# edited since are compiled as if there were none; those of a crate with another version, too, and then all, with another compiler.
#
#     bash tests/bench/profile.sh
#
# Needs curl, openssl, python3, x86-64 Linux, and llvm-profdata of the same version of LLVM as rustc's: `rustup component add llvm-tools`,
# or its path in LLVM_PROFDATA.
set -euo pipefail
# What is not recorded on purpose: build scripts, macros and the vendors.
export LLVM_PROFILE_FILE=/dev/null

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
source tests/bench/observe.sh

# Apart from other builds, and with the same flags otherwise: names of functions, by which a profile is found, depend on some of them.
target=${CARGO_TARGET_DIR:-target}/profile
program=$target/release/cupbearer
unset RUSTFLAGS CARGO_ENCODED_RUSTFLAGS

main() {
    local merge
    merge=$(profdata)
    RUSTC_WRAPPER='' cargo build --release --locked --target-dir "$target" \
        --config "target.x86_64-unknown-linux-gnu.rustflags=['-Cprofile-generate']"
    program=$(realpath "$program")

    vendors "$program"
    cp "$work/one.toml" "$work/start.toml"
    recorded start start /orders/42
    recorded plain start /orders/42 /medium /large /slow
    recorded bare start / /medium /large /slow
    # Not what is done now and then, as refreshes, reloads and scrapes: it would lie between what an idle sidecar keeps in memory.
    recorded one uploads /orders/42
    # What a request costs: both versions of HTTP, small and large answers, one and many connections.
    LLVM_PROFILE_FILE="$work/cost.profraw" cargo bench --profile dev --bench cost -- --program "$program"

    # A thousand times what was counted: where a function was inlined in several places, one call is shared out among them, and a third
    # of one would round to never.
    local counted counts=()
    for counted in start plain bare one cost; do
        counts+=("--weighted-input=1000,$work/$counted.profraw")
    done
    "$merge" merge --sparse "${counts[@]}" --output "$work/cupbearer.profdata"
    mv "$work/cupbearer.profdata" src/link/cupbearer.profdata
    "$merge" show src/link/cupbearer.profdata
}

# Runs the program as `observe` does.
recorded() {
    observe "$@" -- env LLVM_PROFILE_FILE="$work/$1.profraw" "$program"
}

# Where llvm-profdata is.
profdata() {
    local candidate
    for candidate in "${LLVM_PROFDATA:-}" "$(rustc --print target-libdir)/../bin/llvm-profdata"; do
        if [[ -x $candidate ]]; then
            echo "$candidate"
            return
        fi
    done
    echo 'no llvm-profdata: rustup component add llvm-tools, or name it in LLVM_PROFDATA' >&2
    return 1
}

main
