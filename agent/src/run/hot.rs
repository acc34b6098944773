//! The hot-extent logs of a group: what the last run left of each volume, the logs of this one, and their upkeep.
//!
//! A device has none: it keeps no time of its last change, so that nothing would tell that only the tap wrote to it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use journal::disk::{Disk, FileDisk, Reserve};
use journal::types::{BootId, EpochId, GroupId, Seq, VolumeNo, VolumeUuid, WallTime};
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval};

use super::group::{Group, Run, Stage};
use crate::Result;
use crate::capture::{CaptureState, Clock, SystemClock};
use crate::hot::{Hot, Left, Now, Place, Subject, Testimony, left_by};
use crate::source::{Source, Storage};
use crate::state::GroupState;

/// How often the logs are tended: a note is good for a few times as long.
const EVERY: Duration = Duration::from_secs(1);

/// The logs of one run, by volume.
pub(super) type HotLogs = BTreeMap<VolumeNo, Arc<Hot>>;

/// The directory of a group's logs.
#[derive(Debug)]
pub(super) struct Logs {
    disk: Arc<dyn Disk>,
    boot: BootId,
}

impl Logs {
    /// Beside the spool.
    pub(super) fn beside(spool: &Path, boot: BootId, reserve: &Arc<Reserve>) -> Result<Self> {
        let disk = FileDisk::create(spool.with_file_name("hot"))?.with_reserve(Some(Arc::clone(reserve)));
        Ok(Self { disk: Arc::new(disk), boot })
    }

    /// Removes the logs of volumes that are none any more.
    pub(super) fn keep(&self, volumes: &[VolumeUuid]) -> Result<()> {
        for name in self.disk.list()? {
            let is_kept = volumes.iter().any(|volume| name.starts_with(&volume.to_string()));
            if !is_kept && name.ends_with(".hot") {
                self.disk.remove(&name)?;
            }
        }
        Ok(())
    }

    /// What the last run of the group, which ended uncleanly, left of a volume to be compared.
    pub(super) fn left(&self, state: &GroupState, volume: VolumeUuid, source: &Source) -> Result<Testimony> {
        let all = |why: &str| Testimony { left: Left::All { why: why.to_owned() }, noted: None };
        if source.is_device() {
            return Ok(all("nothing proves that nobody else wrote to a device"));
        }
        let Some(last) = state.epochs.last() else { return Ok(all("no run of it is remembered")) };
        let (subject, changed) = subject(state.id, last.id, volume, source)?;
        let (wall, boottime) = (SystemClock.wall(), SystemClock.boottime());
        Ok(left_by(&*self.disk, &Now { subject, boot: self.boot, changed, wall, boottime }))
    }

    /// Begins the log of a run; `None`: the volume has none.
    pub(super) fn begin(
        &self,
        group: GroupId,
        epoch: EpochId,
        volume: VolumeUuid,
        source: &Source,
        left: &Left,
    ) -> Result<Option<Arc<Hot>>> {
        if source.is_device() {
            return Ok(None);
        }
        let (subject, changed) = subject(group, epoch, volume, source)?;
        let (disk, boot) = (Arc::clone(&self.disk), self.boot);
        let place = Place { disk, boot, clock: Arc::new(SystemClock), entropy: link::random };
        Hot::begin(place, subject, left, changed).map(Arc::new).map(Some)
    }
}

/// What a log of this volume is about, and when its source was last changed.
fn subject(group: GroupId, epoch: EpochId, volume: VolumeUuid, source: &Source) -> Result<(Subject, WallTime)> {
    let meta = fs::metadata(source.handle_path())?;
    let subject = Subject { group, volume, epoch, size: source.size(), dev: meta.dev(), inode: meta.ino() };
    Ok((subject, changed(&meta)))
}

fn changed(meta: &fs::Metadata) -> WallTime {
    let part = |value: i64| u64::try_from(value).unwrap_or(0);
    WallTime(part(meta.ctime()) * 1_000_000 + part(meta.ctime_nsec()) / 1000)
}

/// Tends all logs, until the agent ends.
pub(super) async fn tend(groups: Vec<Arc<Group>>) {
    let mut due = interval(EVERY);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        due.tick().await;
        let groups = groups.clone();
        // A panic there was reported there; without notes the logs expire.
        let _ = spawn_blocking(move || groups.iter().for_each(|group| group.tend_hot())).await;
    }
}

impl Group {
    fn tend_hot(&self) {
        for volume in self.volumes() {
            let (hot, epoch) = {
                let run = self.read();
                (run.hot.get(&volume.number).cloned(), run.epoch)
            };
            let Some(hot) = hot else { continue };
            let Ok(meta) = fs::metadata(volume.source.handle_path()) else { continue };
            // What was acknowledged to an earlier run says nothing of this one; and only what is remembered is missed if the receiver
            // loses it.
            let durable = self.state().state().durable.filter(|head| head.epoch == epoch).map(|head| head.seq);
            let flush = || volume.source.sync_aside().is_ok() && !volume.source.flush_failed();
            let captured = || captured(&self.read(), epoch).filter(|_| !self.is_stopping() && !self.is_disturbed());
            hot.tend(changed(&meta), flush, captured, durable);
        }
    }
}

/// Where the order of this run stands, if everything that is on the sources is in it or in a base that it has sealed.
fn captured(run: &Run, epoch: EpochId) -> Option<Seq> {
    let is_whole = matches!(run.stage, Stage::Sealed) && run.capture.state() == CaptureState::Running;
    (run.epoch == epoch && is_whole).then(|| run.capture.last_seq()).flatten()
}
