//! The directories of groups: found by name, locked, replaced durably.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use journal::disk::{FileDisk, Reserve, read_file, replace_file};
use journal::log::{Entropy, Head};
use journal::types::{GroupId, Sectors, Seq, VolumeNo};
use rustix::fs::{FlockOperation, flock};
use rustix::io::retry_on_intr;

use super::{GroupState, OpenedEpoch, Place, Stopped, Volume};
use crate::{Error, Result};

const STATE: &str = "state.json";
/// A state with 256 volumes and 64 epochs is far smaller.
const STATE_BYTES_MAX: u64 = 16 << 20;

/// The groups in one state directory.
#[derive(Debug)]
pub struct Groups {
    dir: PathBuf,
    reserve: Option<Arc<Reserve>>,
}

/// One group, locked against every other agent as long as this lives.
#[derive(Debug)]
pub struct Group {
    disk: FileDisk,
    dir: PathBuf,
    state: GroupState,
    here: Place,
}

impl Groups {
    /// Those in the state directory `state`, which is made if it is not there.
    pub fn open(state: impl AsRef<Path>) -> Result<Self> {
        let dir = std::path::absolute(state.as_ref())?.join("groups");
        FileDisk::create(&dir)?;
        Ok(Self { dir, reserve: None })
    }

    /// What they remember is written also when the disk is full.
    #[must_use]
    pub fn with_reserve(self, reserve: Arc<Reserve>) -> Self {
        Self { reserve: Some(reserve), ..self }
    }

    /// What is remembered of all of them, without locking any.
    pub fn list(&self) -> Result<Vec<GroupState>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(|error| Error::from(error).with_path(&self.dir))? {
            let name = entry?.file_name();
            // Anything else is not ours.
            if let Some(id) = name.to_str().and_then(GroupId::parse) {
                found.extend(read(&FileDisk::open(self.dir.join(&name))?, id)?);
            }
        }
        Ok(found)
    }

    /// Takes the group of this name; makes it if there is none.
    pub fn claim(&self, name: &str, entropy: Entropy) -> Result<Group> {
        // Two agents that start at once must not both make it.
        let lock = File::open(&self.dir)?;
        retry_on_intr(|| flock(&lock, FlockOperation::LockExclusive))
            .map_err(|errno| Error::from(errno).with_path(&self.dir))?;
        if let Some(known) = self.list()?.into_iter().find(|state| state.name == name) {
            return self.take(known.id);
        }
        let id = GroupId::new(entropy()).ok_or_else(|| Error::unavailable("no random identity"))?;
        let dir = self.dir.join(id.to_string());
        let disk = FileDisk::create(&dir)?.with_reserve(self.reserve.clone());
        disk.lock()?;
        let here = Place::of(&dir)?;
        let state = GroupState {
            id,
            name: name.to_owned(),
            volumes: BTreeMap::new(),
            next_volume: VolumeNo(0),
            epochs: Vec::new(),
            durable: None,
            place: Some(here.clone()),
            stopped: None,
            rollback: None,
        };
        let mut group = Group { disk, dir, state, here };
        group.save(|_| {})?;
        Ok(group)
    }

    fn take(&self, id: GroupId) -> Result<Group> {
        let dir = self.dir.join(id.to_string());
        let disk = FileDisk::open(&dir)?.with_reserve(self.reserve.clone());
        disk.lock().map_err(|error| error.context("another agent has this group"))?;
        // Read again, now that nobody else can change it.
        let state = read(&disk, id)?.ok_or_else(|| Error::not_found("the group is gone").with_path(&dir))?;
        let here = Place::of(&dir)?;
        Ok(Group { disk, dir, state, here })
    }
}

impl Group {
    /// What is remembered.
    pub fn state(&self) -> &GroupState {
        &self.state
    }

    /// Where its spool is.
    pub fn spool_dir(&self) -> PathBuf {
        self.dir.join("spool")
    }

    /// Whether it stands elsewhere than where it was last known to be the only one.
    pub fn is_copied(&self) -> bool {
        self.state.place.as_ref().is_some_and(|place| !place.is(&self.here))
    }

    /// This one is the group's from now on, wherever it was before.
    pub fn settle_here(&mut self) -> Result<()> {
        if self.state.place.as_ref() == Some(&self.here) {
            return Ok(());
        }
        let here = self.here.clone();
        self.save(|state| state.place = Some(here))
    }

    /// A run begins on these volumes: from now on, until a clean stop, it counts as interrupted. Durable on return; nothing may
    /// be captured before.
    pub fn begin(&mut self, epoch: OpenedEpoch, volumes: BTreeMap<VolumeNo, Volume>) -> Result<()> {
        self.save(|state| state.begin(epoch, volumes))
    }

    /// A receiver said that the order is durable up to `head`.
    pub fn note_durable(&mut self, head: Head) -> Result<()> {
        if !self.state.is_news(head) {
            return Ok(());
        }
        self.save(|state| state.durable = Some(head))
    }

    /// The order goes on at a receiver's `head`, whatever was durable before.
    pub fn set_durable(&mut self, head: Option<Head>) -> Result<()> {
        self.save(|state| state.durable = head)
    }

    /// A volume has this size from now on.
    pub fn set_size(&mut self, number: VolumeNo, size: Sectors) -> Result<()> {
        self.save(|state| {
            if let Some(volume) = state.volumes.get_mut(&number) {
                volume.size = size;
            }
        })
    }

    /// The sources are being taken back to `target`, or that is over. Durable on return.
    pub fn note_rollback(&mut self, target: Option<Seq>) -> Result<()> {
        self.save(|state| state.rollback = target)
    }

    /// The run ended cleanly: all that happened is in the spool, durably, in a base that is sealed, or in what is `unread`, and the proofs were
    /// taken after the last write and flush. Without all of this it must not be called.
    pub fn note_stopped(&mut self, stopped: Stopped) -> Result<()> {
        self.save(|state| state.stopped = Some(stopped))
    }

    fn save(&mut self, change: impl FnOnce(&mut GroupState)) -> Result<()> {
        let mut state = self.state.clone();
        change(&mut state);
        let written = replace_file(&self.disk, STATE, &state.encode()?);
        written.map_err(|error| error.context("cannot write the state").with_path(self.dir.join(STATE)))?;
        self.state = state;
        Ok(())
    }
}

/// `None`: a crash came between making the directory and the first state in it.
fn read(disk: &FileDisk, id: GroupId) -> Result<Option<GroupState>> {
    let path = format!("{id}/{STATE}");
    let Some(text) = read_file(disk, STATE, STATE_BYTES_MAX)? else { return Ok(None) };
    let state = GroupState::decode(&text).map_err(|error| error.with_path(&path))?;
    match state.id == id {
        true => Ok(Some(state)),
        false => Err(Error::corrupt("the state is of another group").with_path(&path)),
    }
}
