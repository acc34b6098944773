//! The replica image: a plain file for each volume that follows the newest point, or is held at one.
//!
//! One thread a group owns the files. It works only on what is durable, and waits for the ingest.

mod file;
mod files;
mod state;
#[cfg(test)]
mod tests;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use journal::disk::Reserve;
use journal::log::Finding;
use journal::store::PointInfo;
use journal::types::{Seq, VolumeUuid};
use tokio::sync::oneshot;
use tracing::warn;

pub(crate) use file::zero;
pub(crate) use files::is_zero;
pub(crate) use state::{ImageState, Pose};

use crate::error::{Code, Error, Result};
use crate::group::Group;
use crate::rollback::{Goal, RolledBack, decide};
use files::Files;

/// How often it catches up: each time costs an fdatasync that the ingest would like to have for itself.
const PAUSE: Duration = Duration::from_secs(1);
/// After a failure.
const PAUSE_AFTER_ERROR: Duration = Duration::from_secs(30);
/// Longest wait for the ingest per megabyte: it yields, it does not starve.
const YIELD_MAX: Duration = Duration::from_millis(50);
const YIELD_STEP: Duration = Duration::from_millis(2);

/// A group's image. A clone is the same one.
#[derive(Clone, Debug)]
pub struct Image {
    commands: SyncSender<Command>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    dir: PathBuf,
    stopping: AtomicBool,
    shown: Mutex<Shown>,
}

/// What the status shows of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    /// The point it is at, durably; `None`: it was never whole.
    pub applied: Option<Seq>,
    /// Whether it stays there.
    pub held: bool,
    /// Why it does not go on.
    pub error: Option<String>,
}

/// What a rollback tells while it runs.
#[derive(Clone, Debug)]
pub enum Step {
    /// Decided; nothing is written yet.
    Planned {
        /// Where to.
        point: PointInfo,
        /// What differs.
        bytes: u64,
        /// What differs.
        blocks: u64,
    },
    /// Written so far.
    Wrote {
        /// Since the last time.
        bytes: u64,
    },
}

type Listener = Box<dyn FnMut(Step) + Send>;

enum Command {
    Rollback { goal: Goal, dry_run: bool, listener: Listener, reply: oneshot::Sender<Result<RolledBack>> },
    Check { reply: oneshot::Sender<Result<(u64, Vec<Finding>)>> },
    Stop,
}

impl Image {
    /// Starts the thread of a group's image; the files are in `dir`.
    pub(crate) fn start(group: Group, dir: &Path, reserve: &Arc<Reserve>) -> Result<(Self, JoinHandle<()>)> {
        let files = Files::load(dir, group.id(), Some(Arc::clone(reserve)))?;
        let (commands, receiver) = sync_channel(4);
        let shared =
            Arc::new(Shared { dir: dir.to_owned(), stopping: AtomicBool::new(false), shown: Mutex::default() });
        let reserve = Arc::clone(reserve);
        let follower = Follower { group: group.clone(), files, reserve, shared: shared.clone() };
        // Also pins what it stands on, before anything thins the history.
        follower.show(None);
        let name = format!("image-{:.8}", group.id().to_string());
        let thread = std::thread::Builder::new().name(name).spawn(move || follower.run(&receiver))?;
        Ok((Self { commands, shared }, thread))
    }

    /// Where the image of a volume is.
    pub fn path(&self, uuid: VolumeUuid) -> PathBuf {
        self.shared.dir.join(format!("{uuid}.img"))
    }

    /// How it is.
    pub fn shown(&self) -> Shown {
        self.shared.shown().clone()
    }

    /// Takes it to `goal`; returns when it is there, durably. Whoever asks may go away: it is carried out.
    pub async fn rollback(&self, goal: Goal, dry_run: bool, listener: Listener) -> Result<RolledBack> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Rollback { goal, dry_run, listener, reply })?;
        answer.await.map_err(|_| stopping())?
    }

    /// Compares it with the journal: bytes compared, and what differs.
    pub async fn check(&self) -> Result<(u64, Vec<Finding>)> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Check { reply })?;
        answer.await.map_err(|_| stopping())?
    }

    /// Ends the thread soon, also in the middle of something: it is taken up at the next start.
    pub(crate) fn stop(&self) {
        self.shared.stopping.store(true, Ordering::Release);
        // A full queue ends by itself: each command looks at the flag.
        let _ = self.commands.try_send(Command::Stop);
    }

    fn send(&self, command: Command) -> Result<()> {
        self.commands.try_send(command).map_err(|_| Error::new(Code::BUSY, "the image is busy"))
    }
}

