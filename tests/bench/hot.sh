#!/usr/bin/env bash
# Writes src/link/hot.txt and src/link/tables.txt anew: the functions that a sidecar runs and the constants that it reads, as valgrind
# sees them. Needs valgrind, curl, openssl and python3. It is the second step after larger changes, the first is profile.sh:
#
#     bash tests/bench/profile.sh
#     cargo build --release && bash tests/bench/hot.sh target/release/cupbearer
#
# The linker's map, from which the names of constants come, lies with the build script's output.
#
# First comes what a plain OAuth 2.0 provider and one HTTP/1.1 upstream need from the start to the first responses, by names that are as
# good as exact; then what a vendor's own dialect, uploads, scrapes, refreshes, a reload and HTTP/2 add, and all with more left open,
# for after the next edit: an idle sidecar has touched little but the first part.
set -euo pipefail

program=$(realpath "$1")
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
source tests/bench/observe.sh

main() {
    vendors "$program"
    cp "$work/one.toml" "$work/start.toml"
    watch start start /orders/42
    watch plain start /orders/42 /medium /large /slow
    watch bare start / /medium /large /slow
    watch one all /orders/42
    watch all all /cncn/orders/42 '/besender/contacts?page=1' /ctcfile/files/7 /identityserver/users/me /passport/profile
    {
        echo '# Written by tests/bench/hot.sh, read by src/link/build.rs. What the start and first requests run:'
        {
            # Before what one of the two does, what both do.
            comm -12 <(names "$work/plain") <(names "$work/bare") | globs
            names "$work/plain" "$work/bare" | globs
            rare "$work/plain" "$work/bare" | globs
            echo '# Then what is rarer:'
            names "$work/start" | globs
            rare "$work/start" "$work/one" "$work/all" | globs
            names "$work/start" "$work/plain" "$work/bare" "$work/one" "$work/all" | globs | loose
        } | awk '!seen[$0]++'
    } >"$work/hot.txt"
    mv "$work/hot.txt" src/link/hot.txt
    {
        echo '# Written by tests/bench/hot.sh, read by src/link/build.rs. What the start and first requests read:'
        constants "$work/plain.toml" "$work/bare.toml" "$work/one.toml"
        grep -v Lanon "$work/read.names" | globs
        grep Lanon "$work/read.names"
        echo '# Of these crates hardly anything:'
        cat "$work/unread.names"
    } >"$work/tables.txt"
    mv "$work/tables.txt" src/link/tables.txt
    wc -l src/link/*.txt
}

# Runs the program under callgrind.
watch() {
    observe "$@" -- valgrind --tool=callgrind --demangle=no --dump-instr=yes --compress-strings=no --compress-pos=no \
        --callgrind-out-file="$work/$1" "$program"
}

# Finds the sections of constants that are read with these configurations, and the crates of whose nameless constants hardly any are.
constants() {
    local config listen admin pid map reader
    map=$(ls -t "$(dirname "$program")"/build/cupbearer-*/out/cupbearer.map | head -n 1)
    for config in "$@"; do
        mkfifo "$work/fifo"
        awk '/^ [LM] / && !seen[$2]++ { print $2 }' "$work/fifo" >>"$work/read" &
        reader=$!
        valgrind --tool=lackey --trace-mem=yes --log-file="$work/fifo" \
            "$program" run --config "$config" >"$work/reads.log" 2>&1 &
        pid=$!
        started reads
        curl -sS -o "$work/body" "http://$listen/orders/42" -o "$work/body" "http://$listen/orders/42"
        # With many fields, where there is such.
        curl -sS -o "$work/body" "${told[@]}" "http://$listen/slow"
        # Where valgrind puts the program, the same each time.
        awk -v program="$program" '$6 == program { print $1; exit }' "/proc/$pid/maps" >"$work/base"
        kill -INT "$pid"
        wait "$pid" "$reader"
        # Of the log, too: `started` must not find the addresses of the run before.
        rm "$work/fifo" "$work/reads.log"
    done
    python3 - "$map" "$work" <<'PY'
