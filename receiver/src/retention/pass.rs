//! One look at one group: thin what is due, see what that made dead, clean what is worth it.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use journal::codec::KEPT_POINT_BYTES;
use journal::disk::{Disk, FileDisk, RESERVE_BYTES, Reserve};
use journal::error::ErrorKind;
use journal::limits::SEGMENT_BYTES;
use journal::log::{PointsFile, remove_replaced};
use journal::retention::{Kept, Policy};
use journal::store::{Cleaner, CompactPlan, Output};
use journal::types::{SegmentNo, Seq, WallTime};
use tracing::{info, warn};

use crate::error::{Code, Error, Result};
use crate::group::{Group, Groups};

/// Longest wait for the ingest per megabyte: it yields, it does not starve.
const YIELD_MAX: Duration = Duration::from_millis(50);
const YIELD_STEP: Duration = Duration::from_millis(2);
const YIELD_BYTES: u64 = 1 << 20;
/// A survey takes no more than this part of the time.
const SURVEY_PART: u32 = 20;
/// What part of a list has to go for a new one.
const FEW_PART: usize = 50;
/// What cleaning leaves of the reserve to others, for the moment until it has made room.
const LEFT_BYTES: u64 = 2 << 20;
/// The same where hardly anything is written: names, a manifest's entry, a segment without data.
const LITTLE_BYTES: u64 = 256 << 10;
/// How long it is waited for room, at first and at most; so much more of it ends the wait.
const WAIT: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(30));
const NEWS_BYTES: u64 = 1 << 20;

/// What is remembered of a group from one look to the next. Losing it costs a survey.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// What the last survey was of: X, and what was listed; and whether it found something to do.
    surveyed: Option<(Seq, usize, bool)>,
    /// No survey before.
    not_before: Option<Instant>,
    /// Segments of which something cannot be read: `verify` names it.
    unreadable: BTreeSet<SegmentNo>,
    /// There was no room.
    wait: Option<Wait>,
}

#[derive(Debug)]
struct Wait {
    until: Instant,
    length: Duration,
    /// What was free.
    free: Option<u64>,
}

impl Memory {
    /// Whether there was no room, and there is no more now: trying again would change nothing.
    pub(super) fn is_waiting(&self, reserve: &Reserve) -> bool {
        let Some(wait) = &self.wait else { return false };
        let is_news = match (reserve.free_bytes(), wait.free) {
            (Some(free), Some(before)) => free >= before.saturating_add(NEWS_BYTES),
            _ => false,
        };
        !is_news && !reserve.is_whole() && Instant::now() < wait.until
    }

    /// Remembers whether there was room.
    pub(super) fn note_room(&mut self, reserve: &Reserve, done: &Result<()>) {
        let before = self.wait.take().map(|wait| wait.length);
        if done.as_ref().is_err_and(|error| error.code() == Code::NO_SPACE) {
            let length = before.map_or(WAIT.0, |length| (length * 2).min(WAIT.1));
            self.wait = Some(Wait { until: Instant::now() + length, length, free: reserve.free_bytes() });
        }
    }

    pub(super) fn pass(
        &mut self,
        groups: &Groups,
        group: &Group,
        policy: &Policy,
        now: WallTime,
        is_stopping: &dyn Fn() -> bool,
    ) -> Result<()> {
        if group.damage().is_some() {
            return Ok(());
        }
        if group.library()?.now().has_lost_points() {
            let message =
                "which points are left where history was thinned cannot be read: nothing is thinned or cleaned";
            return Err(Error::new(Code::DAMAGED, message).hint(format!("backspool verify {}", group.name())));
        }
        let reserve = groups.catalog().dir().reserve();
        let disk = FileDisk::create(groups.catalog().group_dir(group.id()))?.with_reserve(Some(Arc::clone(reserve)));
        thin(group, &disk, reserve, policy, now)?;
        let mut pace = pace(group, is_stopping);
        self.clean(group, &disk, reserve, now, &mut pace)
    }

