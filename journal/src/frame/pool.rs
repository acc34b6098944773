//! Buffers that are used again: the first touch of fresh memory costs more than everything else done with it.

use std::sync::{Arc, Mutex, PoisonError};

/// A bounded stock of byte buffers of one capacity.
#[derive(Clone, Debug)]
pub struct Pool {
    stock: Arc<Mutex<Vec<Vec<u8>>>>,
    capacity: usize,
    kept_max: usize,
}

/// A buffer that goes back to its pool when dropped.
#[derive(Debug)]
pub struct Pooled {
    bytes: Vec<u8>,
    pool: Pool,
}

impl Pool {
    /// Buffers of `capacity` bytes, at most `kept_max` of them kept while unused.
    pub fn new(capacity: usize, kept_max: usize) -> Self {
        Self { stock: Arc::default(), capacity, kept_max }
    }

    /// A buffer whose length is whatever its last user left, at least `capacity` once used.
    pub fn take(&self) -> Pooled {
        let stocked = self.stock.lock().unwrap_or_else(PoisonError::into_inner).pop();
        Pooled { bytes: stocked.unwrap_or_else(|| vec![0; self.capacity]), pool: self.clone() }
    }
}

impl std::ops::Deref for Pooled {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl std::ops::DerefMut for Pooled {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl AsRef<[u8]> for Pooled {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        let mut stock = self.pool.stock.lock().unwrap_or_else(PoisonError::into_inner);
        if stock.len() < self.pool.kept_max {
            stock.push(std::mem::take(&mut self.bytes));
        }
    }
}
