//! The export that clients see. What is behind it can be replaced while they are connected, and they can be put out.
//!
//! ```text
//!   clients ──▶ door, shut while the source is taken back ──▶ switch ──▶ tap
//!                                     what is to be there ──────▲
//! ```

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockWriteGuard};

use nbd::{Capabilities, ErrorCode, Export, Extent, Transfer};

use crate::tap::Tap;

/// What clients that ask while it is shut are told.
const SHUT: &str = "this volume is being taken back to an earlier point: connect again when that is over";

/// A tap that can be replaced between two requests.
///
/// **Invariant:** no request is in progress while it is replaced, so that a change is captured by the one or by the other.
/// **Invariant:** whoever was attached when the door was shut is never served again: what it has cached is not what is there.
#[derive(Debug)]
pub(super) struct Switch {
    tap: RwLock<Tap>,
    /// How often the door was shut. Read under the tap's lock.
    shut: AtomicU64,
    door: Mutex<Door>,
}

#[derive(Debug, Default)]
struct Door {
    is_shut: bool,
    /// Clients that came since it was shut last.
    inside: u32,
}

/// A client, as long as it is attached.
struct Guest<'a> {
    switch: &'a Switch,
    /// As of when it came.
    shut: u64,
}

impl Switch {
    pub(super) fn new(tap: Tap) -> Self {
        Self { tap: RwLock::new(tap), shut: AtomicU64::new(0), door: Mutex::default() }
    }

    /// Waits for the requests in progress, and lets no other in until the guard is gone.
    pub(super) fn pause(&self) -> RwLockWriteGuard<'_, Tap> {
        self.tap.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets nobody in and serves nobody any more: how many were put out. On return no request is in progress.
    ///
    /// # Errors
    /// So many clients are attached, and they are to stay: nothing changed.
    pub(super) fn shut(&self, even_if_attached: bool) -> Result<u32, u32> {
        let mut door = self.door();
        if door.inside > 0 && !even_if_attached {
            return Err(door.inside);
        }
        door.is_shut = true;
        let inside = std::mem::take(&mut door.inside);
        self.shut.fetch_add(1, Ordering::Relaxed);
        drop(door);
        // Whoever gets the tap after this sees that it was shut.
        drop(self.pause());
        Ok(inside)
    }

    /// Lets clients in again.
    pub(super) fn open(&self) {
        self.door().is_shut = false;
    }

    /// Clients that are attached, and served.
    pub(super) fn clients(&self) -> u32 {
        self.door().inside
    }

    /// Past the door: for whoever shut it.
    pub(super) fn with<T>(&self, serve: impl FnOnce(&Tap) -> T) -> T {
        serve(&self.tap.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn door(&self) -> MutexGuard<'_, Door> {
        self.door.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a client is told before it is let in. Nothing is read or written this way.
impl Export for Switch {
    fn closed(&self) -> Option<String> {
        self.door().is_shut.then(|| SHUT.to_owned())
    }

    fn attach(&self) -> Result<Option<Box<dyn Export + '_>>, ErrorCode> {
        let mut door = self.door();
        if door.is_shut {
            return Err(ErrorCode::Shutdown);
        }
        door.inside += 1;
        Ok(Some(Box::new(Guest { switch: self, shut: self.shut.load(Ordering::Relaxed) })))
    }

    fn size_bytes(&self) -> u64 {
        self.with(Export::size_bytes)
    }

    fn capabilities(&self) -> Capabilities {
        self.with(Export::capabilities)
    }

    fn min_block_bytes(&self) -> u32 {
        self.with(Export::min_block_bytes)
    }

    fn read(&self, _offset: u64, _buffer: &mut [u8]) -> Result<(), ErrorCode> {
        Err(ErrorCode::Shutdown)
    }
}

impl Guest<'_> {
    fn with<T>(&self, serve: impl FnOnce(&Tap) -> Result<T, ErrorCode>) -> Result<T, ErrorCode> {
        self.switch.with(|tap| match self.switch.shut.load(Ordering::Relaxed) == self.shut {
            true => serve(tap),
            false => Err(ErrorCode::Shutdown),
        })
    }
}

impl Drop for Guest<'_> {
    fn drop(&mut self) {
        let mut door = self.switch.door();
        if self.switch.shut.load(Ordering::Relaxed) == self.shut {
            door.inside -= 1;
        }
    }
}

