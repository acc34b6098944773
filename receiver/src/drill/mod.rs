//! Drills: captive restores. What each needs while it runs, and what came of the last ones, durably.

mod stage;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use journal::disk::{Disk, FileDisk, read_file, replace_file};
use journal::store::PointInfo;
use journal::types::{GroupId, WallTime};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::checked::Format;
use crate::error::Result;
use crate::time::rfc3339;
pub use stage::Stage;

const FORMAT: Format = Format { name: "backspool-drills", version: 1 };
const FILE_BYTES: u64 = 1024 * 1024;
/// Of each group as many are remembered.
const KEPT: usize = 32;
/// Of a command as much is remembered, in characters.
const COMMAND_CHARS: usize = 1000;

/// Where what drills need is made in a store.
pub fn stage_dir(store: &Path) -> PathBuf {
    store.join("drill")
}

/// What came of a drill.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drill {
    /// When it ended, in microseconds.
    pub time: u64,
    /// The point's place in the order, its time, class and name.
    pub seq: u64,
    /// In microseconds.
    pub point_time: u64,
    /// How the point came about.
    pub class: String,
    /// Its name.
    pub mark: Option<String>,
    /// Which volume.
    pub volume: String,
    /// What was run.
    pub command: String,
    /// What it ended with; 128 and the signal's number if it was killed. `None`: it never ended, or never began.
    pub command_status: Option<i32>,
    /// From the command line to the first verified byte.
    pub open_seconds: Option<f64>,
    /// How long the command ran.
    pub command_seconds: Option<f64>,
    /// Why it is no success, if not by the command's status.
    pub why: Option<String>,
}

impl Drill {
    /// One of this point that has not been run.
    pub fn of(point: &PointInfo, volume: &str, command: &str) -> Self {
        Self {
            time: 0,
            seq: point.seq.number(),
            point_time: point.time.0,
            class: point.class.name().to_owned(),
            mark: point.mark.clone(),
            volume: volume.to_owned(),
            command: command.chars().take(COMMAND_CHARS).collect(),
            command_status: None,
            open_seconds: None,
            command_seconds: None,
            why: None,
        }
    }

    /// Whether the command ended with 0.
    pub fn is_ok(&self) -> bool {
        self.command_status == Some(0) && self.why.is_none()
    }

    /// As programs read it.
    pub fn document(&self) -> Value {
        json!({
            "time": rfc3339(WallTime(self.time)),
            "point": {"seq": self.seq, "time": rfc3339(WallTime(self.point_time)), "class": self.class, "mark": self.mark},
            "volume": self.volume, "ok": self.is_ok(), "command": self.command, "command_status": self.command_status,
            "rto": {"open_seconds": self.open_seconds, "command_seconds": self.command_seconds}, "why": self.why,
        })
    }
}

/// The last drills of every group. A clone is the same.
#[derive(Clone, Debug)]
pub struct Drills {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    disk: FileDisk,
    known: Mutex<HashMap<GroupId, Vec<Drill>>>,
}

impl Drills {
    /// Those that are remembered in `store/drills`.
    pub fn open(store: &Path) -> Result<Self> {
        let disk = FileDisk::create(store.join("drills"))?;
        Ok(Self { shared: Arc::new(Shared { disk, known: Mutex::default() }) })
    }

    /// Remembers one, durably.
    pub fn add(&self, group: GroupId, drill: Drill) -> Result<()> {
        let mut known = self.known();
        let mut drills = self.shared.load(&mut known, group).unwrap_or_default();
        drills.push(drill);
        let surplus = drills.len().saturating_sub(KEPT);
        drills.drain(..surplus);
        let saved = replace_file(&self.shared.disk, &file_name(group), &FORMAT.encode(&drills));
        // It is shown all the same: what cannot be written has been measured.
        known.insert(group, drills);
        Ok(saved?)
    }

    /// The last one of a group.
    pub fn last(&self, group: GroupId) -> Option<Drill> {
        self.shared.load(&mut self.known(), group).ok()?.pop()
    }

    fn known(&self) -> MutexGuard<'_, HashMap<GroupId, Vec<Drill>>> {
        self.shared.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    /// Reads a group's file when it is first asked for.
    fn load(&self, known: &mut HashMap<GroupId, Vec<Drill>>, group: GroupId) -> Result<Vec<Drill>> {
        if let Some(drills) = known.get(&group) {
            return Ok(drills.clone());
        }
        let read = read_file(&self.disk as &dyn Disk, &file_name(group), FILE_BYTES)?;
        let drills = read.map(|file| FORMAT.decode(&file)).transpose();
        let drills =
            drills.inspect_err(|error| tracing::warn!(%group, %error, "what is remembered of drills is damaged"));
        // Damaged once is enough to be said once: the next drill begins anew.
        let drills = drills.unwrap_or_default().unwrap_or_default();
        known.insert(group, drills);
        Ok(known.get(&group).cloned().unwrap_or_default())
    }
}

fn file_name(group: GroupId) -> String {
    format!("{group}.json")
}

#[cfg(test)]
mod tests {
    use journal::codec::PointClass;
    use journal::types::Seq;

    use super::*;

    #[test]
    fn the_last_ones_are_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let (group, other) = (GroupId([3; 16]), GroupId([4; 16]));
        let point = PointInfo {
            seq: Seq::new(7).unwrap(),
            time: WallTime(1_000_000),
            class: PointClass::Write,
            mark: Some("here".to_owned()),
        };
        let drills = Drills::open(dir.path()).unwrap();
        assert_eq!(drills.last(group), None);
        for time in 0..KEPT as u64 + 5 {
            let drill =
                Drill { time, command_status: Some(0), open_seconds: Some(0.25), ..Drill::of(&point, "db", "true") };
            drills.add(group, drill).unwrap();
        }
        let again = Drills::open(dir.path()).unwrap();
        let last = again.last(group).unwrap();
        assert_eq!((last.time, last.is_ok(), last.open_seconds), (KEPT as u64 + 4, true, Some(0.25)));
        assert_eq!(again.last(other), None);
        assert_eq!(again.known()[&group].len(), KEPT);
        let document = last.document();
        assert_eq!((&document["point"]["mark"], &document["ok"]), (&json!("here"), &json!(true)));
        let file = dir.path().join("drills").join(file_name(group));
        std::fs::write(&file, "damaged").unwrap();
        let damaged = Drills::open(dir.path()).unwrap();
        assert_eq!(damaged.last(group), None);
        damaged.add(group, Drill::of(&point, "db", &"x".repeat(5000))).unwrap();
        let last = Drills::open(dir.path()).unwrap().last(group).unwrap();
        assert_eq!((last.command.len(), last.is_ok()), (COMMAND_CHARS, false));
    }
}