    /// Surveys, if there may be news, and does what is worth it.
    fn clean(
        &mut self,
        group: &Group,
        disk: &dyn Disk,
        reserve: &Reserve,
        now: WallTime,
        pace: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<()> {
        let version = group.library()?.now();
        let Some(kept) = version.timeline().kept().map(Arc::clone) else { return Ok(()) };
        let known =
            self.surveyed.is_some_and(|(upto, points, more)| (upto, points) == (kept.upto, kept.points.len()) && !more);
        let started = Instant::now();
        if known || self.not_before.is_some_and(|when| started < when) {
            return Ok(());
        }
        let cleaner = Cleaner::new(version);
        let Some(found) = cleaner.survey(SEGMENT_BYTES, pace)? else { return Ok(()) };
        self.not_before = Some(started + started.elapsed() * SURVEY_PART);
        group.note_cleaned(|cleaned| (cleaned.thinned_bytes, cleaned.dead_bytes) = (found.bytes, found.dead_bytes));
        let mut plans = found.plans;
        plans.retain(|plan| plan.numbers().all(|number| !self.unreadable.contains(&number)));
        // With little room what needs least goes first, and one by one: it makes room for the others.
        plans.sort_by_key(|plan| plan.kept_bytes);
        let has_room = |plan: &CompactPlan| has_room_for(reserve, plan.kept_bytes);
        let (mut plans, late): (Vec<_>, Vec<_>) = plans.into_iter().partition(has_room);
        let wait = late.len();
        let alone = late.iter().flat_map(CompactPlan::split);
        let mut alone: Vec<_> = alone.filter(|plan| plan.kept_bytes * 2 <= plan.bytes).collect();
        alone.sort_by_key(|plan| plan.kept_bytes);
        plans.extend(alone.into_iter().filter(has_room));
        let mut done = 0;
        let mut rest = plans.as_slice();
        while !rest.is_empty() {
            let (batch, later) = rest.split_at(Cleaner::batch(rest).min(rest.len()));
            rest = later;
            match self.carry_out(group, (disk, reserve), (&cleaner, batch, now), pace)? {
                ControlFlow::Continue(count) => done += count,
                ControlFlow::Break(()) => return Ok(()),
            }
        }
        self.surveyed = Some((kept.upto, kept.points.len(), done > 0 || wait > 0));
        if done == 0 && wait > 0 {
            return Err(no_room(group));
        }
        Ok(())
    }

    /// A batch of plans; how many were done.
    fn carry_out(
        &mut self,
        group: &Group,
        (disk, reserve): (&dyn Disk, &Reserve),
        (cleaner, batch, now): (&Cleaner, &[CompactPlan], WallTime),
        pace: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<ControlFlow<(), usize>> {
        let Some(examined) = cleaner.examine(batch, pace)? else { return Ok(ControlFlow::Break(())) };
        let mut done = 0;
        for one in &examined {
            // Others have written meanwhile.
            if !has_room_for(reserve, one.plan().kept_bytes) {
                return Err(no_room(group));
            }
            let output = Output { disk, number: group.take_number()?, salt: link::random(), now };
            let new = match cleaner.compact(one, output, pace) {
                Ok(Some(new)) => new,
                Ok(None) => return Ok(ControlFlow::Break(())),
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    warn!(group = %group.name(), %error, "left as it is: `backspool verify` names what cannot be read");
                    self.unreadable.extend(one.plan().numbers());
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let (number, written) = (new.number(), new.bytes());
            let old = group.replace(new).inspect_err(|error| tidy(disk, error, &number.file_name()))?;
            remove_replaced(disk, &old)?;
            done += 1;
            let freed = one.plan().bytes.saturating_sub(written);
            group.note_cleaned(|cleaned| {
                cleaned.rewritten_bytes += written;
                cleaned.freed_bytes += freed;
                cleaned.dead_bytes = cleaned.dead_bytes.saturating_sub(freed);
                cleaned.thinned_bytes = cleaned.thinned_bytes.saturating_sub(freed);
            });
            info!(group = %group.name(), segments = old.len(), written, freed, "cleaned");
        }
        Ok(ControlFlow::Continue(done))
    }
}

/// Lets points go that are not kept any more. What is pinned meanwhile stays: the list is swapped while nobody can pin, and written before.
fn thin(group: &Group, disk: &FileDisk, reserve: &Reserve, policy: &Policy, now: WallTime) -> Result<()> {
    loop {
        let version = group.library()?.now();
        let pins = group.pins().all(&version);
        let old = version.timeline().kept().map(Arc::clone);
        let Some(kept) = Cleaner::new(version).thinning(policy, now, &pins)? else { return Ok(()) };
        // A minute that expires is not worth a list of its own.
        let known = old.filter(|old| old.upto == kept.upto).map_or(0, |old| old.points.len());
        let gone = known.saturating_sub(kept.points.len());
        if known > 0 && gone < known.div_ceil(FEW_PART) {
            return Ok(());
        }
        let Kept { upto, points, .. } = &kept;
        let (upto, count) = (*upto, points.len());
        // A number is taken for what can be written.
        if !has_room_for(reserve, u64::try_from(count.saturating_mul(KEPT_POINT_BYTES)).unwrap_or(u64::MAX)) {
            return Err(no_room(group));
        }
        let list = PointsFile::write(disk, group.id(), group.take_number()?, kept)?;
        let name = list.number().points_name();
        let pinned = group.pins();
        // What has begun meanwhile counts. An image may be held at a place that the journal has lost: that is none to be kept.
        let newest = group.library()?.now();
        let is_missed = |pin: &Seq| newest.timeline().is_point(*pin) && !list.kept().offers(*pin);
        if pinned.all(&newest).iter().any(is_missed) {
            drop(pinned);
            disk.remove(&name)?;
            continue;
        }
        group.thin(list).inspect_err(|error| tidy(disk, error, &name))?;
        info!(group = %group.name(), %upto, points = count, "history is thinned");
        return Ok(());
    }
}

/// Whether so much can be written, with the reserve if it has to be: more than that is freed right after.
fn has_room_for(reserve: &Reserve, bytes: u64) -> bool {
    let kept = if reserve.is_whole() { RESERVE_BYTES } else { 0 };
    let left = bytes.saturating_add(LITTLE_BYTES).min(LEFT_BYTES);
    reserve.free_bytes().is_none_or(|free| free.saturating_add(kept) >= bytes.saturating_add(left))
}

fn no_room(group: &Group) -> Error {
    Error::new(Code::NO_SPACE, format!("no room to thin or clean the store of {}: it waits", group.name()))
        .hint("free some space: no history that is promised is given up for it")
}

/// Removes what was refused: a number is given out once, whatever the journal was opened for meanwhile. After any other error it may be named already: the journal finds out when it is opened anew.
fn tidy(disk: &dyn Disk, error: &Error, name: &str) {
    if error.code() == Code::USAGE {
        // Should that fail, it is a stray.
        let _ = disk.remove(name);
    }
}

/// Waits a little while frames wait to be written, for the disk is theirs first; stops when the receiver does.
fn pace<'a>(group: &'a Group, is_stopping: &'a dyn Fn() -> bool) -> impl FnMut(u64) -> ControlFlow<()> + 'a {
    let mut since = 0;
    move |bytes| {
        since += bytes.max(YIELD_BYTES / 16);
        if since >= YIELD_BYTES {
            since = 0;
            let started = Instant::now();
            while group.is_ingesting() && started.elapsed() < YIELD_MAX && !is_stopping() {
                std::thread::sleep(YIELD_STEP);
            }
        }
        if is_stopping() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}
