//! Which worker of a connection reads the next request.
//!
//! One at a time. A worker that has its request gives the reader back, performs the request and comes for the reader again:
//! a client with one request in flight is served by one thread that never hands over. Others are woken, and made, only
//! when it pays: when requests wait, or when performing them takes long.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::limits::WORKERS_MAX;

/// The door that `T`, the reader, stands behind.
#[derive(Debug)]
pub(crate) struct Gate<T> {
    state: Mutex<State<T>>,
    opened: Condvar,
}

#[derive(Debug)]
struct State<T> {
    reader: Option<T>,
    closed: bool,
    parked: usize,
    workers: usize,
}

impl<T> Gate<T> {
    /// For one worker, who exists already.
    pub(crate) fn new(reader: T) -> Self {
        let state = State { reader: Some(reader), closed: false, parked: 0, workers: 1 };
        Self { state: Mutex::new(state), opened: Condvar::new() }
    }

    /// The reader, as soon as nobody else has it; `None` once closed.
    pub(crate) fn take(&self) -> Option<T> {
        let mut state = self.lock();
        loop {
            if state.closed {
                return None;
            }
            if let Some(reader) = state.reader.take() {
                return Some(reader);
            }
            state.parked += 1;
            state = self.opened.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.parked -= 1;
        }
    }

    /// Gives the reader back. With `hand_over`, somebody else shall take it now: true if a worker must be made for that.
    pub(crate) fn give(&self, reader: T, hand_over: bool) -> bool {
        let mut state = self.lock();
        state.reader = Some(reader);
        let make = hand_over && state.parked == 0 && state.workers < WORKERS_MAX;
        state.workers += usize::from(make);
        let wake = hand_over && state.parked > 0;
        drop(state);
        if wake {
            self.opened.notify_one();
        }
        make
    }

    /// The worker that `give` asked for could not be made.
    pub(crate) fn not_made(&self) {
        self.lock().workers -= 1;
    }

    /// Lets nobody through any more.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.opened.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // Nothing that can panic runs under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
