//! A simulated disk: deterministic, in memory, and as unkind as real ones at a power cut.
//!
//! ```text
//!   write_at ──▶ live (what reads see) + pending ──sync──▶ durable
//!                                          │
//!                                    crash ▼   per 512-byte sector: kept, lost, torn, garbage; in any order
//!                                      a new disk
//! ```
//!
//! Operations are numbered from 1: writes, lengths, syncs and changes of names, not reads. A test runs a script once,
//! asks for [`SimDisk::ops`], then runs it again with [`SimDisk::stop_at`] each of them, crashes and reopens.

mod inode;
mod rng;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use inode::Inode;
pub use rng::Rng;

use super::{Disk, File, Handle, Open, Poison, bytes, check_name, total};
use crate::error::{Error, Result};

/// The simulated disk. Clones are the same disk: a test keeps one while the code under test owns another.
#[derive(Clone)]
pub struct SimDisk {
    shared: Arc<Shared>,
}

/// What a power cut does to whatever was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrashMode {
    /// Nothing of it survives.
    LoseAll,
    /// All of it survives, also the operation that was under way when the power went.
    KeepAll,
    /// Each part survives, vanishes or is torn by itself, so that a later write may survive an earlier one.
    Random,
}

/// What goes wrong with one operation. A fault that does not suit the operation does nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Fails with EIO. A write leaves part of itself; a sync leaves what a power cut would, and forgets the rest.
    Io,
    /// The same with ENOSPC.
    NoSpace,
    /// A sync that says it worked and did nothing.
    IgnoreFlush,
    /// A write that lands at this offset instead, in bytes.
    Misdirect(u64),
}

/// What goes wrong with one read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadFault {
    /// Fails with EIO.
    Io,
    /// Returns half of what was asked for, as if the file ended there.
    Short,
}

struct Shared {
    state: Mutex<State>,
    dir_poison: Poison,
}

struct State {
    /// Files, also those without a name: an open file may have been removed. A crash drops them.
    inodes: Vec<Inode>,
    /// Name → index of `inodes`.
    live: BTreeMap<String, usize>,
    durable: BTreeMap<String, usize>,
    pending: Vec<DirChange>,
    /// What is left of what was not synced when a sync fails.
    rng: Rng,
    ops: u64,
    reads: u64,
    stop_at: u64,
    faults: BTreeMap<u64, Fault>,
    read_faults: BTreeMap<u64, ReadFault>,
}

/// A change of names that is not durable yet.
enum DirChange {
    Create { name: String, inode: usize },
    Rename { from: String, to: String },
    Remove { name: String },
}

/// How the operation that starts now will end.
enum Turn {
    Works,
    Fails(Fault),
    /// The power goes while it is under way: it may or may not take effect, and nobody hears of it.
    PowerGoes,
}

impl SimDisk {
    /// An empty disk. `seed` decides what failed writes and failed syncs leave behind.
    pub fn new(seed: u64) -> Self {
        Self::from_parts(Vec::new(), BTreeMap::new(), Rng::new(seed))
    }

    fn from_parts(inodes: Vec<Inode>, names: BTreeMap<String, usize>, rng: Rng) -> Self {
        let state = State {
            inodes,
            live: names.clone(),
            durable: names,
            pending: Vec::new(),
            rng,
            ops: 0,
            reads: 0,
            stop_at: u64::MAX,
            faults: BTreeMap::new(),
            read_faults: BTreeMap::new(),
        };
        Self { shared: Arc::new(Shared { state: Mutex::new(state), dir_poison: Poison::default() }) }
    }

    /// Operations started so far.
    pub fn ops(&self) -> u64 {
        self.shared.state().ops
    }

    /// Reads started so far.
    pub fn reads(&self) -> u64 {
        self.shared.state().reads
    }

    /// Cuts the power during operation `op`: it and all that follows, reads too, fail as unavailable.
    pub fn stop_at(&self, op: u64) {
        self.shared.state().stop_at = op;
    }

    /// Lets `fault` happen to operation `op`, once.
    pub fn fail_nth(&self, op: u64, fault: Fault) {
        self.shared.state().faults.insert(op, fault);
    }

    /// Lets `fault` happen to read number `read` (from 1), once.
    pub fn fail_nth_read(&self, read: u64, fault: ReadFault) {
        self.shared.state().read_faults.insert(read, fault);
    }

    /// Flips one bit of a file, on disk and in memory. Bit 0 is the lowest of the first byte.
    pub fn flip_bit(&self, name: &str, bit: u64) -> Result<()> {
        let state = &mut *self.shared.state();
        let inode = state.lookup(name)?;
        state.inodes[inode].flip_bit(bit)
    }

