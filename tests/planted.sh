#!/usr/bin/env bash
# Puts known mistakes into a copy of the tree, one at a time, and demands that the tests find each of them.
#
#   tests/planted.sh [NAME...]       all of tests/planted/*.patch, or these
#
# A patch says in its first lines what the mistake is, and which tests are run ("test: ARGUMENTS OF CARGO TEST").
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD work=$PWD/target/planted tree=$PWD/target/planted/tree
export CARGO_TARGET_DIR=$work/build CARGO_TERM_COLOR=never RUST_BACKTRACE=0
# What takes the time is building a crate once per mistake: ours are built to compile fast, what they depend on to run fast.
export CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_DEBUG=false CARGO_PROFILE_RELEASE_LTO=off
fast=(--config 'profile.release.package."*".opt-level=3')
# The mistakes are coarse: fewer states find them too.
export BACKSPOOL_CRASH_STATES=${BACKSPOOL_CRASH_STATES:-20000} BACKSPOOL_POWER_CUTS=${BACKSPOOL_POWER_CUTS:-0}
export BACKSPOOL_SIM_SEEDS=${BACKSPOOL_SIM_SEEDS:-300}
mkdir -p "$tree"

# The copy is the tree as it is now, changes that nobody committed included. What is the same keeps its time: it is not built again.
refresh() {
    git ls-files -z --cached --others --exclude-standard >"$work/files"
    while IFS= read -r -d '' file; do
        [ -f "$file" ] || { rm -f "$tree/$file"; continue; }
        cmp -s "$file" "$tree/$file" && continue
        mkdir -p "$(dirname "$tree/$file")"
        cp "$file" "$tree/$file"
    done <"$work/files"
    (cd "$tree" && find . -type f -print0 | while IFS= read -r -d '' file; do
        [ -f "$root/$file" ] || rm -f "$file"
    done)
}

# Runs tests in the copy; the log is in $work/log. Fails if a test fails, and with 2 if it does not build.
tests() {
    # What an interrupted build left has been seen to fail at the linker: then from the start.
    build "$1" || { rm -rf "$CARGO_TARGET_DIR/release/incremental" && build "$1"; } || return 2
    # shellcheck disable=SC2086
    (cd "$tree" && timeout 300 cargo test "${fast[@]}" --release --locked $1) >"$work/log" 2>&1 || return 1
}

build() {
    # shellcheck disable=SC2086
    (cd "$tree" && cargo test "${fast[@]}" --release --locked --no-run ${1%% -- *}) >"$work/log" 2>&1
}

arguments_of() { sed -n 's/^test: //p' "$1" | head -1; }

cd "$root"
refresh
names=("$@")
if [ "${#names[@]}" -eq 0 ]; then
    # By test: what is of one crate comes together, so that each crate is built once.
    while IFS=: read -r patch _; do names+=("$(basename "$patch" .patch)"); done \
        < <(grep -H '^test: ' tests/planted/*.patch | sort -s -t: -k2)
fi

# Without a mistake the same tests pass, and there are some; else "caught" would mean nothing.
declare -A seen=()
for name in "${names[@]}"; do
    arguments=$(arguments_of "tests/planted/$name.patch")
    [ -n "$arguments" ] || { echo "planted $name: says no test"; exit 1; }
    [ -z "${seen[$arguments]:-}" ] || continue
    seen[$arguments]=1
    tests "$arguments" || { cat "$work/log"; echo "planted nothing: $arguments fails"; exit 1; }
    grep -q '^test .* ok$' "$work/log" || { echo "planted $name: $arguments runs no test"; exit 1; }
done

# Plants one, and says what came of it. Fails unless a test found it.
plant() {
    local name=$1 patch=$root/tests/planted/$1.patch code caught
    if ! patch -s -d "$tree" -p1 --no-backup-if-mismatch <"$patch" >"$work/log"; then
        cat "$work/log"
        echo "planted $name: the patch does not apply any more"
        return 1
    fi
    # Some mistakes show in a race only: three looks.
    for _ in 1 2 3; do
        code=0
        tests "$(arguments_of "$patch")" || code=$?
        [ "$code" -eq 0 ] || break
    done
    case $code in
    0) echo "planted $name: SURVIVED" && return 1 ;;
    2) cat "$work/log" && echo "planted $name: does not build" && return 1 ;;
    esac
    caught=$(sed -n 's/^test \(.*\) \.\.\. FAILED$/\1/p' "$work/log" | sort -u | paste -sd, | sed 's/,/, /g')
    echo "planted $name: caught by ${caught:-a test that did not end} ($((SECONDS / 60)) min $((SECONDS % 60)) s)"
}

missed=0
for name in "${names[@]}"; do
    plant "$name" || missed=$((missed + 1))
    refresh
done
echo "${#names[@]} planted mistakes, $missed not caught, $((SECONDS / 60)) min $((SECONDS % 60)) s"
[ "$missed" -eq 0 ]