impl Export for Guest<'_> {
    fn size_bytes(&self) -> u64 {
        self.switch.size_bytes()
    }

    fn capabilities(&self) -> Capabilities {
        self.switch.capabilities()
    }

    fn min_block_bytes(&self) -> u32 {
        self.switch.min_block_bytes()
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), ErrorCode> {
        self.with(|tap| tap.read(offset, buffer))
    }

    fn write(&self, offset: u64, data: &[u8], fua: bool) -> Result<(), ErrorCode> {
        self.with(|tap| tap.write(offset, data, fua))
    }

    fn transfer(&self, batch: &mut [Transfer<'_>]) -> Vec<Result<(), ErrorCode>> {
        let outcomes = self.with(|tap| Ok(tap.transfer(batch)));
        outcomes.unwrap_or_else(|error| batch.iter().map(|_| Err(error)).collect())
    }

    fn flush(&self) -> Result<(), ErrorCode> {
        self.with(Export::flush)
    }

    fn trim(&self, offset: u64, length: u64, fua: bool) -> Result<(), ErrorCode> {
        self.with(|tap| tap.trim(offset, length, fua))
    }

    fn write_zeroes(&self, offset: u64, length: u64, no_hole: bool, fua: bool) -> Result<(), ErrorCode> {
        self.with(|tap| tap.write_zeroes(offset, length, no_hole, fua))
    }

    fn allocation(&self, offset: u64, length: u64) -> Result<Vec<Extent>, ErrorCode> {
        self.with(|tap| tap.allocation(offset, length))
    }
}

/// What NBD serves.
pub(super) fn export(switch: &Arc<Switch>) -> Arc<dyn Export> {
    Arc::clone(switch) as Arc<dyn Export>
}

#[cfg(test)]
mod tests {
    use journal::types::WallTime;

    use super::*;
    use crate::capture::{Capture, Start, SystemClock, Terms};
    use crate::testing::{FaultySource, VOLUME};

    fn switch() -> (Switch, Arc<Capture>) {
        let start = Start { last: None, time: WallTime(0) };
        let capture = Arc::new(Capture::new(start, Arc::new(SystemClock), Terms::default()));
        (Switch::new(Tap::new(VOLUME, Arc::new(FaultySource::new(64)), Arc::clone(&capture))), capture)
    }

    #[test]
    fn who_was_inside_when_it_was_shut_is_never_served_again() {
        let (switch, capture) = switch();
        let early = switch.attach().unwrap().unwrap();
        early.write(0, &[1; 512], false).unwrap();
        assert_eq!((switch.clients(), switch.shut(false)), (1, Err(1)), "it stays");
        early.write(512, &[1; 512], false).unwrap();
        let last = capture.last_seq();

        assert_eq!(switch.shut(true), Ok(1));
        let refused = |guest: &dyn Export| {
            assert_eq!(guest.write(0, &[2; 512], false), Err(ErrorCode::Shutdown));
            assert_eq!(guest.read(0, &mut [0; 512]), Err(ErrorCode::Shutdown), "half of what is to be there");
            assert_eq!(guest.flush(), Err(ErrorCode::Shutdown));
            assert_eq!(guest.trim(0, 512, false), Err(ErrorCode::Shutdown));
            assert_eq!(guest.write_zeroes(0, 512, false, false), Err(ErrorCode::Shutdown));
            let mut batch = [Transfer::Write { offset: 0, data: &[2; 512] }];
            assert_eq!(guest.transfer(&mut batch), [Err(ErrorCode::Shutdown)]);
        };
        refused(&*early);
        assert!(switch.closed().is_some() && switch.attach().is_err(), "nor is anybody let in");
        assert_eq!((switch.clients(), capture.last_seq()), (0, last));
        switch.with(|tap| tap.write(0, &[3; 512], false)).unwrap();

        switch.open();
        refused(&*early);
        let late = switch.attach().unwrap().unwrap();
        let mut found = [0; 512];
        late.read(0, &mut found).unwrap();
        assert_eq!((found, switch.clients()), ([3; 512], 1));
        drop(early);
        assert_eq!(switch.clients(), 1, "that one was not counted any more");
        drop(late);
        assert_eq!(switch.clients(), 0);
    }
}
