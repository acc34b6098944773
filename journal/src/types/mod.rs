//! Newtypes for every number that has a unit.

mod block;
mod changed;
mod hash;
mod ident;
mod seq;
mod time;

pub use block::{Extent, SECTOR_BYTES, Sector, Sectors, VolumeNo};
pub use changed::{CHANGED_EXTENT_SECTORS, Changed, ExtentRun};
pub use hash::{ChainHead, Hash};
pub use ident::{BootId, EpochId, GroupId, KeyId, ResyncId, Salt, SegmentNo, SessionId, VolumeUuid};
pub use seq::{Durable, FrameNo, Head, Seq};
pub use time::{Micros, WallTime};
