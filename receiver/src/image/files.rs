//! The files of a group's image, and how they get from one point to another.
//!
//! Each move can be done again from the start after a crash at any place:
//!
//! 1. a rollback notes its intent, durably; following needs none, for the order only grows
//! 2. what differs is written, from the target's view
//! 3. fdatasync of every file
//! 4. the state says that the files are there, durably
//!
//! Between 1 and 4 the files hold parts of both, and only within what the journal touched between the two.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use journal::disk::{Disk, FileDisk, Reserve};
use journal::store::{Version, View, VolumeInfo, When};
use journal::types::{Extent, GroupId, SECTOR_BYTES, Sector, Sectors, Seq, VolumeUuid};
use tracing::warn;

use super::file::{ImageFile, Seen};
use super::state::{ImageState, Intent, Pose};
use crate::error::{Code, Error, Result};
use crate::rollback::plan::{Plan, candidates, differing};

/// Sectors looked at together: bounds the memory for lists of extents. 1 GiB.
const WINDOW_SECTORS: u64 = 2 * 1024 * 1024;
/// Bytes written together.
const PIECE_BYTES: u64 = 1024 * 1024;
const PIECE_SECTORS: u64 = PIECE_BYTES / SECTOR_BYTES;
/// A run of zeroes at least this long, and aligned to it, becomes a hole.
const HOLE_BYTES: usize = 64 * 1024;

/// Hears of bytes dealt with; may wait, or stop it.
pub(crate) type Pace<'a> = &'a mut dyn FnMut(u64) -> ControlFlow<()>;

/// The image files of a group. One owner.
#[derive(Debug)]
pub(crate) struct Files {
    dir: PathBuf,
    disk: FileDisk,
    group: GroupId,
    state: ImageState,
    /// The state as it is on disk.
    saved: ImageState,
    open: HashMap<VolumeUuid, ImageFile>,
    /// Whether the files hold exactly what the state says. Not so after a start or an error, until settled.
    settled: bool,
}

/// What a move would write.
#[derive(Debug)]
pub(crate) struct Move {
    /// Where to.
    pub(crate) view: View,
    /// What of each volume.
    pub(crate) volumes: Vec<(VolumeInfo, Plan)>,
}

impl Move {
    /// Bytes to write.
    pub(crate) fn bytes(&self) -> u64 {
        self.volumes.iter().map(|(_, plan)| plan.bytes()).sum()
    }

    /// Blocks to write.
    pub(crate) fn blocks(&self) -> u64 {
        self.volumes.iter().map(|(_, plan)| plan.blocks()).sum()
    }
}

impl Files {
    /// Reads the state; held files are locked and left alone.
    pub(crate) fn load(dir: &Path, group: GroupId, reserve: Option<Arc<Reserve>>) -> Result<Self> {
        let disk = FileDisk::create(dir)?.with_reserve(reserve);
        let state = ImageState::load(&disk, group)?;
        let mut files = Self {
            dir: dir.to_owned(),
            disk,
            group,
            saved: state.clone(),
            state,
            open: HashMap::new(),
            settled: false,
        };
        if matches!(files.state.pose(), Pose::Held(_)) && files.state.intent.is_none() {
            for volume in files.state.volumes.clone() {
                let Some(uuid) = VolumeUuid::parse(&volume.uuid) else { continue };
                if let Some(held) = ImageFile::hold(&files.path(uuid))? {
                    files.open.insert(uuid, held);
                }
            }
            files.settled = true;
        }
        Ok(files)
    }

    /// What is remembered.
    pub(crate) fn state(&self) -> &ImageState {
        &self.state
    }

    /// Where a volume's image is.
    pub(crate) fn path(&self, uuid: VolumeUuid) -> PathBuf {
        self.dir.join(format!("{uuid}.img"))
    }

