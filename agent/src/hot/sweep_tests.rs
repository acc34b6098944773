//! The power goes at any time, and the disk keeps of what was not synced what it likes; the source, too. Whatever was changed on the
//! source and is not covered must be hot in what is read back, or the log must not be believed. The oracle is a map of what the
//! script did.
//!
//! And wherever the receiver is by then, at or beyond what was remembered durably: what is not hot is on the source what it is at the
//! receiver, whatever the source kept. A log that was set back together with its source is believed only where that holds, too.

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use journal::disk::sim::{CrashMode, Fault, Rng};
use journal::disk::{Disk, File, Open, SimDisk, read_file};
use journal::error::Result;
use journal::types::{Seq, WallTime};

use super::codec::FILE_BYTES;
use super::recover::{self, Hot as Said};
use super::tests::{in_extent, place, subject};
use super::worlds::{Copy, Model};
use super::*;
use crate::testing::TestClock;

/// How long a note is good for here: real time, as the gate sleeps.
const LEASE_US: u64 = 1000;

/// A simulated disk that is looked at, as it would be after a power cut, before and after each operation.
#[derive(Clone)]
struct Watched {
    disk: SimDisk,
    world: Arc<Mutex<World>>,
}

struct World {
    rng: Rng,
    /// Changed on the source, and not covered: when, by the wall clock.
    uncovered: BTreeMap<ExtentNo, u64>,
    model: Model,
    /// What was copied, to be set back later.
    copies: Vec<Copy>,
    states: u64,
    listed: u64,
    tight: u64,
}

impl Watched {
    fn look(&self) {
        let world = &mut *self.world.lock().unwrap();
        let random = std::iter::repeat_n(CrashMode::Random, 4);
        for mode in [CrashMode::LoseAll, CrashMode::KeepAll].into_iter().chain(random) {
            world.check(&self.disk.crash(mode, &mut world.rng.clone()));
            world.rng.u64();
        }
    }

    fn around<T>(&self, operation: impl FnOnce() -> T) -> T {
        self.look();
        let done = operation();
        self.look();
        done
    }
}

impl World {
    fn check(&mut self, disk: &SimDisk) {
        self.states += 1;
        let name = subject(64).file_name();
        let Some(bytes) = read_file(disk, &name, u64::try_from(FILE_BYTES).unwrap()).unwrap() else { return };
        let Ok(found) = recover::read(&bytes) else { return };
        let (Some(note), Said::Only(hot)) = (found.note, found.hot) else { return };
        let last_change = self.uncovered.values().max().copied().unwrap_or(0);
        if last_change > note.at.0 + LEASE_US {
            return;
        }
        self.listed += 1;
        self.tight += u64::from(hot.len() < 48);
        let missing: Vec<_> = self.uncovered.keys().filter(|extent| !hot.contains(extent)).collect();
        assert!(missing.is_empty(), "changed, not covered, and not hot: {missing:?} of {:?}", self.uncovered);
        let copy = self.model.copy(hot, &mut self.rng);
        assert!(copy.agrees(&self.model, copy.receiver), "after a crash the receiver agrees");
        copy.check(&self.model, copy.receiver);
        if self.rng.chance(1, 64) {
            self.copies.push(copy);
        }
    }
}

impl std::fmt::Debug for Watched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.disk.fmt(f)
    }
}

impl Disk for Watched {
    fn open(&self, name: &str, mode: Open) -> Result<Arc<dyn File>> {
        let file = self.around(|| self.disk.open(name, mode))?;
        Ok(Arc::new(WatchedFile { watched: self.clone(), file }))
    }

    fn list(&self) -> Result<Vec<String>> {
        self.disk.list()
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        self.around(|| self.disk.rename(from, to))
    }

    fn remove(&self, name: &str) -> Result<()> {
        self.around(|| self.disk.remove(name))
    }

    fn sync_dir(&self) -> Result<()> {
        self.around(|| self.disk.sync_dir())
    }
}

#[derive(Debug)]
struct WatchedFile {
    watched: Watched,
    file: Arc<dyn File>,
}

impl File for WatchedFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        self.file.read_at(offset, buf)
    }

    fn write_at(&self, offset: u64, bufs: &[IoSlice<'_>]) -> Result<()> {
        self.watched.around(|| self.file.write_at(offset, bufs))
    }

    fn sync(&self) -> Result<()> {
        self.watched.around(|| self.file.sync())
    }

    fn len(&self) -> Result<u64> {
        self.file.len()
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.watched.around(|| self.file.set_len(len))
    }
}

