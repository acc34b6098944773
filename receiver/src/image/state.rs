//! What is remembered of a group's image: where it is, where it was before, what is under way. One small file, replaced as a whole.

use journal::disk::{Disk, read_file, replace_file};
use journal::types::{GroupId, Seq, VolumeUuid};
use serde::{Deserialize, Serialize};

use super::file::Seen;
use crate::checked::Format;
use crate::error::Result;

const FORMAT: Format = Format { name: "backspool-image", version: 1 };
const STATE_BYTES: u64 = 1024 * 1024;
/// Rollbacks that can be taken back. Older ones are forgotten first.
const POSES: usize = 64;

/// Whether the image follows the newest point, or stands still.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Pose {
    /// It follows.
    Following,
    /// It is held at this point.
    Held(u64),
}

/// A move that was decided. What the files hold is unknown within it, until it is done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Intent {
    /// Where the files go.
    pub(crate) to: u64,
    /// The stack afterwards.
    pub(crate) poses: Vec<Pose>,
}

/// One file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct VolumeState {
    /// Which volume, in hexadecimal: also the file's name.
    pub(crate) uuid: String,
    /// Bytes from the start that hold what they should; the rest is written anew, whatever it holds.
    pub(crate) good_bytes: u64,
    /// What the file looked like when it came to rest; `None` while it is being written.
    pub(crate) seen: Option<Seen>,
}

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ImageState {
    /// What the files hold, all of it durable; while following, parts of them may hold something newer.
    pub(crate) at: Option<u64>,
    /// The last is what holds; the ones before it are what `undo` goes back to. Empty: it follows.
    pub(crate) poses: Vec<Pose>,
    /// A rollback or undo that was begun.
    pub(crate) intent: Option<Intent>,
    /// The files.
    pub(crate) volumes: Vec<VolumeState>,
}

impl ImageState {
    /// The state of a group's image; an empty one if there is none.
    pub(crate) fn load(disk: &dyn Disk, group: GroupId) -> Result<Self> {
        let name = file_name(group);
        match read_file(disk, &name, STATE_BYTES)? {
            Some(file) => FORMAT.decode(&file).map_err(|error| error.context(format!("the image's state {name}"))),
            None => Ok(Self::default()),
        }
    }

    /// Makes it durable.
    pub(crate) fn save(&self, disk: &dyn Disk, group: GroupId) -> Result<()> {
        Ok(replace_file(disk, &file_name(group), &FORMAT.encode(self))?)
    }

    /// Where the files are.
    pub(crate) fn at(&self) -> Option<Seq> {
        self.at.and_then(Seq::new)
    }

    /// Every place that the files are at, go to or can go back to.
    pub(crate) fn places(&self) -> impl Iterator<Item = Seq> + '_ {
        let held = self.poses.iter().chain(self.intent.iter().flat_map(|intent| &intent.poses));
        let held = held.filter_map(|pose| match pose {
            Pose::Held(place) => Some(*place),
            Pose::Following => None,
        });
        let to = self.intent.as_ref().map(|intent| intent.to);
        self.at.into_iter().chain(to).chain(held).filter_map(Seq::new)
    }

    /// What holds.
    pub(crate) fn pose(&self) -> Pose {
        self.poses.last().copied().unwrap_or(Pose::Following)
    }

    /// The stack after going to `pose`.
    pub(crate) fn pushed(&self, pose: Pose) -> Vec<Pose> {
        let mut poses = self.poses.clone();
        if poses.is_empty() {
            poses.push(Pose::Following);
        }
        poses.push(pose);
        if poses.len() > POSES {
            poses.remove(0);
        }
        poses
    }

    /// The stack after taking the last one back; `None` when nothing is left to take back.
    pub(crate) fn popped(&self) -> Option<Vec<Pose>> {
        let (_, rest) = self.poses.split_last()?;
        (!rest.is_empty()).then(|| rest.to_vec())
    }

    /// The file of a volume.
    pub(crate) fn volume(&self, uuid: VolumeUuid) -> Option<&VolumeState> {
        let name = uuid.to_string();
        self.volumes.iter().find(|volume| volume.uuid == name)
    }

    /// The file of a volume, added if it is new: nothing of it is good yet.
    pub(crate) fn volume_mut(&mut self, uuid: VolumeUuid) -> &mut VolumeState {
        let name = uuid.to_string();
        let at = self.volumes.iter().position(|volume| volume.uuid == name).unwrap_or_else(|| {
            self.volumes.push(VolumeState { uuid: name, good_bytes: 0, seen: None });
            self.volumes.len() - 1
        });
        &mut self.volumes[at]
    }
}

fn file_name(group: GroupId) -> String {
    format!("{group}.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stack_goes_back_the_way_it_came() {
        let mut state = ImageState::default();
        assert_eq!((state.pose(), state.popped()), (Pose::Following, None));
        for pose in [Pose::Held(5), Pose::Held(9), Pose::Following] {
            state.poses = state.pushed(pose);
        }
        for expect in [Pose::Following, Pose::Held(9), Pose::Held(5)] {
            assert_eq!(state.pose(), expect);
            state.poses = state.popped().unwrap();
        }
        assert_eq!((state.pose(), state.popped()), (Pose::Following, None), "the first rollback is taken back");
        for seq in 0..200 {
            state.poses = state.pushed(Pose::Held(seq));
        }
        assert_eq!((state.poses.len(), state.pose()), (POSES, Pose::Held(199)));
    }

    #[test]
    fn it_survives_its_file() {
        let disk = journal::disk::SimDisk::new(1);
        let group = GroupId([3; 16]);
        assert_eq!(ImageState::load(&disk, group).unwrap(), ImageState::default());
        let mut state = ImageState { at: Some(7), ..ImageState::default() };
        state.poses = state.pushed(Pose::Held(7));
        state.intent = Some(Intent { to: 3, poses: vec![Pose::Following] });
        state.volume_mut(VolumeUuid([1; 16])).good_bytes = 512;
        state.save(&disk, group).unwrap();
        assert_eq!(ImageState::load(&disk, group).unwrap(), state);
        disk.flip_bit(&file_name(group), 8 * 200).unwrap();
        assert!(ImageState::load(&disk, group).is_err());
    }
}
