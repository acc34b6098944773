//! The export that clients see. What is behind it can be replaced while they are connected.

use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};

use nbd::{Capabilities, ErrorCode, Export, Extent, Transfer};

use crate::tap::Tap;

/// A tap that can be replaced between two requests.
///
/// **Invariant:** no request is in progress while it is replaced, so that a change is captured by the one or by the other.
#[derive(Debug)]
pub(super) struct Switch(RwLock<Tap>);

impl Switch {
    pub(super) fn new(tap: Tap) -> Self {
        Self(RwLock::new(tap))
    }

    /// Waits for the requests in progress, and lets no other in until the guard is gone.
    pub(super) fn pause(&self) -> RwLockWriteGuard<'_, Tap> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, serve: impl FnOnce(&Tap) -> T) -> T {
        serve(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Export for Switch {
    fn size_bytes(&self) -> u64 {
        self.with(Export::size_bytes)
    }

    fn capabilities(&self) -> Capabilities {
        self.with(Export::capabilities)
    }

    fn min_block_bytes(&self) -> u32 {
        self.with(Export::min_block_bytes)
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), ErrorCode> {
        self.with(|tap| tap.read(offset, buffer))
    }

    fn write(&self, offset: u64, data: &[u8], fua: bool) -> Result<(), ErrorCode> {
        self.with(|tap| tap.write(offset, data, fua))
    }

    fn transfer(&self, batch: &mut [Transfer<'_>]) -> Vec<Result<(), ErrorCode>> {
        self.with(|tap| tap.transfer(batch))
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
