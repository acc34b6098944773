//! What clients can make a server hold. Alone in its process, whose memory it looks at.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;
#[path = "common/raw.rs"]
mod raw;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::Served;
use nbd::limits::{CONNECTIONS_MAX, LARGE_BYTES_MAX, PAYLOAD_BYTES_MAX};
use nbd::{Capabilities, ErrorCode, Export};
use raw::{READ, Raw, WRITE};

/// What a request of the largest size moves.
static PAYLOAD: [u8; PAYLOAD_BYTES_MAX as usize] = [0x5a; PAYLOAD_BYTES_MAX as usize];

/// A volume that keeps nothing, and knows how much memory its requests hold at once.
#[derive(Default)]
struct Measure {
    held: AtomicUsize,
    peak: AtomicUsize,
}

impl Measure {
    fn hold(&self, length: usize) {
        let now = self.held.fetch_add(length, Ordering::SeqCst) + length;
        self.peak.fetch_max(now, Ordering::SeqCst);
        // Others shall come.
        (0..100).for_each(|_| std::thread::yield_now());
        self.held.fetch_sub(length, Ordering::SeqCst);
    }
}

impl Export for Measure {
    fn size_bytes(&self) -> u64 {
        1 << 30
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::ALL
    }

    fn read(&self, _: u64, buffer: &mut [u8]) -> Result<(), ErrorCode> {
        buffer.fill(0x5a);
        self.hold(buffer.len());
        Ok(())
    }

    fn write(&self, _: u64, data: &[u8], _: bool) -> Result<(), ErrorCode> {
        assert!(data == &PAYLOAD[..data.len()]);
        self.hold(data.len());
        Ok(())
    }
}

#[test]
fn the_largest_requests_of_all_clients_complete_in_bounded_memory() {
    let measure = Arc::new(Measure::default());
    // Two servers: the bound is the process's.
    let servers = [0; 2].map(|_| Served::new(vec![("disk", measure.clone())]));
    let before = peak_kib();
    std::thread::scope(|scope| {
        for client in 0..2 * CONNECTIONS_MAX {
            let served = &servers[client % 2];
            scope.spawn(move || {
                let mut raw = Raw::attach(served, false);
                let mut piece = vec![0; 64 << 10];
                for cookie in [1, 3] {
                    raw.request(WRITE, 0, cookie, 0, PAYLOAD_BYTES_MAX);
                    raw.send(&PAYLOAD);
                    assert_eq!(raw.simple(), (0, cookie));
                    raw.request(READ, 0, cookie + 1, 0, PAYLOAD_BYTES_MAX);
                    assert_eq!(raw.simple(), (0, cookie + 1));
                    for _ in 0..PAYLOAD.len() / piece.len() {
                        std::io::Read::read_exact(&mut raw.0, &mut piece).unwrap();
                        assert!(piece == PAYLOAD[..piece.len()]);
                    }
                }
            });
        }
    });
    let (peak, grown_kib) = (measure.peak.load(Ordering::SeqCst), peak_kib() - before);
    assert!((PAYLOAD.len()..=LARGE_BYTES_MAX).contains(&peak), "{peak} bytes at once");
    // Beside it: stacks, pieces, the workers' own buffers. Without a bound these are 2 GiB.
    assert!(grown_kib < (LARGE_BYTES_MAX as u64 >> 10) + (96 << 10), "{grown_kib} KiB more");
}

/// The most memory this process ever had.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().trim().parse().unwrap()
}