    /// Ends what a crash or an error interrupted, so that the files hold what the state says.
    pub(crate) fn settle(&mut self, version: &Arc<Version>, pace: Pace<'_>) -> Result<()> {
        self.forget_lost(version)?;
        if self.settled {
            return Ok(());
        }
        if let Some(intent) = self.state.intent.clone() {
            warn!(group = %self.group, to = intent.to, "a rollback was interrupted and is finished now");
            let to = Seq::new(intent.to).ok_or_else(|| Error::new(Code::DAMAGED, "an intent to go nowhere"))?;
            let moves = self.plan(version, to, pace)?;
            return self.carry_out(&moves, intent.poses, pace);
        }
        if self.state.pose() == Pose::Following { self.follow(version, pace).map(drop) } else { Ok(()) }
    }

    /// A journal that ends before a place where the files were is not the one that took them there: its end was set aside, or it is an older
    /// copy, and the same numbers may come to mean something else. What the files hold is unknown then, but they stay where they are. So it is with
    /// places that retention has let go while no image was kept.
    fn forget_lost(&mut self, version: &Version) -> Result<()> {
        let head = Seq::encode(version.head().map(|head| head.seq));
        let is_gone =
            |place| version.timeline().kept().zip(Seq::new(place)).is_some_and(|(kept, seq)| !kept.offers(seq));
        let is_beyond = |place: u64| place > head || is_gone(place);
        let state = &mut self.state;
        let standing = state.poses.pop();
        state.poses.retain(|pose| !matches!(pose, Pose::Held(place) if is_beyond(*place)));
        state.poses.extend(standing);
        let intent = state.intent.take_if(|intent| is_beyond(intent.to));
        if intent.is_some() || state.at.is_some_and(is_beyond) {
            warn!(group = %self.group, "the journal does not know the place that the image is at: all of it will be compared");
            state.at = None;
            self.settled = matches!(state.pose(), Pose::Held(_)) && state.intent.is_none();
        }
        self.save()
    }

    /// Brings the files to the newest point; how many bytes were written. Nothing while there is no point.
    pub(crate) fn follow(&mut self, version: &Arc<Version>, pace: Pace<'_>) -> Result<u64> {
        let Ok(newest) = version.find(&When::Latest)? else { return Ok(0) };
        self.notice_replaced()?;
        if self.settled && self.state.at() == Some(newest.seq) {
            return Ok(0);
        }
        let view = version.view(newest.seq)?;
        // What is in the files is no longer what they looked like when they came to rest.
        self.lock_all(&view)?;
        self.settled = false;
        let trusted = self.wake(&view)?;
        let mut written = 0;
        for (volume, trusted) in view.volumes().to_vec().into_iter().zip(trusted) {
            for window in windows(&view, &volume) {
                let mut extents = self.candidates_in(version, &view, &volume, trusted, window)?;
                if trusted == Trust::Nothing {
                    extents = self.compare(&view, &volume, &extents, pace)?.extents;
                }
                written += extents.iter().map(|extent| extent.bytes()).sum::<u64>();
                self.write(&view, &volume, &extents, pace)?;
            }
        }
        self.rest(&view, None)?;
        Ok(written)
    }

    /// What going to `to` would write. Nothing is changed.
    pub(crate) fn plan(&mut self, version: &Arc<Version>, to: Seq, pace: Pace<'_>) -> Result<Move> {
        self.notice_replaced()?;
        let view = version.view(to)?;
        let mut volumes = Vec::new();
        for volume in view.volumes().to_vec() {
            let trusted = self.trust(&volume)?;
            let mut plan = Plan::default();
            for window in windows(&view, &volume) {
                let extents = self.candidates_in(version, &view, &volume, trusted, window)?;
                plan.extents.extend(self.compare(&view, &volume, &extents, pace)?.extents);
            }
            volumes.push((volume, plan));
        }
        Ok(Move { view, volumes })
    }

