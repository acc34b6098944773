//! A volume in memory and a server of it, for all tests.
#![allow(dead_code, reason = "each test uses a part")]
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use nbd::{Address, Capabilities, ErrorCode, Export, Extent, RemoteClients, Running, Server};

/// A volume in memory; a page of zeroes counts as a hole.
pub(crate) struct Memory {
    bytes: Mutex<Vec<u8>>,
    pub(crate) capabilities: Capabilities,
    pub(crate) flushes: AtomicUsize,
}

impl Memory {
    pub(crate) fn new(size: usize) -> Self {
        Self { bytes: Mutex::new(vec![0; size]), capabilities: Capabilities::ALL, flushes: AtomicUsize::new(0) }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.bytes.lock().unwrap().clone()
    }

    pub(crate) fn fill(&self, bytes: &[u8]) {
        self.bytes.lock().unwrap().copy_from_slice(bytes);
    }

    fn with<T>(&self, offset: u64, length: usize, act: impl FnOnce(&mut [u8]) -> T) -> T {
        let offset = usize::try_from(offset).unwrap();
        let mut bytes = self.bytes.lock().unwrap();
        assert!(length > 0 && offset.is_multiple_of(512) && length.is_multiple_of(512), "not checked");
        act(&mut bytes[offset..offset + length])
    }
}

impl Export for Memory {
    fn size_bytes(&self) -> u64 {
        self.bytes.lock().unwrap().len() as u64
    }

    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), ErrorCode> {
        assert!(buffer.as_ptr().addr().is_multiple_of(4096), "O_DIRECT would fail");
        self.with(offset, buffer.len(), |bytes| buffer.copy_from_slice(bytes));
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8], _fua: bool) -> Result<(), ErrorCode> {
        assert!(data.as_ptr().addr().is_multiple_of(4096), "O_DIRECT would fail");
        self.with(offset, data.len(), |bytes| bytes.copy_from_slice(data));
        Ok(())
    }

    fn flush(&self) -> Result<(), ErrorCode> {
        self.flushes.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn trim(&self, offset: u64, length: u64, _fua: bool) -> Result<(), ErrorCode> {
        self.with(offset, usize::try_from(length).unwrap(), |bytes| bytes.fill(0));
        Ok(())
    }

    fn write_zeroes(&self, offset: u64, length: u64, _no_hole: bool, _fua: bool) -> Result<(), ErrorCode> {
        self.with(offset, usize::try_from(length).unwrap(), |bytes| bytes.fill(0));
        Ok(())
    }

    fn allocation(&self, offset: u64, length: u64) -> Result<Vec<Extent>, ErrorCode> {
        let extents = |bytes: &mut [u8]| {
            let extent = |page: &[u8]| {
                let zero = page.iter().all(|byte| *byte == 0);
                Extent { length_bytes: page.len() as u64, hole: zero, zero }
            };
            bytes.chunks(4096).map(extent).collect()
        };
        Ok(self.with(offset, usize::try_from(length).unwrap(), extents))
    }
}

/// A server on a Unix socket in a directory of its own.
pub(crate) struct Served {
    pub(crate) running: Running,
    pub(crate) directory: tempfile::TempDir,
}

impl Served {
    pub(crate) fn new(exports: Vec<(&str, Arc<dyn Export>)>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let address = Address::Unix(directory.path().join("nbd.sock"));
        let exports = exports.into_iter().map(|(name, export)| (name.to_owned(), export)).collect();
        let running = Server::bind(&address, exports, RemoteClients::Refused).unwrap().start().unwrap();
        Self { running, directory }
    }

    pub(crate) fn socket(&self) -> std::path::PathBuf {
        self.directory.path().join("nbd.sock")
    }

    pub(crate) fn uri(&self, name: &str) -> String {
        format!("nbd+unix:///{name}?socket={}", self.socket().display())
    }
}

/// Bytes that do not repeat, the same for one seed.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).unwrap()
    }

    pub(crate) fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length.div_ceil(8)).flat_map(|_| self.next().to_le_bytes()).take(length).collect()
    }
}