    /// What is on the disk after a power cut now. This disk stays as it is, so that one run gives many crashes.
    #[must_use]
    pub fn crash(&self, mode: CrashMode, rng: &mut Rng) -> Self {
        let state = self.shared.state();
        let mut names = state.durable.clone();
        match mode {
            CrashMode::LoseAll => {}
            CrashMode::KeepAll => state.pending.iter().for_each(|change| change.apply(&mut names)),
            CrashMode::Random => names = surviving_names(&state.durable, &state.pending, rng),
        }
        let mut inodes = Vec::with_capacity(names.len());
        for inode in names.values_mut() {
            inodes.push(state.inodes[*inode].crash(mode, rng));
            *inode = inodes.len() - 1;
        }
        Self::from_parts(inodes, names, Rng::new(rng.u64()))
    }

    /// Does `change` to the names, once it is clear that the operation is not refused.
    fn change_names(&self, change: impl FnOnce(&mut State) -> Result<DirChange>) -> Result<()> {
        let state = &mut *self.shared.state();
        let turn = state.turn()?;
        if let Turn::Fails(fault) = turn {
            fault.error()?;
        }
        let change = change(state)?;
        change.apply(&mut state.live);
        state.pending.push(change);
        turn.done()
    }
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.shared.state();
        f.debug_struct("SimDisk").field("ops", &state.ops).field("names", &state.live).finish_non_exhaustive()
    }
}

impl Disk for SimDisk {
    fn open(&self, name: &str, mode: Open) -> Result<Arc<dyn File>> {
        check_name(name)?;
        if mode == Open::CreateNew {
            self.change_names(|state| {
                if state.live.contains_key(name) {
                    return Err(Error::from(io::Error::from(io::ErrorKind::AlreadyExists)).with_path(name));
                }
                state.inodes.push(Inode::default());
                Ok(DirChange::Create { name: name.to_owned(), inode: state.inodes.len() - 1 })
            })?;
        }
        let mut state = self.shared.powered()?;
        let inode = state.lookup(name)?;
        if mode == Open::Existing {
            state.inodes[inode].forget_cache();
        }
        drop(state);
        let shared = Arc::clone(&self.shared);
        Ok(Arc::new(SimFile { shared, inode, name: name.to_owned(), handle: Handle::new(mode) }))
    }

    fn list(&self) -> Result<Vec<String>> {
        Ok(self.shared.powered()?.live.keys().cloned().collect())
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        check_name(from)?;
        check_name(to)?;
        self.change_names(|state| {
            state.lookup(from)?;
            Ok(DirChange::Rename { from: from.to_owned(), to: to.to_owned() })
        })
    }

    fn remove(&self, name: &str) -> Result<()> {
        check_name(name)?;
        self.change_names(|state| {
            state.lookup(name)?;
            Ok(DirChange::Remove { name: name.to_owned() })
        })
    }

    fn sync_dir(&self) -> Result<()> {
        self.shared.dir_poison.guard(|| {
            let state = &mut *self.shared.state();
            match state.turn()? {
                Turn::Works => {
                    state.pending.drain(..).for_each(|change| change.apply(&mut state.durable));
                    Ok(())
                }
                Turn::Fails(fault @ (Fault::Io | Fault::NoSpace)) => {
                    state.durable = surviving_names(&state.durable, &state.pending, &mut state.rng);
                    state.pending.clear();
                    fault.error()
                }
                Turn::Fails(_) => Ok(()),
                Turn::PowerGoes => Err(power_is_off()),
            }
        })
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state, for what is not an operation but needs the power too.
    fn powered(&self) -> Result<MutexGuard<'_, State>> {
        let state = self.state();
        if state.ops >= state.stop_at { Err(power_is_off()) } else { Ok(state) }
    }
}

impl State {
    fn lookup(&self, name: &str) -> Result<usize> {
        let found = self.live.get(name).copied();
        found.ok_or_else(|| Error::from(io::Error::from(io::ErrorKind::NotFound)).with_path(name))
    }

    /// Counts an operation and says how it will end.
    fn turn(&mut self) -> Result<Turn> {
        self.ops += 1;
        if self.ops > self.stop_at {
            return Err(power_is_off());
        }
        if self.ops == self.stop_at {
            return Ok(Turn::PowerGoes);
        }
        Ok(self.faults.remove(&self.ops).map_or(Turn::Works, Turn::Fails))
    }
}

impl Turn {
    /// The end of an operation that has taken effect.
    fn done(self) -> Result<()> {
        match self {
            Self::Works => Ok(()),
            Self::Fails(fault) => fault.error(),
            Self::PowerGoes => Err(power_is_off()),
        }
    }
}