/// One run of an agent, which begins after a crash with `left`: changes, capture, flushes, a receiver that is behind.
fn script(seed: u64, faults: u64) -> World {
    let mut rng = Rng::new(seed);
    let clock = Arc::new(TestClock::default());
    clock.wall.store(1_000_000, Ordering::Relaxed);
    let disk = SimDisk::new(seed);
    (0..faults)
        .for_each(|_| disk.fail_nth(1 + rng.below(60), if rng.chance(1, 2) { Fault::Io } else { Fault::NoSpace }));
    // What the last run left is not covered before a base of it is sealed.
    let is_all = rng.chance(1, 2);
    let inherited: Vec<ExtentNo> = if is_all { (0..64).collect() } else { vec![3, 4, 40] };
    let uncovered = inherited.iter().map(|extent| (*extent, 999_999)).collect();
    let model = Model::new(&inherited);
    let world = World { rng: Rng::new(!seed), uncovered, model, copies: Vec::new(), states: 0, listed: 0, tight: 0 };
    let world = Arc::new(Mutex::new(world));
    let watched = Watched { disk, world: Arc::clone(&world) };
    let ranges =
        inherited.iter().map(|extent| u64::from(*extent) * EXTENT_BYTES..(u64::from(*extent) + 1) * EXTENT_BYTES);
    let left = if is_all { Left::All { why: String::new() } } else { Left::Only(ranges.collect()) };
    let place = place(Arc::new(watched.clone()), clock.clone());
    let Ok(hot) = Hot::begin_with(place, subject(64), &left, WallTime(0), (24, LEASE_US)) else {
        // Neither written nor removed: such an agent does not start.
        assert!(faults > 0);
        return take(&world);
    };
    let (mut seq, mut durable, mut sealed) = (1_u64, 0_u64, false);
    let mut last_change: BTreeMap<ExtentNo, u64> = BTreeMap::new();
    let mut flushed = None;
    let mut was_over = false;
    for _ in 0..40 {
        let now = clock.wall.fetch_add(1, Ordering::Relaxed) + 1;
        clock.boottime.fetch_add(4_000_000, Ordering::Relaxed);
        match rng.below(4) {
            0 | 1 => {
                let stream = rng.chance(1, 8);
                let numbers = if stream {
                    vec![20, 21, 22]
                } else {
                    (0..=rng.below(3)).map(|_| u32::try_from(rng.below(64)).unwrap()).collect()
                };
                let pass = hot.enter(numbers.iter().map(|number| in_extent(*number)));
                if hot.is_over() && !was_over {
                    // It has slept until the log had expired.
                    clock.wall.fetch_add(2 * LEASE_US, Ordering::Relaxed);
                    was_over = true;
                }
                let now = now.max(clock.wall.load(Ordering::Relaxed));
                world.lock().unwrap().model.write(&numbers);
                watched.look();
                world.lock().unwrap().model.capture(&numbers);
                seq += 1;
                for number in numbers {
                    world.lock().unwrap().uncovered.insert(number, now);
                    last_change.insert(number, seq);
                }
                watched.look();
                drop(pass);
            }
            2 => {
                durable = durable.max(rng.below(seq + 1));
                world.lock().unwrap().model.durable = durable;
            }
            _ if !sealed && rng.chance(1, 3) => {
                sealed = true;
                seq += 1;
                world.lock().unwrap().model.seal();
            }
            _ => {}
        }
        // Before anything can be said cold: what the last flush and the receiver cover.
        if let Some(through) = flushed.filter(|through| durable >= *through) {
            let world = &mut *world.lock().unwrap();
            world.uncovered.retain(|number, _| last_change.get(number).is_some_and(|last| *last > through));
            flushed = None;
        }
        let mut flushing = None;
        let order = || if sealed { Seq::new(seq) } else { None };
        hot.tend(
            WallTime(0),
            || {
                flushing = Some(seq);
                world.lock().unwrap().model.flush();
                true
            },
            order,
            Seq::new(durable),
        );
        flushed = flushing.or(flushed);
    }
    drop(hot);
    take(&world)
}

fn take(world: &Arc<Mutex<World>>) -> World {
    let mut world = world.lock().unwrap();
    let rng = world.rng.clone();
    let (uncovered, copies) = (std::mem::take(&mut world.uncovered), std::mem::take(&mut world.copies));
    let model = std::mem::replace(&mut world.model, Model::new(&[]));
    World { uncovered, copies, model, rng, ..*world }
}

#[test]
fn whatever_a_power_cut_leaves_names_all_that_is_not_covered() {
    sweep(1..40, 0);
}

#[test]
fn also_when_the_log_cannot_be_written() {
    sweep(1000..1025, 1);
    sweep(2000..2025, 3);
}

fn sweep(seeds: Range<u64>, faults: u64) {
    let (mut states, mut listed, mut tight) = (0, 0, 0);
    let (mut set_back, mut refused) = (0, 0);
    for seed in seeds {
        let mut world = script(seed, faults);
        for copy in &world.copies {
            let receiver = copy.receiver.max(world.model.durable) + world.rng.below(3);
            let receiver = receiver.min(world.model.captured());
            set_back += 1;
            match copy.agrees(&world.model, receiver) {
                true => copy.check(&world.model, receiver),
                false => refused += 1,
            }
        }
        states += world.states;
        listed += world.listed;
        tight += world.tight;
    }
    println!(
        "{states} crash states, with {faults} faults in each run; {listed} of them list what is hot, {tight} less than all"
    );
    println!("of {set_back} that were set back later, the receiver does not agree with {refused}");
    assert!(states > 10_000 && tight > states / 20);
    assert!(set_back > 100 && refused > set_back / 10 && refused < set_back);
}
