//! Who gets the processor first: the threads that the protected system's writes wait for, before those that replicate.

#![expect(unsafe_code, reason = "no crate here wraps sched_setattr(2)")]

use std::sync::OnceLock;
use std::time::Duration;

use rustix::process::getpriority_process;

/// A thread with a shorter slice than the running one's gets the processor as soon as it wakes (EEVDF, Linux 6.12 or newer; older kernels
/// ignore it). A request takes a fraction of this.
const SLICE: Duration = Duration::from_micros(100);
/// How much nicer those are that replicate.
const NICER: i32 = 10;
/// The nicest.
const NICEST: i32 = 19;

/// The calling thread, and those that it starts, do what clients wait for. A thread that was started by one that gives way stays as nice as
/// that if this process may not change it.
pub fn first() {
    if set(usual(), SLICE).is_err()
        && let Ok(nice) = getpriority_process(None)
    {
        // Where that is forbidden too, all threads are alike.
        _ = set(nice, SLICE);
    }
}

/// The calling thread, and those that it starts, do what nobody waits for.
pub fn behind() {
    _ = set((usual() + NICER).min(NICEST), Duration::ZERO);
}

/// How nice the first was that asked: the main thread.
fn usual() -> i32 {
    static USUAL: OnceLock<i32> = OnceLock::new();
    *USUAL.get_or_init(|| getpriority_process(None).unwrap_or(0))
}

/// A slice of zero is the usual one.
fn set(sched_nice: i32, slice: Duration) -> std::io::Result<()> {
    let attributes = libc::sched_attr {
        size: u32::try_from(size_of::<libc::sched_attr>()).unwrap_or(0),
        sched_policy: 0, // SCHED_OTHER
        sched_flags: 0,
        sched_nice,
        sched_priority: 0,
        sched_runtime: u64::try_from(slice.as_nanos()).unwrap_or(0),
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: the kernel reads a `sched_attr` of the size that it names, for this thread only, and keeps no pointer to it.
    match unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_gives_way_does_so_once_and_can_be_first_again() {
        let nice = || getpriority_process(None).unwrap();
        first();
        let usual = nice();
        for _ in 0..2 {
            behind();
            assert_eq!(nice(), (usual + NICER).min(NICEST));
        }
        first();
        // Without a privilege it stays where it is.
        assert!([usual, (usual + NICER).min(NICEST)].contains(&nice()));
    }
}