    /// Goes there; when this returns the target is there and durable, and `poses` is the stack.
    pub(crate) fn carry_out(&mut self, moves: &Move, poses: Vec<Pose>, pace: Pace<'_>) -> Result<()> {
        let to = moves.view.seq().number();
        self.lock_all(&moves.view)?;
        self.settled = false;
        // 1. From here on a crash leads to the target, never to something in between.
        self.state.intent = Some(Intent { to, poses: poses.clone() });
        self.wake(&moves.view)?;
        // 2. and 3.
        for (volume, plan) in &moves.volumes {
            self.write(&moves.view, volume, &plan.extents, pace)?;
        }
        // 4.
        self.rest(&moves.view, Some(poses))
    }

    /// Compares every file with the journal; what differs, by volume.
    pub(crate) fn check(&mut self, version: &Arc<Version>, pace: Pace<'_>) -> Result<Vec<(VolumeInfo, Plan)>> {
        self.notice_replaced()?;
        self.settle(version, pace)?;
        let Some(at) = self.state.at() else { return Ok(Vec::new()) };
        let view = version.view(at)?;
        let mut found = Vec::new();
        for volume in view.volumes().to_vec() {
            let mut plan = Plan::default();
            for window in windows(&view, &volume) {
                let extents = self.data_of_both(&view, &volume, window)?;
                let all = candidates(&extents, volume.size, volume.size);
                plan.extents.extend(self.compare(&view, &volume, &all, pace)?.extents);
            }
            found.push((volume, plan));
        }
        Ok(found)
    }

    /// Notes at a clean stop what the files look like, so that a change behind our back shows at the next start.
    pub(crate) fn stop(&mut self) -> Result<()> {
        if !self.settled || matches!(self.state.pose(), Pose::Held(_)) {
            return Ok(());
        }
        self.look_at_all()?;
        self.save()
    }

    /// Makes sure that nobody else uses the files. Nothing has changed if somebody does.
    fn lock_all(&self, view: &View) -> Result<()> {
        let files: Vec<&ImageFile> = view.volumes().iter().filter_map(|volume| self.open.get(&volume.uuid)).collect();
        files.iter().try_for_each(|file| file.lock(false)).inspect_err(|_| {
            let held = matches!(self.state.pose(), Pose::Held(_));
            // They were ours a moment ago; if not, the next move says so.
            files.iter().for_each(|file| drop(file.lock(held)));
        })
    }

    /// Opens all files for writing, and notes that they are being written before they are. Returns what may be trusted of each.
    fn wake(&mut self, view: &View) -> Result<Vec<Trust>> {
        let mut trusted = Vec::new();
        for volume in view.volumes() {
            let trust = self.trust(volume)?;
            let state = self.state.volume_mut(volume.uuid);
            let good = match trust {
                Trust::Nothing => 0,
                Trust::Until { good_bytes, .. } => good_bytes,
            };
            // A shorter volume is cut, and what is behind the cut is gone.
            state.good_bytes = good.min(volume.size.bytes());
            state.seen = None;
            trusted.push(trust);
        }
        self.save()?;
        for volume in view.volumes() {
            let path = self.path(volume.uuid);
            let is_writable = self.open.get(&volume.uuid).is_some_and(ImageFile::is_writable) && path.exists();
            if !is_writable {
                self.open.remove(&volume.uuid);
                let file = ImageFile::open(&path)?;
                self.disk.sync_dir()?;
                self.open.insert(volume.uuid, file);
            }
            self.file(volume)?.set_held(false)?;
            self.file(volume)?.set_len(volume.size.bytes())?;
        }
        Ok(trusted)
    }