impl Fault {
    /// What the caller hears of it, if anything.
    fn error(self) -> Result<()> {
        match self {
            Self::Io => Err(io::Error::from_raw_os_error(libc::EIO).into()),
            Self::NoSpace => Err(io::Error::from_raw_os_error(libc::ENOSPC).into()),
            Self::IgnoreFlush | Self::Misdirect(_) => Ok(()),
        }
    }
}

impl DirChange {
    fn apply(&self, names: &mut BTreeMap<String, usize>) {
        match self {
            Self::Create { name, inode } => {
                names.insert(name.clone(), *inode);
            }
            Self::Rename { from, to } => {
                // Gone if a failed sync of the directory lost its creation.
                if let Some(inode) = names.remove(from) {
                    names.insert(to.clone(), inode);
                }
            }
            Self::Remove { name } => {
                names.remove(name);
            }
        }
    }

    fn names(&self) -> [&str; 2] {
        match self {
            Self::Create { name, .. } | Self::Remove { name } => [name, name],
            Self::Rename { from, to } => [from, to],
        }
    }
}

/// The names after a power cut: each change is kept or lost by itself, but never without an earlier one of its names.
fn surviving_names(durable: &BTreeMap<String, usize>, pending: &[DirChange], rng: &mut Rng) -> BTreeMap<String, usize> {
    let mut names = durable.clone();
    let mut lost = BTreeSet::new();
    for change in pending {
        if change.names().iter().any(|name| lost.contains(name)) || rng.chance(1, 2) {
            lost.extend(change.names());
        } else {
            change.apply(&mut names);
        }
    }
    names
}

fn power_is_off() -> Error {
    Error::unavailable("the power is off")
}

/// One open file of a [`SimDisk`].
struct SimFile {
    shared: Arc<Shared>,
    inode: usize,
    name: String,
    handle: Handle,
}

impl SimFile {
    fn change(&self, change: impl FnOnce(&mut Inode, &Turn, &mut Rng) -> Result<()>) -> Result<()> {
        let state = &mut *self.shared.state();
        let turn = state.turn()?;
        change(&mut state.inodes[self.inode], &turn, &mut state.rng)?;
        turn.done()
    }

    fn failed(&self, error: Error, doing: &'static str) -> Error {
        error.context(doing).with_path(&self.name)
    }
}

impl fmt::Debug for SimFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimFile").field("name", &self.name).finish_non_exhaustive()
    }
}

impl File for SimFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let mut read = || {
            let state = &mut *self.shared.powered()?;
            state.reads += 1;
            let want = match state.read_faults.remove(&state.reads) {
                None => buf.len(),
                Some(ReadFault::Short) => buf.len() / 2,
                Some(ReadFault::Io) => return Err(io::Error::from_raw_os_error(libc::EIO).into()),
            };
            Ok(state.inodes[self.inode].read(offset, &mut buf[..want]))
        };
        read().map_err(|error| self.failed(error, "cannot read").with_offset(offset))
    }

    fn write_at(&self, offset: u64, bufs: &[IoSlice<'_>]) -> Result<()> {
        let write = || {
            self.handle.check_write(offset, total(bufs))?;
            let mut data = Vec::new();
            bufs.iter().for_each(|buf| data.extend_from_slice(buf));
            self.change(|inode, turn, rng| {
                let mut place = offset;
                match turn {
                    Turn::Fails(Fault::Io | Fault::NoSpace) => data.truncate(rng.below_len(data.len() + 1)),
                    Turn::Fails(Fault::Misdirect(elsewhere)) => place = *elsewhere,
                    _ => {}
                }
                inode.write(place, data)
            })
        };
        write().map_err(|error| self.failed(error, "cannot write").with_offset(offset))
    }

    fn sync(&self) -> Result<()> {
        let sync = || {
            self.change(|inode, turn, rng| {
                match turn {
                    Turn::Works | Turn::Fails(Fault::Misdirect(_)) => inode.sync(),
                    Turn::Fails(Fault::Io | Fault::NoSpace) => inode.fail_sync(rng),
                    Turn::Fails(Fault::IgnoreFlush) | Turn::PowerGoes => {}
                }
                Ok(())
            })
        };
        self.handle.poison.guard(sync).map_err(|error| self.failed(error, "cannot sync"))
    }

    fn len(&self) -> Result<u64> {
        Ok(bytes(self.shared.powered()?.inodes[self.inode].len()))
    }

    fn set_len(&self, len: u64) -> Result<()> {
        let set_len = || {
            self.handle.check_write(len, 0)?;
            self.change(|inode, turn, _| match turn {
                Turn::Fails(Fault::Io | Fault::NoSpace) => Ok(()),
                _ => inode.set_len(len),
            })
        };
        set_len().map_err(|error| self.failed(error, "cannot set the length"))
    }
}
