//! Inodes: what each is follows from its number, so that none has to be remembered. Pure.
//!
//! ```text
//!   1 root   2 + 2 i directory of volume i   3 + 2 i its marks   1024 + 256 · Seq + number   a volume as of that place
//! ```
//!
//! **Invariant:** an image's number never means another volume or another place, whatever it was called when it was found.

use journal::types::{Seq, VolumeNo};

/// What is in a mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Node {
    /// The directory that was mounted on.
    Root,
    /// The directory of the volume with this index.
    Volume(u8),
    /// The marks of the group, for the volume with this index.
    Marks(u8),
    /// A volume as of a place in the order.
    Image(VolumeNo, Seq),
}

/// From here on images.
const IMAGES: u64 = 1024;
/// Numbers of volumes of a group.
const VOLUMES: u64 = journal::limits::GROUP_VOLUMES as u64;

impl Node {
    /// Its number; `None` for what cannot be numbered: a place beyond 2^55.
    pub(super) fn number(self) -> Option<u64> {
        match self {
            Self::Root => Some(1),
            Self::Volume(index) => Some(2 + 2 * u64::from(index)),
            Self::Marks(index) => Some(3 + 2 * u64::from(index)),
            Self::Image(volume, seq) => {
                let volume = Some(u64::from(volume.0)).filter(|&volume| volume < VOLUMES)?;
                seq.number().checked_mul(VOLUMES)?.checked_add(volume)?.checked_add(IMAGES)
            }
        }
    }

    /// What has this number.
    pub(super) fn of(number: u64) -> Option<Self> {
        let index = |number: u64| u8::try_from((number - 2) / 2).ok();
        match number {
            0 => None,
            1 => Some(Self::Root),
            2..IMAGES if number.is_multiple_of(2) => index(number).map(Self::Volume),
            2..IMAGES => index(number).map(Self::Marks),
            _ => {
                let volume = u32::try_from((number - IMAGES) % VOLUMES).ok()?;
                Some(Self::Image(VolumeNo(volume), Seq::new((number - IMAGES) / VOLUMES)?))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_means_one_thing() {
        let seq = |number| Seq::new(number).unwrap();
        let mut nodes = vec![Node::Root];
        for index in [0, 1, 7, 254, 255] {
            nodes.extend([Node::Volume(index), Node::Marks(index)]);
        }
        for number in [1, 2, 3, 4, 256, 1 << 32, (1 << 55) + 1] {
            nodes.extend([0, 1, 255].map(|volume| Node::Image(VolumeNo(volume), seq(number))));
        }
        let numbers: std::collections::BTreeSet<u64> = nodes.iter().map(|node| node.number().unwrap()).collect();
        assert_eq!(numbers.len(), nodes.len());
        for node in nodes {
            assert_eq!(Node::of(node.number().unwrap()), Some(node));
        }
        assert_eq!(Node::Image(VolumeNo(256), seq(1)).number(), None);
        assert_eq!(Node::Image(VolumeNo(0), seq(u64::MAX)).number(), None);
        assert_eq!((Node::of(0), Node::of(1024 + 255)), (None, None));
    }
}