    /// Makes the files durable, then says so.
    fn rest(&mut self, view: &View, poses: Option<Vec<Pose>>) -> Result<()> {
        for volume in view.volumes() {
            self.file(volume)?.sync()?;
        }
        self.state.at = Some(view.seq().number());
        self.state.intent = None;
        if let Some(poses) = poses {
            self.state.poses = poses;
        }
        // A volume that is not part of this view stayed behind: if it comes back, nothing of its file is trusted.
        let here: Vec<String> = view.volumes().iter().map(|volume| volume.uuid.to_string()).collect();
        for volume in self.state.volumes.iter_mut().filter(|volume| !here.contains(&volume.uuid)) {
            volume.good_bytes = 0;
        }
        let held = matches!(self.state.pose(), Pose::Held(_));
        for volume in view.volumes() {
            self.file(volume)?.set_held(held)?;
            if let Some(file) = self.open.get_mut(&volume.uuid) {
                file.set_whole();
            }
            self.state.volume_mut(volume.uuid).good_bytes = volume.size.bytes();
        }
        if held {
            self.look_at_all()?;
        }
        self.save()?;
        self.settled = true;
        Ok(())
    }

    fn save(&mut self) -> Result<()> {
        if self.state != self.saved {
            self.state.save(&self.disk, self.group)?;
            self.saved = self.state.clone();
        }
        Ok(())
    }

    fn look_at_all(&mut self) -> Result<()> {
        let dir = self.dir.clone();
        for volume in &mut self.state.volumes {
            volume.seen = Seen::look(&dir.join(format!("{}.img", volume.uuid)))?;
        }
        Ok(())
    }

    /// Lets go of files that were removed, or replaced by others, while they were open: nothing is known of what is there now.
    fn notice_replaced(&mut self) -> Result<()> {
        let gone: Vec<_> = self.open.iter().filter(|(_, file)| !file.is_in_place()).map(|(&uuid, _)| uuid).collect();
        for uuid in gone {
            let path = self.path(uuid);
            warn!(group = %self.group, path = %path.display(), "the image is gone or another file: all of it is compared");
            self.open.remove(&uuid);
            self.open.extend(ImageFile::hold(&path)?.map(|file| (uuid, file)));
            self.state.volume_mut(uuid).good_bytes = 0;
            self.settled = false;
        }
        Ok(())
    }

    /// Whether a volume's file holds what the state says.
    fn trust(&self, volume: &VolumeInfo) -> Result<Trust> {
        let Some((known, at)) = self.state.volume(volume.uuid).zip(self.state.at()) else { return Ok(Trust::Nothing) };
        let Some(looks) = Seen::look(&self.path(volume.uuid))? else { return Ok(Trust::Nothing) };
        let good_bytes = known.good_bytes.min(looks.size());
        if good_bytes == 0 {
            return Ok(Trust::Nothing);
        }
        if known.seen.is_some_and(|seen| seen != looks) {
            warn!(group = %self.group, volume = volume.name, "the image was changed by somebody else: all of it is compared");
            return Ok(Trust::Nothing);
        }
        Ok(Trust::Until { at, good_bytes })
    }

    /// Where within `window` the file may differ from the view.
    fn candidates_in(
        &self,
        version: &Arc<Version>,
        view: &View,
        volume: &VolumeInfo,
        trusted: Trust,
        window: Extent,
    ) -> Result<Vec<Extent>> {
        let (touched, good) = match trusted {
            Trust::Nothing => (self.data_of_both(view, volume, window)?, volume.size),
            Trust::Until { at, good_bytes } => {
                let touched = version.view(at)?.touched_between(view, volume.number, window)?;
                (touched, Sectors::of_bytes(good_bytes / SECTOR_BYTES * SECTOR_BYTES).unwrap_or_default())
            }
        };
        let within = |extent: Extent| extent.overlap(window);
        Ok(candidates(&touched, good, volume.size).into_iter().filter_map(within).collect())
    }

