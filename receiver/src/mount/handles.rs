//! What is open in a mount. Bounded: whoever opens more is refused.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use journal::types::WallTime;

use super::history::Listed;
use super::node::Node;
use crate::export::{HeldView, Served};

/// Open files and directories.
const HANDLES_MAX: usize = 16_384;
/// Different views among them: each keeps some decoded data.
const VIEWS_MAX: usize = 256;

/// All that is open. What an open file shows never changes: it is of one view.
#[derive(Debug, Default)]
pub(super) struct Handles {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    files: HashMap<u64, OpenFile>,
    listings: HashMap<u64, Arc<Vec<Listed>>>,
}

#[derive(Clone, Debug)]
struct OpenFile {
    node: Node,
    generation: u64,
    served: Arc<Served>,
    since: WallTime,
}

/// Too much is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooMany;

impl Handles {
    /// The view that is open already of this inode.
    pub(super) fn view(&self, node: Node, generation: u64) -> Option<Arc<Served>> {
        let state = self.locked();
        let same = |file: &&OpenFile| (file.node, file.generation) == (node, generation);
        state.files.values().find(same).map(|file| Arc::clone(&file.served))
    }

    /// A file is open from now on.
    pub(super) fn add(
        &self,
        node: Node,
        generation: u64,
        served: Arc<Served>,
        since: WallTime,
    ) -> Result<u64, TooMany> {
        let mut state = self.locked();
        let is_new = !state.files.values().any(|file| Arc::ptr_eq(&file.served, &served));
        if is_new && state.by_view().len() >= VIEWS_MAX {
            return Err(TooMany);
        }
        let handle = state.handle()?;
        state.files.insert(handle, OpenFile { node, generation, served, since });
        Ok(handle)
    }

    /// A directory is open from now on; what it lists stays as it is.
    pub(super) fn add_listing(&self, listed: Vec<Listed>) -> Result<u64, TooMany> {
        let mut state = self.locked();
        let handle = state.handle()?;
        state.listings.insert(handle, Arc::new(listed));
        Ok(handle)
    }

    /// What is read of an open file.
    pub(super) fn served(&self, handle: u64) -> Option<Arc<Served>> {
        self.locked().files.get(&handle).map(|file| Arc::clone(&file.served))
    }

    /// What an open directory lists.
    pub(super) fn listing(&self, handle: u64) -> Option<Arc<Vec<Listed>>> {
        self.locked().listings.get(&handle).cloned()
    }

    /// It is open no more.
    pub(super) fn close(&self, handle: u64) {
        let mut state = self.locked();
        let closed = state.files.remove(&handle);
        state.listings.remove(&handle);
        drop(state);
        // Files are closed with the view: not under the lock.
        drop(closed);
    }

    /// The views that are held, each with how often it is open.
    pub(super) fn held(&self) -> Vec<HeldView> {
        let mut held: Vec<HeldView> =
            self.locked().by_view().into_iter().map(|(file, clients)| file.held(clients)).collect();
        held.sort_by_key(|view| (view.since, view.point.seq));
        held
    }

    fn locked(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn handle(&mut self) -> Result<u64, TooMany> {
        if self.files.len() + self.listings.len() >= HANDLES_MAX {
            return Err(TooMany);
        }
        self.next += 1;
        Ok(self.next)
    }

    /// Each view once: the file that has been open for longest, and how many there are.
    fn by_view(&self) -> Vec<(&OpenFile, usize)> {
        let mut views: HashMap<*const Served, (&OpenFile, usize)> = HashMap::new();
        for file in self.files.values() {
            let (oldest, count) = views.entry(Arc::as_ptr(&file.served)).or_insert((file, 0));
            *count += 1;
            if file.since < oldest.since {
                *oldest = file;
            }
        }
        views.into_values().collect()
    }
}

impl OpenFile {
    fn held(&self, clients: usize) -> HeldView {
        HeldView {
            volume: self.served.volume().name.clone(),
            point: self.served.point().clone(),
            since: self.since,
            clients,
            scratch: self.served.scratch_bytes(),
        }
    }
}
