#!/usr/bin/env bash
# Writes src/link/hot.txt anew: the functions that a sidecar runs, as callgrind sees them. Needs valgrind and curl.
#
#     cargo build --release && bash tests/bench/hot.sh target/release/cupbearer
#
# `cupbearer demo` plays the vendors and their APIs. First comes what one provider and one HTTP/1.1 upstream need from the start to the
# first responses, by names that are as good as exact; then the same with more left open, for after the next edit, and what uploads,
# scrapes, refreshes and a reload add, then the other vendors and HTTP/2: an idle sidecar has touched little but the first part.
set -euo pipefail

program=$(realpath "$1")
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
work=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$work"' EXIT

main() {
    "$program" demo >"$work/demo" 2>&1 &
    until grep -q '^All five' "$work/demo"; do sleep 0.2; done
    local config
    config=$(sed -nE 's/^The proxy.s configuration, (.*):$/\1/p' "$work/demo")
    sed -E 's/^(listen|admin) .*/\1 = "127.0.0.1:0"/' "$config" >"$work/all.toml"
    # The first provider and upstream; up to the line before the second.
    sed '/^\[providers.besender\]/,$d; /^route /d' "$work/all.toml" >"$work/one.toml"
    sed -Ei 's/^\[upstreams.cncn\]/&\nhttp = "1.1"/' "$work/one.toml"

    # A plain OAuth 2.0 server, which the demo has none of: what reads the answer does not matter.
    sed -E 's/^\[server\]/&\nworkers = 1\nmax_connections = 9000/; s/^dialect .*/dialect = "oauth2"\nscope = "a b"\nrequired = false\ntimeout = "5s"/' \
        "$work/one.toml" >"$work/plain.toml"

    observe start "$work/one.toml" /orders/42
    observe plain "$work/plain.toml" /orders/42
    observe one "$work/one.toml" /orders/42
    observe all "$work/all.toml" /cncn/orders/42 '/besender/contacts?page=1' /ctcfile/files/7 /identityserver/users/me /passport/profile
    {
        echo '# Written by tests/bench/hot.sh, read by src/link/build.rs. What the start and first requests run:'
        {
            names "$work/start" "$work/plain" | globs
            echo '# Then what is rarer:'
            names "$work/start" "$work/plain" "$work/one" "$work/all" | globs | loose
        } | awk '!seen[$0]++'
    } >"$work/hot.txt"
    mv "$work/hot.txt" src/link/hot.txt
    wc -l src/link/hot.txt
}

# Runs the proxy under callgrind: every path a few times, and unless only the start is asked for, uploads, the admin port, the time of
# a refresh and a reload.
observe() {
    local name=$1 config=$2 listen admin pid path
    shift 2
    valgrind --tool=callgrind --demangle=no --compress-strings=no --callgrind-out-file="$work/$name" \
        "$program" run --config "$config" >"$work/$name.log" 2>&1 &
    pid=$!
    until grep -q 'admin page at' "$work/$name.log"; do sleep 0.2; done
    listen=$(sed -nE 's/.*listening on http:..([0-9.:]+).*/\1/p' "$work/$name.log")
    admin=$(sed -nE 's/.*admin page at http:..([0-9.:]+).*/\1/p' "$work/$name.log")
    for path in "$@" "$@" "$@"; do
        curl -sS -o "$work/body" "http://$listen$path" -o "$work/body" "http://$listen$path"
    done
    if [[ $name != start && $name != plain ]]; then
        for path in "$@"; do
            curl -sS -o "$work/body" --data-binary "@$program" -H 'Expect:' "http://$listen$path" || true
        done
        for path in /livez /readyz /metrics /; do
            curl -sS -o "$work/body" "http://$admin$path"
        done
        sleep 12
        echo '# changed' >>"$config"
        kill -HUP "$pid"
        sleep 2
    fi
    kill -INT "$pid"
    wait "$pid"
}

# The program's own functions.
names() {
    awk -v program="ob=$program" '/^ob=/ { ours = $0 == program } ours && sub(/^fn=/, "")' "$@" |
        sed -E "s/'[0-9]+\$//" | grep -vE '^(0x|\(below)' | sort -u
}

# Names without what a compiler or dependency version changes in them, which is a crate's hash.
globs() {
    sed -E 's/\.llvm\.[0-9]+$/*/; s/\.[0-9]+$/*/; s/Cs[0-9A-Za-z]{7,12}_/Cs*_/g; s/_ZN(.*)17h[0-9a-f]{16}E/_ZN\1*/; s/aws_lc_[0-9]+_[0-9]+_[0-9]+_/aws_lc_*_/' |
        sort -u
}

# And without what most edits change: references back in a name, which count its length, and the numbers of impl blocks. These fit
# more than was seen to run, so they come last.
loose() {
    sed -E 's/B[0-9A-Za-z]{1,2}_/B*_/g; s/([MX])s[0-9A-Za-z]{0,2}_/\1s*_/g' | sort -u
}

main
