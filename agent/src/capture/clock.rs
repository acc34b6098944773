//! The clocks, passed in so that tests can script them.

use std::fmt::Debug;

use journal::types::{BootId, WallTime};
use rustix::time::{ClockId, clock_gettime};

use crate::{Error, Result};

/// What time it is.
pub trait Clock: Send + Sync + Debug {
    /// By the wall clock, which may be set, also back.
    fn wall(&self) -> WallTime;

    /// Since boot, also while suspended; never goes back.
    fn boottime(&self) -> WallTime;
}

/// The kernel's clocks.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn wall(&self) -> WallTime {
        read(ClockId::Realtime)
    }

    fn boottime(&self) -> WallTime {
        read(ClockId::Boottime)
    }
}

/// Which boot of this machine it is.
pub fn boot_id() -> Result<BootId> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let digits: String = text.trim().chars().filter(|digit| *digit != '-').collect();
    BootId::parse(&digits).ok_or_else(|| Error::unsupported("the kernel's boot id is none"))
}

fn read(clock: ClockId) -> WallTime {
    let time = clock_gettime(clock);
    // Before 1970 it is 1970.
    let (seconds, nanos) = (u64::try_from(time.tv_sec).unwrap_or(0), u64::try_from(time.tv_nsec).unwrap_or(0));
    WallTime(seconds * 1_000_000 + nanos / 1000)
}
