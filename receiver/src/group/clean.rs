//! What thinning and cleaning need of a group: its writer's help, and the points that something stands on.

use std::collections::BTreeSet;
use std::sync::{Arc, MutexGuard, PoisonError};

use journal::log::{Compacted, PointsFile};
use journal::store::{PointInfo, Version};
use journal::types::{SegmentNo, Seq};
use tokio::sync::oneshot;

use super::Group;
use super::ingest::Command;
use crate::error::{Code, Error, Result};
use crate::retention::Cleaned;

/// Points that something stands on. Whoever holds the lock knows that no list of points is swapped meanwhile.
#[derive(Debug, Default)]
pub(crate) struct Pins {
    /// The replica image's: where it is, where it goes, where it can go back to.
    image: BTreeSet<Seq>,
    /// Where the sources are to go, before the order says so.
    source: Option<Seq>,
}

/// Pins the point that the sources are to go to, until it is dropped.
#[derive(Debug)]
pub(crate) struct Destination(Group);

impl Drop for Destination {
    fn drop(&mut self) {
        self.0.pins().source = None;
    }
}

impl Pins {
    /// All of them, and what the order as it is in `version` stands on: a rollback of the sources that is not over goes on after a restart, too.
    pub(crate) fn all(&self, version: &Version) -> Vec<Seq> {
        let unfinished = version.timeline().unfinished().map(|it| [Some(it.target), it.before]);
        let places = unfinished.into_iter().flatten().flatten();
        self.image
            .iter()
            .copied()
            .chain(self.source)
            .chain(places.filter(|&seq| version.timeline().is_point(seq)))
            .collect()
    }
}

impl Group {
    /// The points that something stands on, as long as the guard lives.
    pub(crate) fn pins(&self) -> MutexGuard<'_, Pins> {
        // Each change is one assignment or insertion.
        self.shared.pins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the image stands on from now on.
    pub(crate) fn pin_image(&self, places: impl Iterator<Item = Seq>) {
        self.pins().image = places.collect();
    }

    /// A version of the journal, and its newest point, which the image may go to: it is pinned, besides what was.
    pub(crate) fn pin_newest(&self) -> Result<Arc<Version>> {
        let mut pins = self.pins();
        let version = self.library()?.now();
        pins.image.extend(version.newest_place());
        Ok(version)
    }

    /// The same for a point that was chosen.
    pub(crate) fn pin_point(&self, point: &PointInfo) -> Result<Arc<Version>> {
        let mut pins = self.pins();
        let version = self.still_offers(point)?;
        pins.image.insert(point.seq);
        Ok(version)
    }

    /// Pins a point that the sources are to go to. For who has the group's turn.
    pub(crate) fn pin_destination(&self, point: &PointInfo) -> Result<Destination> {
        let mut pins = self.pins();
        self.still_offers(point)?;
        pins.source = Some(point.seq);
        Ok(Destination(self.clone()))
    }

    fn still_offers(&self, point: &PointInfo) -> Result<Arc<Version>> {
        let version = self.library()?.now();
        if !version.timeline().is_point(point.seq) {
            let message = format!("{} of {} is no point any more: retention let it go", point.seq, self.name());
            return Err(Error::new(Code::NOT_COVERED, message).hint(format!("backspool points {}", self.name())));
        }
        Ok(version)
    }

    /// A number for a file beside the journal. As what follows, not for a thread that must not wait.
    pub(crate) fn take_number(&self) -> Result<SegmentNo> {
        self.ask(|reply| Command::TakeNumber { reply })
    }

    /// Lets a list of points count.
    pub(crate) fn thin(&self, list: PointsFile) -> Result<()> {
        self.ask(|reply| Command::Thin { list, reply })
    }

    /// Lets a compacted segment stand for others; the names of files to be removed.
    pub(crate) fn replace(&self, new: Compacted) -> Result<Vec<String>> {
        self.ask(|reply| Command::Replace { new, reply })
    }

    /// Notes what thinning and cleaning came to, for the status.
    pub(crate) fn note_cleaned(&self, change: impl FnOnce(&mut Cleaned)) {
        change(&mut self.state().cleaned);
    }

    fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<journal::error::Result<T>>) -> Command) -> Result<T> {
        let stopping = || Error::new(Code::FAILED, "the receiver is stopping");
        let queue = self.queue().clone().ok_or_else(stopping)?;
        let (reply, answer) = oneshot::channel();
        queue.commands.blocking_send(command(reply)).map_err(|_| stopping())?;
        Ok(answer.blocking_recv().map_err(|_| stopping())??)
    }
}
