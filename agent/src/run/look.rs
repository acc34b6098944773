//! Looks, once a second, whether the sources still are what they were: nobody tells when a file is cut, grows or is replaced.
//!
//! | a source | then |
//! |---|---|
//! | grew | what is in the new part is recorded, then the size; clients that connect from then on see it |
//! | was cut | a gap: clients are refused what is beyond the end, and everything is compared |
//! | has lost its name, or another has it | that is said; the open one goes on being captured |

use std::sync::Arc;
use std::time::Duration;

use journal::codec::{Body, Gap, GapReason};
use journal::disk::AlignedBuf;
use journal::types::{Extent, Sectors};
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval};

use super::group::{Group, Volume};
use crate::Result;
use crate::capture::Capture;
use crate::source::Storage;

const EVERY: Duration = Duration::from_secs(1);
/// Read at once of a part that is new.
const PIECE_BYTES: u64 = 1 << 20;
/// How long it rests while the spool is half full.
const REST: Duration = Duration::from_millis(100);

/// Until the agent ends.
pub(super) async fn run(groups: Vec<Arc<Group>>) {
    let mut due = interval(EVERY);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        due.tick().await;
        let groups = groups.clone();
        // A panic there was reported there.
        let _ = spawn_blocking(move || groups.iter().for_each(|group| group.look_at_sources())).await;
    }
}

impl Group {
    fn look_at_sources(&self) {
        let mut concern = None;
        for volume in self.volumes() {
            if let Err(error) = self.look_at(volume) {
                tracing::error!(volume = volume.name, %error, "the source cannot be looked at");
            }
            concern = concern.or_else(|| volume.source.displaced());
        }
        self.set_concern(concern);
    }

    fn look_at(&self, volume: &Volume) -> Result<()> {
        let (now, known) = (volume.source.measure()?, volume.source.size());
        if now < known {
            return self.was_cut(volume, now);
        }
        // What is not a whole block cannot be served.
        let block = u64::from(volume.source.block_bytes());
        match Sectors::of_bytes(now.bytes() / block * block) {
            Some(new) if new > known => self.grew(volume, new),
            _ => Ok(()),
        }
    }

    /// When it was cut, and what else was done to it, nobody knows: no points until all of it was compared.
    fn was_cut(&self, volume: &Volume, new: Sectors) -> Result<()> {
        let was = volume.source.size();
        let text = format!("{} was cut from {} to {} bytes by somebody else", volume.name, was.bytes(), new.bytes());
        tracing::error!(volume = volume.name, text, "no points until all is compared; older points keep its size");
        let run = self.read();
        volume.source.set_size(new);
        self.state().set_size(volume.number, new)?;
        let gap = run.capture.record_at_once(Body::Gap(Gap { reason: GapReason::SourceError, text }));
        // While changes are only tracked a gap is open already.
        if let Some(gap) = gap.or_else(|| run.capture.last_seq()) {
            self.begin_anew_after(gap);
        }
        Ok(())
    }

    /// The new part is not served yet: only what was in it before has to be recorded, and no point shows half of it, for none has
    /// that size.
    fn grew(&self, volume: &Volume, new: Sectors) -> Result<()> {
        let was = volume.source.size();
        let capture = Arc::clone(&self.read().capture);
        self.record_part(volume, &capture, was.bytes()..new.bytes())?;
        let run = self.read();
        if !Arc::ptr_eq(&run.capture, &capture) {
            // A run that began meanwhile knows nothing of it: the next look does it again.
            return Ok(());
        }
        // While changes are only tracked it cannot be said: the next look does it again.
        if capture.record_at_once(Body::Resize { volume: volume.number, size: new }).is_none() {
            return Ok(());
        }
        self.state().set_size(volume.number, new)?;
        volume.source.set_size(new);
        tracing::warn!(volume = volume.name, was = was.bytes(), now = new.bytes(), "the source has grown");
        Ok(())
    }

    fn record_part(&self, volume: &Volume, capture: &Capture, part: std::ops::Range<u64>) -> Result<()> {
        let block = u64::from(volume.source.block_bytes());
        let mut at = part.start;
        while let Some(data) = volume.source.next_data(at)?.filter(|data| data.start < part.end) {
            let start = data.start.max(at);
            // Reads are of whole blocks; what lies before the part is known.
            let from = start / block * block;
            let to = (from + PIECE_BYTES).min(data.end.next_multiple_of(block)).min(part.end);
            let mut found = AlignedBuf::new(usize::try_from(to - from).unwrap_or(usize::MAX))?;
            volume.source.read_at(from, &mut found)?;
            let new = &found[usize::try_from(start - from).unwrap_or(0)..];
            self.wait_for_room();
            if let Some(extent) = Extent::of_bytes(start, to - start).filter(|_| new.iter().any(|byte| *byte != 0)) {
                capture.record_write(volume.number, extent, new);
            }
            at = to;
        }
        Ok(())
    }

    /// A part may be larger than the spool: half of that is for the host.
    fn wait_for_room(&self) {
        while !self.is_stopping() && self.spool_status().is_some_and(|spool| spool.bytes > spool.limit_bytes / 2) {
            std::thread::sleep(REST);
        }
    }
}
