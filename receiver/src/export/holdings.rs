//! What is served just now: seen in `status`, and to be ended from elsewhere.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use journal::store::PointInfo;
use journal::types::{GroupId, WallTime};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::time::rfc3339;

/// Why all of it ends.
const STOPS: &str = "the receiver stops";

/// Everything that is served, of all groups. A clone is the same.
#[derive(Clone, Debug, Default)]
pub struct Holdings {
    entries: Arc<Mutex<Entries>>,
}

#[derive(Default)]
struct Entries {
    next: u64,
    all: Vec<Entry>,
    /// Nothing may begin any more.
    is_stopping: bool,
}

struct Entry {
    id: u64,
    place: Place,
    views: Arc<dyn Views>,
    /// Why it is to end.
    end: watch::Sender<Option<&'static str>>,
}

/// Whose views are served how and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Of which group.
    pub group: GroupId,
    /// In which way.
    pub kind: Kind,
    /// The address, as it was asked for, or the directory.
    pub location: String,
}

/// A way of serving.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Over NBD.
    Nbd,
    /// As files.
    Mount,
}

/// One view that is held.
#[derive(Clone, Debug)]
pub struct HeldView {
    /// Of which volume.
    pub volume: String,
    /// As of when.
    pub point: PointInfo,
    /// Since when.
    pub since: WallTime,
    /// How many clients, or open files, it has.
    pub clients: usize,
    /// What its scratch holds and may hold, in bytes, if it has one.
    pub scratch: Option<(u64, u64)>,
}

/// Who knows which views are held.
pub trait Views: Send + Sync {
    /// Those that are held now.
    fn held(&self) -> Vec<HeldView>;
}

impl Holdings {
    /// Something is served from now on; until the guard is dropped.
    pub fn add(&self, place: Place, views: Arc<dyn Views>) -> Holding {
        let mut entries = self.locked();
        let (end, ended) = watch::channel(entries.is_stopping.then_some(STOPS));
        entries.next += 1;
        let id = entries.next;
        entries.all.push(Entry { id, place, views, end });
        Holding { id, ended, holdings: self.clone() }
    }

    /// What is served of a group, as documents.
    pub fn documents(&self, group: GroupId, now: WallTime) -> Vec<Value> {
        // Outside of the lock: how many clients there are is somebody else's business.
        let mine = |entry: &&Entry| entry.place.group == group;
        let all: Vec<_> =
            self.locked().all.iter().filter(mine).map(|e| (e.place.clone(), Arc::clone(&e.views))).collect();
        let documents = all.into_iter().flat_map(|(place, views)| {
            let held = views.held();
            if held.is_empty() {
                vec![place.document()]
            } else {
                held.iter().map(|view| view.document(&place, now)).collect()
            }
        });
        documents.collect()
    }

    /// Ends what is served there; returns once it is over. False: there is no such thing.
    pub async fn release(&self, group: GroupId, kind: Kind, location: &str) -> bool {
        let found = {
            let entries = self.locked();
            let found = entries.all.iter().find(|entry| {
                entry.place.group == group && entry.place.kind == kind && entry.place.location == location
            });
            found.map(|entry| entry.end.clone())
        };
        let Some(end) = found else { return false };
        end.send_replace(Some("released"));
        end.closed().await;
        true
    }

    /// Ends all of it; returns once it is over.
    pub async fn stop(&self) {
        let all: Vec<_> = {
            let mut entries = self.locked();
            entries.is_stopping = true;
            entries.all.iter().map(|entry| entry.end.clone()).collect()
        };
        all.iter().for_each(|end| _ = end.send_replace(Some(STOPS)));
        for end in all {
            end.closed().await;
        }
    }

    fn locked(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Entries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.all.iter().map(|entry| &entry.place)).finish()
    }
}

/// Something that is served, as long as this lives.
#[derive(Debug)]
pub struct Holding {
    id: u64,
    ended: watch::Receiver<Option<&'static str>>,
    holdings: Holdings,
}

impl Holding {
    /// Waits until it is to end, and says why.
    pub async fn released(&mut self) -> &'static str {
        match self.ended.wait_for(Option::is_some).await {
            Ok(why) => why.unwrap_or("released"),
            Err(_) => "released",
        }
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        let id = self.id;
        self.holdings.locked().all.retain(|entry| entry.id != id);
    }
}

impl Place {
    /// One that holds no view at the moment.
    fn document(&self) -> Value {
        json!({
            "kind": self.kind.name(), "where": self.location, "volume": null, "point": null, "since": null, "held_seconds": 0.0,
            "clients": 0, "writable": false, "scratch": null,
        })
    }
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Nbd => "nbd",
            Self::Mount => "mount",
        }
    }
}

impl HeldView {
    fn document(&self, place: &Place, now: WallTime) -> Value {
        let scratch = self.scratch.map(|(bytes, limit)| json!({"bytes": bytes, "limit_bytes": limit}));
        json!({
            "kind": place.kind.name(), "where": place.location, "volume": self.volume,
            "point": crate::control::point(&self.point), "since": rfc3339(self.since),
            "held_seconds": now.since(self.since).seconds(), "clients": self.clients, "writable": self.scratch.is_some(),
            "scratch": scratch,
        })
    }
}
