//! Clocks, and numbers that are random to the product, all from the seed.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use agent::capture::Clock;
use journal::disk::sim::Rng;
use journal::types::WallTime;

/// 2026, in microseconds: where wall clocks begin.
const BEGIN: u64 = 1_780_000_000_000_000;

thread_local! {
    /// The receiver's wall clock: it is asked for through a function.
    static RECEIVER: Cell<u64> = const { Cell::new(0) };
    static ENTROPY: Cell<u64> = const { Cell::new(0) };
}

/// The agent's clocks.
#[derive(Debug)]
pub(crate) struct Clocks {
    wall: AtomicU64,
    boottime: AtomicU64,
}

impl Clocks {
    /// As a seed begins.
    pub(crate) fn new(seed: u64) -> Arc<Self> {
        RECEIVER.set(BEGIN);
        ENTROPY.set(seed);
        Arc::new(Self { wall: AtomicU64::new(BEGIN), boottime: AtomicU64::new(1_000_000) })
    }

    pub(crate) fn pass(&self, micros: u64) {
        self.wall.fetch_add(micros, Ordering::Relaxed);
        self.boottime.fetch_add(micros, Ordering::Relaxed);
        RECEIVER.set(RECEIVER.get() + micros);
    }

    /// Somebody sets the agent's clock.
    pub(crate) fn set_agent(&self, ahead: bool, micros: u64) {
        let wall = self.wall.load(Ordering::Relaxed);
        self.wall.store(if ahead { wall + micros } else { wall - micros }, Ordering::Relaxed);
    }

    /// Somebody sets the receiver's clock.
    pub(crate) fn set_receiver(ahead: bool, micros: u64) {
        let wall = RECEIVER.get();
        RECEIVER.set(if ahead { wall + micros } else { wall - micros });
    }

    /// The machine was started again.
    pub(crate) fn boot(&self) {
        self.boottime.store(1_000_000, Ordering::Relaxed);
    }
}

impl Clock for Clocks {
    fn wall(&self) -> WallTime {
        WallTime(self.wall.load(Ordering::Relaxed))
    }

    fn boottime(&self) -> WallTime {
        WallTime(self.boottime.load(Ordering::Relaxed))
    }
}

/// The receiver's wall clock.
pub(crate) fn receiver_now() -> WallTime {
    WallTime(RECEIVER.get())
}

/// What the product takes for random.
pub(crate) fn entropy() -> [u8; 16] {
    let mut rng = Rng::new(ENTROPY.get());
    ENTROPY.set(rng.u64());
    let mut bytes = [0; 16];
    rng.fill(&mut bytes);
    bytes
}
