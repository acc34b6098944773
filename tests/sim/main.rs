//! Agent and receiver in one thread, with simulated disks, link, clocks and clients, from one seed.
//!
//! ```text
//!   clients ──▶ tap ──▶ source          one seed decides what happens next: a write, a message, a sync, a power cut …
//!                │
//!             capture ─▶ spool ─▶ sender ═══ link ═══▶ session ─▶ writer ─▶ store ─▶ points ─▶ judge
//! ```
//!
//! What decides is the product's; what would wait, sleep, or talk to the kernel is simulated. Each seed runs twice, and both runs have to be
//! the same, step by step. `BACKSPOOL_SIM_SEEDS` says how many seeds, `BACKSPOOL_SIM_SEED` runs one alone and prints what happens.

#![expect(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test, whose numbers are far below any limit"
)]

mod agent;
mod base;
mod client;
mod disk;
mod events;
mod hot;
mod judge;
mod layout;
mod link;
mod quiet;
mod receiver;
mod source;
mod time;
mod trace;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use trace::{Counts, Outcome};

/// Seeds of an ordinary run.
const SEEDS: u64 = 2000;
/// Seeds that fail before it is enough.
const FAILURES: usize = 5;

#[test]
fn whatever_happens_points_are_true_and_what_was_promised_is_there() {
    if let Some(seed) = from_env("BACKSPOOL_SIM_SEED") {
        let outcome = world::run(seed, true);
        println!("{:?}", outcome.counts);
        return;
    }
    let seeds = from_env("BACKSPOOL_SIM_SEEDS").unwrap_or(SEEDS);
    let (next, failed, total) = (AtomicU64::new(1), Mutex::new(Vec::new()), Mutex::new(Counts::default()));
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, Into::into) {
            scope.spawn(|| {
                while failed.lock().unwrap().len() < FAILURES {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed > seeds {
                        return;
                    }
                    let counts = catch_unwind(AssertUnwindSafe(|| twice(seed)));
                    match counts {
                        Ok(counts) => total.lock().unwrap().add(&counts),
                        Err(_) => failed.lock().unwrap().push(seed),
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    let alone = |seed| format!("BACKSPOOL_SIM_SEED={seed} cargo test --release --test sim -- --nocapture");
    let commands: Vec<String> = failed.iter().map(alone).collect();
    assert!(failed.is_empty(), "seeds that fail; each alone, and told step by step:\n{}", commands.join("\n"));
    let total = total.into_inner().unwrap();
    println!("{seeds} seeds, each twice: {total:?}");
    total.check(seeds);
}

/// Two runs of one seed, which have to be the same.
fn twice(seed: u64) -> Counts {
    let [one, other]: [Outcome; 2] = [world::run(seed, false), world::run(seed, false)];
    assert_eq!(one.trace, other.trace, "seed {seed} went two ways: something in it does not depend on the seed alone");
    one.counts
}

fn from_env(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}
