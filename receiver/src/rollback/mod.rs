//! Taking the replica image to another point and back: nothing of the journal changes, it goes on receiving meanwhile. And taking the sources
//! there, through their agent: that is writes in the order like any others.
//!
//! `live` decides about the sources, `drive` carries it out, `between` says which blocks, `plan` which blocks of two states differ.

mod between;
mod drive;
pub mod live;
pub mod plan;

use std::sync::Arc;

use journal::store::{PointInfo, Version, When};

use crate::error::{Code, Error, Result};
use crate::image::{ImageState, Pose};

pub(crate) use drive::go_on;
pub use drive::{Asked, TakenBack, Told, take_back};

/// Where the image is to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Goal {
    /// To this point, and stay there.
    To(PointInfo),
    /// To the newest point, and follow from there on.
    Follow,
    /// To where it was before the last rollback.
    Undo,
}

/// What a rollback did, or would do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RolledBack {
    /// Where the image is.
    pub point: PointInfo,
    /// Whether it stays there.
    pub held: bool,
    /// Bytes that differed.
    pub bytes: u64,
    /// Blocks that differed.
    pub blocks: u64,
}

/// The point to go to, and the stack once there.
pub(crate) fn decide(state: &ImageState, version: &Arc<Version>, goal: Goal) -> Result<(PointInfo, Vec<Pose>)> {
    match goal {
        Goal::To(point) => {
            let pose = Pose::Held(point.seq.number());
            let poses = if state.pose() == pose { state.poses.clone() } else { state.pushed(pose) };
            Ok((point, poses))
        }
        Goal::Follow => {
            let follows = state.pose() == Pose::Following;
            let poses = if follows { state.poses.clone() } else { state.pushed(Pose::Following) };
            Ok((find(version, &When::Latest)?, poses))
        }
        Goal::Undo => {
            let poses =
                state.popped().ok_or_else(|| Error::new(Code::NOTHING_TO_UNDO, "there is no rollback to take back"))?;
            let when = match poses.last() {
                Some(Pose::Held(seq)) => journal::types::Seq::new(*seq).map(When::Seq).unwrap_or(When::Latest),
                Some(Pose::Following) | None => When::Latest,
            };
            Ok((find(version, &when)?, poses))
        }
    }
}

fn find(version: &Arc<Version>, when: &When) -> Result<PointInfo> {
    version.find(when)?.map_err(|_| Error::new(Code::NOT_COVERED, "there is no point to go to"))
}