import bisect, collections, re, sys

map_file, work = sys.argv[1:]
base = int(open(f"{work}/base").read().split("-")[0], 16)
section = re.compile(r"^\s*([0-9a-f]+)\s+[0-9a-f]+\s+([0-9a-f]+)\s+\d+\s+(?!<internal>).*:\(\.(rodata\..+)\)$")
sections = [(int(m[1], 16), int(m[2], 16), m[3]) for m in map(section.match, open(map_file)) if m]
starts = [start for start, _, _ in sections]
crate = re.compile(r"(rodata\.\.Lanon\.[0-9a-f]{32})\.")
all_of, read_of, read = collections.Counter(), collections.Counter(), set()
for line in open(f"{work}/read"):
    address = int(line.split(",")[0], 16) - base
    at = bisect.bisect_right(starts, address) - 1
    if at >= 0 and address < sections[at][0] + sections[at][1]:
        read.add(sections[at])
for found in sections:
    if m := crate.match(found[2]):
        all_of[m[1]] += found[1]
        read_of[m[1]] += found[1] if found in read else 0
print(*(name for _, _, name in sorted(read)), sep="\n", file=open(f"{work}/read.names", "w"))
unread = (f"{name}.*" for name in sorted(all_of) if read_of[name] * 10 < all_of[name])
print(*unread, sep="\n", file=open(f"{work}/unread.names", "w"))
PY
}

# The program's own functions.
names() {
    awk -v program="ob=$program" '/^ob=/ { ours = $0 == program } ours && sub(/^fn=/, "")' "$@" |
        sed -E "s/'[0-9]+\$//" | grep -vE '^(0x|\(below)' | sort -u
}

# Of functions that the compiler split by the profile, those whose rare part has run nevertheless, as NAME.cold. valgrind knows the
# whole function only.
rare() {
    python3 - "$program" "$@" <<'PY'
import bisect, re, subprocess, sys

program, *runs = sys.argv[1:]
symbols = subprocess.run(["nm", "--print-size", program], capture_output=True, text=True, check=True).stdout
symbol = re.compile(r"^([0-9a-f]+) ([0-9a-f]+) [tT] (.+)$", re.MULTILINE)
parts = sorted((int(m[1], 16), int(m[2], 16), m[3]) for m in symbol.finditer(symbols) if m[3].endswith(".cold"))
starts = [start for start, _, _ in parts]
found = set()
for run in runs:
    ours = False
    for line in open(run):
        if line.startswith("ob="):
            ours = line[3:].strip() == program
        elif ours and line.startswith("0x"):
            address = int(line.split(" ", 1)[0], 16)
            at = bisect.bisect_right(starts, address) - 1
            if at >= 0 and address < parts[at][0] + parts[at][1]:
                found.add(parts[at])
# The smallest first, so that most of them lie together.
print(*(name for start, size, name in sorted(found, key=lambda part: (part[1], part[2]))), sep="\n")
PY
}

# Names without what a compiler or dependency version changes in them, which is a crate's hash.
globs() {
    sed -E 's/(Lswitch\.table\..*)\.[0-9]+(\.rel)?$/\1*/; s/\.llvm\.[0-9]+(\.cold)?$/*\1/; s/\.[0-9]+(\.cold)?$/*\1/; s/Cs[0-9A-Za-z]{7,12}_/Cs*_/g; s/_ZN(.*)17h[0-9a-f]{16}E/_ZN\1*/; s/aws_lc_[0-9]+_[0-9]+_[0-9]+_/aws_lc_*_/'
}

# And without what most edits change: references back in a name, which count its length, and the numbers of impl blocks. These fit
# more than was seen to run, so they come last.
loose() {
    sed -E 's/B[0-9A-Za-z]{1,2}_/B*_/g; s/([MX])s[0-9A-Za-z]{0,2}_/\1s*_/g' | sort -u
}

main
