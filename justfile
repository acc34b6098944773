# Everyday commands. `just check` is what CI runs, on a machine that has the packages already.

check:
    bash .ci/run

# The tests, as the README has them.
test:
    cargo test --release --workspace

# Formatting and lints.
lint:
    cargo fmt --all
    cargo clippy --release --workspace --all-targets -- -D warnings

# The main job.
demo:
    cargo run --release -- demo

# Every planted mistake; `just check` takes those of tests/planted/in-ci.
planted:
    tests/planted.sh

# Ten million crash states instead of a hundred thousand.
crash-sweep states="10000000":
    BACKSPOOL_CRASH_STATES={{states}} cargo test --release -p journal --lib power_cuts -- --nocapture

bench:
    cargo bench --workspace
