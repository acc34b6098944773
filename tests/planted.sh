#!/usr/bin/env bash
# Puts known mistakes into a copy of the tree, one at a time, and demands that the tests find each of them.
#
#   tests/planted.sh [NAME...]       all of tests/planted/*.patch, or these
#   tests/planted.sh --slice         a third of them, another one for another tree, and all that the last changes touch
#
# A patch says in its first lines what the mistake is, and which tests are run ("test: ARGUMENTS OF CARGO TEST").
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD work=$PWD/target/planted tree=$PWD/target/planted/tree built=${CARGO_TARGET_DIR:-$PWD/target}
export CARGO_TARGET_DIR=$work/build CARGO_TERM_COLOR=never RUST_BACKTRACE=0
# What takes the time is building a crate once per mistake: ours are built to compile fast. What they depend on is as it always is, and
# taken from an earlier build.
ours=(backspool journal local nbd link agent receiver benches oracle)
fast=()
for crate in "${ours[@]}"; do
    fast+=(--config "profile.release.package.$crate.opt-level=1" --config "profile.release.package.$crate.debug=false")
done
# The mistakes are coarse: fewer states find them too.
export BACKSPOOL_CRASH_STATES=${BACKSPOOL_CRASH_STATES:-20000} BACKSPOOL_POWER_CUTS=${BACKSPOOL_POWER_CUTS:-0}
export BACKSPOOL_SIM_SEEDS=${BACKSPOOL_SIM_SEEDS:-300}
mkdir -p "$tree"

# Other crates that an ordinary build has made already, which cargo takes if they are the same.
if [ ! -e "$CARGO_TARGET_DIR/release" ] && [ -e "$built/release/.fingerprint" ]; then
    mkdir -p "$CARGO_TARGET_DIR/release"
    cp -al "$built/release/"{deps,build,.fingerprint} "$CARGO_TARGET_DIR/release/" 2>/dev/null || rm -rf "$CARGO_TARGET_DIR/release"
fi

# The copy is the tree as it is now, changes that nobody committed included. What is the same keeps its time: it is not built again.
refresh() {
    # Without git it is all there is.
    git ls-files -z --cached --others --exclude-standard >"$work/files" 2>/dev/null \
        || find . -path ./target -prune -o -type f -printf '%P\0' >"$work/files"
    : >"$work/present"
    while IFS= read -r -d '' file; do
        [ -f "$file" ] || { rm -f "$tree/$file"; continue; }
        printf '%s\0' "$file" >>"$work/present"
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

# A third of all names, and those whose patch, or a file that it changes, is among what changed in the last commits or since.
slice_of() {
    local all=("$@") state third changed name patch touched
    # Of what is here, whatever is known of its history.
    state=$(xargs -0 cat -- <"$work/present" | cksum)
    third=$((${state%% *} % 3))
    changed=$(git diff --name-only HEAD 2>/dev/null || true)
    for back in 2 1; do
        git rev-parse -q --verify "HEAD~$back^{commit}" >/dev/null 2>&1 || continue
        changed+=$'\n'$(git diff --name-only "HEAD~$back" 2>/dev/null || true)
        break
    done
    for at in "${!all[@]}"; do
        name=${all[$at]} patch=tests/planted/${all[$at]}.patch
        touched=$(echo "$patch" && sed -n 's,^+++ b/,,p' "$patch")
        if [ $((at % 3)) -eq "$third" ] || grep -qxFf <(grep . <<<"$changed") <<<"$touched"; then
            names+=("$name")
        fi
    done
    echo "slice $third of 3, and what the last changes touch: ${#names[@]} of ${#all[@]} planted mistakes: ${names[*]}"
}

# By test: what is of one crate comes together, so that each crate is built once.
all_names() {
    grep -H '^test: ' tests/planted/*.patch | sort -s -t: -k2 | while IFS=: read -r patch _; do basename "$patch" .patch; done
}

cd "$root"
refresh
names=()
case ${1:-} in
'') mapfile -t names < <(all_names) ;;
--slice)
    mapfile -t every < <(all_names)
    slice_of "${every[@]}"
    ;;
*) names=("$@") ;;
esac

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
