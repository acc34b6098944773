//! A group's past as directories and files: what is found where, as of now. Reads the journal, remembers nothing.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::sync::Arc;

use jiff::Zoned;
use jiff::tz::TimeZone;
use journal::codec::Body;
use journal::store::{PointInfo, Version, VolumeInfo, When};
use journal::types::{Seq, VolumeNo, WallTime};
use journal::wire::is_name;

use super::names::{MARKS, Meaning, ladder, latest, mark, meaning, of_mark, of_time};
use super::node::Node;
use crate::error::Result;
use crate::export::Served;
use crate::group::Group;

/// Names of volumes that a mount shows.
const VOLUMES_MAX: usize = 256;
/// Marks that are listed, the newest; others are found by name.
const MARKS_MAX: usize = 4096;

/// A group, as a tree.
#[derive(Debug)]
pub(super) struct History {
    group: Group,
    /// In which times without a zone are meant.
    zone: TimeZone,
    /// Each that there ever was; a single one has no directory of its own.
    volumes: Vec<String>,
}

/// What there is to say of an inode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) node: Node,
    /// Tells apart what one place in the order held before and after the end of the order was lost.
    pub(super) generation: u64,
    pub(super) size: u64,
    /// At most so many bytes are data.
    pub(super) data: u64,
    /// The point's; `None` of a directory.
    pub(super) time: Option<WallTime>,
}

/// One name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) node: Node,
    pub(super) name: String,
}

impl History {
    /// The past of `group`.
    pub(super) fn new(group: Group, zone: TimeZone) -> Result<Self> {
        let mut volumes: Vec<String> = Vec::new();
        for event in group.library()?.now().timeline().events() {
            if let Body::VolumeAdd { add, .. } = &event.record.body
                // An agent may say anything, and a directory with a name that is none cannot be listed.
                && is_name(&add.name)
                && !volumes.contains(&add.name)
                && volumes.len() < VOLUMES_MAX
            {
                volumes.push(add.name.clone());
            }
        }
        Ok(Self { group, zone, volumes })
    }

    /// The volumes it shows.
    pub(super) fn volumes(&self) -> &[String] {
        &self.volumes
    }

    /// What `name` is in a directory; `None`: nothing.
    pub(super) fn lookup(&self, parent: Node, name: &OsStr, now: WallTime) -> Result<Option<Found>> {
        match self.images_of(parent) {
            None if parent == Node::Root => {
                let index = self.volumes.iter().position(|volume| OsStr::new(volume) == name);
                Ok(index.and_then(|index| u8::try_from(index).ok()).map(|index| directory(Node::Volume(index))))
            }
            Some(index) => match meaning(name, &self.clock(now)) {
                Some(Meaning::Marks) => Ok(Some(directory(Node::Marks(index)))),
                Some(Meaning::Image(when)) => self.image(index, &to_find(&when)),
                None => Ok(None),
            },
            None => match (parent, mark(name)) {
                (Node::Marks(index), Some(mark)) => self.image(index, &When::Mark(mark.to_owned())),
                _ => Ok(None),
            },
        }
    }

    /// What an inode is that was found before; `None`: it is no more.
    pub(super) fn attributes(&self, node: Node) -> Result<Option<Found>> {
        let Node::Image(volume, seq) = node else { return Ok(Some(directory(node))) };
        let version = self.group.library()?.now();
        let Some(time) = version.time_of(seq)? else { return Ok(None) };
        let volume = version.timeline().volumes(seq).into_iter().find(|info| info.number == volume);
        Ok(volume.and_then(|volume| file(&version, &volume, seq, time)))
    }

    /// What is listed in a directory.
    pub(super) fn list(&self, node: Node, now: WallTime) -> Result<Vec<Listed>> {
        if let (Node::Root, None) = (node, self.images_of(node)) {
            let volumes = self
                .volumes
                .iter()
                .zip(0..)
                .map(|(name, index)| Listed { node: Node::Volume(index), name: name.clone() });
            return Ok(volumes.collect());
        }
        let version = self.group.library()?.now();
        let mut listed = Vec::new();
        if let Node::Marks(index) = node {
            return self.list_marks(&version, index);
        }
        let Some(index) = self.images_of(node) else { return Ok(listed) };
        self.add(&version, index, &When::Latest, latest(), &mut listed)?;
        listed.push(Listed { node: Node::Marks(index), name: MARKS.to_owned() });
        if let Some((from, to)) = version.covered()? {
            for time in ladder(now, from, to) {
                self.add(&version, index, &When::At(time), of_time(time), &mut listed)?;
            }
        }
        Ok(listed)
    }

