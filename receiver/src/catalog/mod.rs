//! Who may send what: agents, invitations, groups. One file, replaced as a whole, durable before a method returns.

mod contents;
mod dir;
mod name;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use journal::disk::{Disk, read_file, replace_file};
use journal::types::GroupId;
use tokio::sync::watch;

pub(crate) use contents::Contents;
pub use contents::{Agent, GroupEntry, Invited};
pub use dir::{StoreDir, StoreId};
pub use name::Name;

use crate::error::{Code, Error, Result};
use crate::retention::Wanted;

const CATALOG_FILE: &str = "catalog.json";

/// The one owner of what is remembered.
#[derive(Debug)]
pub struct Catalog {
    dir: StoreDir,
    contents: Mutex<Contents>,
    changes: watch::Sender<()>,
}

impl Catalog {
    /// Reads it; a new store has an empty one.
    pub fn open(dir: StoreDir) -> Result<Self> {
        let contents = read(dir.disk()).map_err(|error| error.context(dir.path().join(CATALOG_FILE).display()))?;
        Ok(Self { dir, contents: Mutex::new(contents), changes: watch::Sender::new(()) })
    }

    /// The store it stands in.
    pub fn dir(&self) -> &StoreDir {
        &self.dir
    }

    /// Where a group's journal is. The name is no part of it.
    pub fn group_dir(&self, id: GroupId) -> PathBuf {
        self.dir.path().join("groups").join(id.to_string())
    }

    /// Where the replica images are.
    pub fn images_dir(&self) -> PathBuf {
        self.dir.path().join("images")
    }

    /// The agent with this key.
    pub fn agent(&self, pin: [u8; 32]) -> Option<Name> {
        self.locked().agents.iter().find(|agent| agent.pin == pin).map(|agent| agent.name.clone())
    }

    /// Every change from now on: what was allowed may not be any more.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// All groups, by name.
    pub fn groups(&self) -> Vec<GroupEntry> {
        let mut groups = self.locked().groups.clone();
        groups.sort_by(|a, b| a.name.cmp(&b.name));
        groups
    }

    /// `agent` wants to send for this group: the first one that does owns it.
    pub fn claim(&self, agent: &Name, id: GroupId, name: &Name) -> Result<GroupEntry> {
        if let Some(known) = check_claim(&self.locked(), agent, id, name)? {
            return Ok(known);
        }
        self.change(|contents| {
            // Another session may have been faster between the two looks.
            if let Some(known) = check_claim(contents, agent, id, name)? {
                return Ok(known);
            }
            if contents.groups.iter().filter(|group| group.agent == *agent).count() >= link::GROUPS as usize {
                return Err(Error::new(Code::LOCKED, format!("agent {agent} has {} groups: no more", link::GROUPS)));
            }
            let entry = GroupEntry { id, name: name.clone(), agent: agent.clone(), retention: Wanted::default() };
            contents.groups.push(entry.clone());
            Ok(entry)
        })
    }

    /// What was said for a group of how long what is kept.
    pub fn retention(&self, id: GroupId) -> Wanted {
        let contents = self.locked();
        contents.groups.iter().find(|group| group.id == id).map(|group| group.retention).unwrap_or_default()
    }

    /// Remembers what was said for a group, over what was said before.
    pub(crate) fn set_retention(&self, id: GroupId, wanted: &Wanted) -> Result<()> {
        self.change(|contents| {
            for group in contents.groups.iter_mut().filter(|group| group.id == id) {
                group.retention = wanted.over(&group.retention);
            }
            Ok(())
        })
    }

    /// Looks at the contents.
    pub(crate) fn locked(&self) -> MutexGuard<'_, Contents> {
        // A panic cannot leave half a change behind: changes are made to a copy.
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a change durable, then visible. If either fails, nothing has changed.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut Contents) -> Result<T>) -> Result<T> {
        let mut contents = self.locked();
        let mut next = contents.clone();
        let result = change(&mut next)?;
        if next != *contents {
            replace_file(self.dir.disk(), CATALOG_FILE, &next.encode())?;
            *contents = next;
            drop(contents);
            self.changes.send_replace(());
        }
        Ok(result)
    }
}

fn read(disk: &dyn Disk) -> Result<Contents> {
    match read_file(disk, CATALOG_FILE, contents::CATALOG_BYTES)? {
        Some(file) => Contents::decode(&file),
        None => Ok(Contents::default()),
    }
}

/// Whether the group may be `agent`'s: the known entry, `None` if nobody has it yet, or why not.
fn check_claim(contents: &Contents, agent: &Name, id: GroupId, name: &Name) -> Result<Option<GroupEntry>> {
    let fenced = |message: String| Error::new(Code::FENCED, message);
    let Some(known) = contents.groups.iter().find(|group| group.id == id || group.name == *name) else {
        return Ok(None);
    };
    if known.agent != *agent {
        return Err(fenced(format!("group {} belongs to agent {}", known.name, known.agent)));
    }
    if known.id != id {
        let message = format!("group {name} is another one here: this agent's state is not the one that made it");
        return Err(fenced(message).hint("give the group another name, or bring the agent's state directory back"));
    }
    if known.name != *name {
        return Err(fenced(format!("group {} cannot be called {name} now", known.name)));
    }
    Ok(Some(known.clone()))
}