impl Shared {
    fn shown(&self) -> MutexGuard<'_, Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn go_on(&self) -> ControlFlow<()> {
        if self.stopping.load(Ordering::Acquire) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

fn stopping() -> Error {
    Error::new(Code::FAILED, "the receiver is stopping")
        .hint("call again: what was begun is finished at the next start")
}

/// The thread.
struct Follower {
    group: Group,
    files: Files,
    reserve: Arc<Reserve>,
    shared: Arc<Shared>,
}

impl Follower {
    fn run(mut self, commands: &Receiver<Command>) {
        // What comes in goes first. Where it may not give way it is as fast as the others.
        let _ = rustix::process::nice(10);
        let mut pause = PAUSE;
        while self.shared.go_on().is_continue() {
            match commands.recv_timeout(pause) {
                Ok(Command::Rollback { goal, dry_run, listener, reply }) => {
                    let result = self.rollback(goal, dry_run, listener);
                    self.show(None);
                    // Who asked may have gone.
                    let _ = reply.send(result);
                }
                Ok(Command::Check { reply }) => {
                    let result = self.check();
                    self.show(None);
                    let _ = reply.send(result);
                }
                Err(RecvTimeoutError::Timeout) => pause = self.catch_up(),
                Ok(Command::Stop) | Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        if let Err(error) = self.files.stop() {
            warn!(group = %self.group.name(), %error, "the image's state could not be noted");
        }
    }

    /// Settles and follows; how long to rest after it.
    fn catch_up(&mut self) -> Duration {
        if self.reserve.is_in_use() {
            // What is left is for what cannot be made anew.
            self.show(Some("it waits: the store's disk is full".to_owned()));
            return PAUSE;
        }
        let result = self.group.pin_newest().and_then(|version| {
            let (group, shared) = (&self.group, &self.shared);
            let mut pace = |_| yield_to(group, shared);
            self.files.settle(&version, &mut pace)?;
            match self.files.state().pose() {
                Pose::Following => self.files.follow(&version, &mut pace).map(drop),
                Pose::Held(_) => Ok(()),
            }
        });
        match result {
            Err(error) if self.shared.go_on().is_continue() => {
                warn!(group = %self.group.name(), ?error, "the image cannot follow");
                self.show(Some(error.to_string()));
                PAUSE_AFTER_ERROR
            }
            _ => {
                self.show(None);
                PAUSE
            }
        }
    }

    fn rollback(&mut self, goal: Goal, dry_run: bool, mut listener: Listener) -> Result<RolledBack> {
        let version = self.group.pin_newest()?;
        let shared = self.shared.clone();
        let mut pace = |_| shared.go_on();
        self.files.settle(&version, &mut pace)?;
        let (point, poses) = decide(self.files.state(), &version, goal)?;
        let version = self.group.pin_point(&point)?;
        let moves = self.files.plan(&version, point.seq, &mut pace)?;
        let (bytes, blocks) = (moves.bytes(), moves.blocks());
        listener(Step::Planned { point: point.clone(), bytes, blocks });
        let held = matches!(poses.last(), Some(Pose::Held(_)));
        if !dry_run {
            self.files.carry_out(&moves, poses, &mut |bytes| {
                listener(Step::Wrote { bytes });
                shared.go_on()
            })?;
        }
        Ok(RolledBack { point, held, bytes, blocks })
    }

    fn check(&mut self) -> Result<(u64, Vec<Finding>)> {
        let version = self.group.library()?.now();
        let shared = self.shared.clone();
        let differing = self.files.check(&version, &mut |_| shared.go_on())?;
        let bytes = differing.iter().map(|(volume, _)| volume.size.bytes()).sum();
        let findings = differing.iter().filter(|(_, plan)| !plan.extents.is_empty()).map(|(volume, plan)| Finding {
            place: self.files.path(volume.uuid).display().to_string(),
            what: format!("{} blocks of volume {} are not what the journal says", plan.blocks(), volume.name),
            mended: false,
        });
        Ok((bytes, findings.collect()))
    }

    fn show(&self, error: Option<String>) {
        let state = self.files.state();
        self.group.pin_image(state.places());
        let held = matches!(state.pose(), Pose::Held(_));
        *self.shared.shown() = Shown { applied: state.at(), held, error };
    }
}

/// Waits a little while frames wait to be written, for the disk is theirs first.
fn yield_to(group: &Group, shared: &Shared) -> ControlFlow<()> {
    let started = Instant::now();
    while group.is_ingesting() && started.elapsed() < YIELD_MAX && shared.go_on().is_continue() {
        std::thread::sleep(YIELD_STEP);
    }
    shared.go_on()
}