    /// The volume as of a place in the order, to be read; `None`: it is no more.
    pub(super) fn open(&self, volume: VolumeNo, seq: Seq) -> Result<Option<Arc<Served>>> {
        let version = self.group.library()?.now();
        let Ok(point) = version.find(&When::Seq(seq))? else { return Ok(None) };
        let view = version.view(seq)?;
        let info = view.volumes().iter().find(|info| info.number == volume).cloned();
        Ok(info.map(|info| Served::new(self.group.name().as_str(), view, info, point, None)))
    }

    /// Whose images a directory holds; `None` if it holds none by time.
    fn images_of(&self, node: Node) -> Option<u8> {
        match node {
            Node::Root if self.volumes.len() == 1 => Some(0),
            Node::Volume(index) => Some(index),
            _ => None,
        }
    }

    /// The newest mark of each name, by name; one walk over what happened, however many there are.
    fn list_marks(&self, version: &Version, index: u8) -> Result<Vec<Listed>> {
        let Some(name) = self.volumes.get(usize::from(index)) else { return Ok(Vec::new()) };
        let mut volume: Option<VolumeNo> = None;
        let mut newest: HashMap<&str, (Seq, Option<VolumeNo>)> = HashMap::new();
        for event in version.timeline().events() {
            match &event.record.body {
                Body::VolumeAdd { volume: number, add, .. } if add.name == *name => _ = volume.get_or_insert(*number),
                Body::VolumeRemove { volume: number } if volume == Some(*number) => volume = None,
                Body::Mark(mark) => _ = newest.insert(&mark.name, (event.seq, volume)),
                _ => {}
            }
        }
        let mut marks: Vec<(&str, Seq, VolumeNo)> =
            newest.into_iter().filter_map(|(name, (seq, volume))| Some((name, seq, volume?))).collect();
        marks.sort_unstable_by_key(|&(_, seq, _)| std::cmp::Reverse(seq));
        marks.truncate(MARKS_MAX);
        marks.sort_unstable();
        let mut listed = Vec::new();
        for (mark, seq, volume) in marks {
            if let Some(name) = of_mark(mark)
                && version.find(&When::Seq(seq))?.is_ok()
            {
                listed.push(Listed { node: Node::Image(volume, seq), name });
            }
        }
        Ok(listed)
    }

    fn image(&self, index: u8, when: &When) -> Result<Option<Found>> {
        let version = self.group.library()?.now();
        let Ok(point) = version.find(when)? else { return Ok(None) };
        let volume = self.volume_at(&version, index, &point);
        Ok(volume.and_then(|volume| file(&version, &volume, point.seq, point.time)))
    }

    fn add(
        &self,
        version: &Arc<Version>,
        index: u8,
        when: &When,
        name: String,
        listed: &mut Vec<Listed>,
    ) -> Result<()> {
        let Ok(point) = version.find(when)? else { return Ok(()) };
        if let Some(volume) = self.volume_at(version, index, &point) {
            listed.push(Listed { node: Node::Image(volume.number, point.seq), name });
        }
        Ok(())
    }

    fn volume_at(&self, version: &Version, index: u8, point: &PointInfo) -> Option<VolumeInfo> {
        let name = self.volumes.get(usize::from(index))?;
        version.timeline().volumes(point.seq).into_iter().find(|volume| volume.name == *name)
    }

    fn clock(&self, now: WallTime) -> Zoned {
        let micros = i64::try_from(now.0).unwrap_or(i64::MAX);
        jiff::Timestamp::from_microsecond(micros).unwrap_or(jiff::Timestamp::MAX).to_zoned(self.zone.clone())
    }
}

fn to_find(when: &crate::when::When) -> When {
    match when {
        crate::when::When::Latest | crate::when::When::Now => When::Latest,
        crate::when::When::At(time) => When::At(*time),
        crate::when::When::Seq(seq) => When::Seq(*seq),
        crate::when::When::Mark(name) => When::Mark(name.to_string()),
    }
}

fn directory(node: Node) -> Found {
    Found { node, generation: 0, size: 0, data: 0, time: None }
}

fn file(version: &Version, volume: &VolumeInfo, seq: Seq, time: WallTime) -> Option<Found> {
    let node = Node::Image(volume.number, seq);
    node.number()?;
    let size = volume.size.bytes();
    Some(Found { node, generation: generation(version, seq), size, data: size.min(version.bytes()), time: Some(time) })
}

/// When the run of the agent began whose record is at `seq`: what took the place of one that was lost is of a later one.
fn generation(version: &Version, seq: Seq) -> u64 {
    let events = version.timeline().events();
    let begun = events.iter().rfind(|event| event.seq <= seq && matches!(event.record.body, Body::EpochBegin(_)));
    begun.map_or(1, |event| event.record.time.0)
}