    /// Where the view or the file holds anything: the rest of both is zero.
    fn data_of_both(&self, view: &View, volume: &VolumeInfo, window: Extent) -> Result<Vec<Extent>> {
        let mut extents = view.data(volume.number, window)?;
        let Some(file) = self.open.get(&volume.uuid).filter(|file| !file.is_created()) else {
            // What is not open yet is not known: all of it is a candidate.
            return Ok(if self.path(volume.uuid).exists() && !self.open.contains_key(&volume.uuid) {
                vec![window]
            } else {
                extents
            });
        };
        let mut at = window.byte();
        while at < window.byte() + window.bytes() {
            let Some(data) = file.next_data(at)? else { break };
            let start = data.start / SECTOR_BYTES;
            let end = data.end.div_ceil(SECTOR_BYTES);
            let extent = Sector::new(start).zip(Sector::new(end)).and_then(|(start, end)| Extent::between(start, end));
            extents.extend(extent.and_then(|extent| extent.overlap(window)));
            at = data.end;
        }
        Ok(extents)
    }

    fn compare(&self, view: &View, volume: &VolumeInfo, extents: &[Extent], pace: Pace<'_>) -> Result<Plan> {
        let file = self.open.get(&volume.uuid);
        let unopened = match file {
            None => ImageFile::hold(&self.path(volume.uuid))?,
            Some(_) => None,
        };
        let before = |extent: Extent, buf: &mut [u8]| match file.or(unopened.as_ref()) {
            Some(file) => file.read(extent.byte(), buf),
            None => {
                buf.fill(0);
                Ok(())
            }
        };
        let after = |extent: Extent, buf: &mut [u8]| Ok(view.read(volume.number, extent.byte(), buf)?);
        let mut done = 0;
        differing(extents, before, after, |total| {
            let step = total - done;
            done = total;
            go_on(pace(step))
        })
    }

    fn write(&self, view: &View, volume: &VolumeInfo, extents: &[Extent], pace: Pace<'_>) -> Result<()> {
        let file = self.file(volume)?;
        let mut buf = vec![0; usize::try_from(PIECE_BYTES).unwrap_or(HOLE_BYTES)];
        for piece in extents.iter().flat_map(|extent| extent.chunks(PIECE_SECTORS)) {
            let len = usize::try_from(piece.bytes()).unwrap_or(buf.len()).min(buf.len());
            view.read(volume.number, piece.byte(), &mut buf[..len])?;
            write_sparse(file, piece, &buf[..len])?;
            go_on(pace(piece.bytes()))?;
        }
        Ok(())
    }

    fn file(&self, volume: &VolumeInfo) -> Result<&ImageFile> {
        self.open
            .get(&volume.uuid)
            .ok_or_else(|| Error::new(Code::FAILED, format!("the image of {} is not open", volume.name)))
    }
}

/// What is known of a volume's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trust {
    /// Nothing: it is new, or somebody else has changed it.
    Nothing,
    /// Its first bytes hold what they should at this place.
    Until { at: Seq, good_bytes: u64 },
}

/// Runs of zeroes become holes.
fn write_sparse(file: &ImageFile, extent: Extent, data: &[u8]) -> Result<()> {
    let mut at = 0;
    while at < data.len() {
        let zero = is_zero(&data[at..(at + HOLE_BYTES).min(data.len())]);
        let same = data[at..].chunks(HOLE_BYTES).take_while(|chunk| is_zero(chunk) == zero);
        let len: usize = same.map(<[u8]>::len).sum();
        let offset = extent.byte() + at as u64;
        match Extent::of_bytes(offset, len as u64).filter(|_| zero) {
            Some(hole) => file.zero(hole)?,
            None => file.write(offset, &data[at..at + len])?,
        }
        at += len;
    }
    Ok(())
}

/// Whether all bytes are zero.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<16>();
    rest.iter().all(|&byte| byte == 0) && words.iter().all(|word| u128::from_le_bytes(*word) == 0)
}

fn windows(view: &View, volume: &VolumeInfo) -> impl Iterator<Item = Extent> + use<> {
    view.whole(volume.number).into_iter().flat_map(|whole| whole.chunks(WINDOW_SECTORS))
}

fn go_on(flow: ControlFlow<()>) -> Result<()> {
    match flow {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(Error::new(Code::FAILED, "interrupted")),
    }
}
