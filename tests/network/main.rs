//! Bad networks, and the other end in another state than expected: a seeded UDP proxy stands between the real processes, stamped
//! writes go through the tap all the time, and the oracle judges from outside. Whatever the network does, every instant offered
//! is a legal crash state, nothing durable is lost, the host does not wait, and when all is quiet the newest point is the source.
//!
//! `BACKSPOOL_NETWORK_ROUNDS` makes it longer by that factor, `BACKSPOOL_NETWORK_SEED` repeats its choices.

#![allow(clippy::unwrap_used, reason = "a test ends where it is surprised")]

#[path = "../common/mod.rs"]
mod common;

mod cuts;
mod honest;
mod limit;
mod mtu;
mod pages;
mod peers;
mod relay;
mod restarts;
mod rpo;
mod spaces;
mod story;
mod versions;
mod weather;

/// By how much everything is to take longer than in everyday runs.
fn rounds() -> u32 {
    number("BACKSPOOL_NETWORK_ROUNDS").map_or(1, |rounds| u32::try_from(rounds).unwrap())
}

/// Other choices each time, unless these are to be repeated.
fn seed() -> u64 {
    number("BACKSPOOL_NETWORK_SEED").unwrap_or_else(|| oracle::Micros::now().0)
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}
