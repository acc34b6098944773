//! Sends what a first copy, compare or resync reads, on a stream of its own that comes after the live ones.
//!
//! A thread of its own reads; when the receiver has all of it durably, the order says so. What changes unrecorded before that is read
//! once more, by the same base. A lost connection is made up from what
//! is kept; if that is not enough, the base starts over under a new name.

use std::pin::pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use journal::codec::Sealed;
use journal::error::{Error, ErrorKind, Result};
use journal::failpoint;
use journal::frame::Frame;
use journal::types::{ResyncId, Seq};
use journal::wire::Message;
use link::MessageReader;
use tokio::sync::{Notify, mpsc};

use super::Streams;
use super::bucket::Stream;
use super::compare::{Asked, Remote};
use super::flight::{BaseOnWay, SHARED};
use super::limit::Allowed;
use super::live::{next, unexpected};
use super::quic::in_full;
use super::window::{Facts, Step, Window};
use crate::base::{BaseReader, BaseSpec, BaseVolume, Hashes, Progress};
use crate::capture::Capture;
use crate::run::Group;

/// Frames read ahead.
const FRAMES: usize = 8;

/// One base on its way. Dropped, its reader ends.
#[derive(Debug)]
pub(crate) struct Base {
    spec: BaseSpec,
    /// The place whose view it is compared with.
    pub(super) compared_with: Option<Seq>,
    frames: tokio::sync::Mutex<mpsc::Receiver<Frame>>,
    pub(super) asked: tokio::sync::Mutex<Asked>,
    reading: Arc<Reading>,
    window: Mutex<Window>,
}

/// What the reader's thread and its users share.
#[derive(Debug, Default)]
struct Reading {
    work: Mutex<Work>,
    /// There is more to read, or nothing ever will be.
    more: Condvar,
    /// Something became durable, or was read, or may be sealed.
    changed: Notify,
}

#[derive(Debug, Default)]
struct Work {
    /// What is to be read beside what the reader has.
    added: Vec<BaseVolume>,
    /// All was read; what there is to seal then.
    idle: Option<Sealed>,
    progress: Progress,
    failed: Option<Error>,
    ended: bool,
}

impl Base {
    /// Starts to read.
    pub(crate) fn start(
        spec: BaseSpec,
        volumes: Vec<BaseVolume>,
        compared_with: Option<Seq>,
        capture: Arc<Capture>,
        link_is_fast: bool,
    ) -> Result<Self> {
        let (frames, received) = mpsc::channel(FRAMES);
        let (remote, asked) = Remote::new();
        let hashes: Box<dyn Hashes> = Box::new(remote);
        let reading = Arc::new(Reading::default());
        let reader = BaseReader::new(spec, volumes, capture, hashes, link_is_fast);
        let thread = {
            let reading = Arc::clone(&reading);
            move || reading.read(reader, &frames)
        };
        std::thread::Builder::new().name("base".to_owned()).spawn(thread)?;
        let (frames, asked) = (received.into(), asked.into());
        Ok(Self { spec, compared_with, frames, asked, reading, window: Mutex::default() })
    }

    /// Reads these as well: they changed while nothing was recorded.
    pub(crate) fn add(&self, volumes: Vec<BaseVolume>) {
        let mut work = self.reading.work();
        if !volumes.is_empty() {
            work.added.extend(volumes);
            work.idle = None;
        }
        self.reading.more.notify_all();
        self.reading.changed.notify_one();
    }

    /// Another run has taken the place of the one it was read for: whoever sends it need not any more.
    pub(crate) fn end(&self) {
        self.reading.work().ended = true;
        self.reading.more.notify_all();
        self.reading.changed.notify_one();
    }

    /// What there is to seal: all was read, and a receiver has it durably.
    pub(crate) fn whole(&self) -> Option<Sealed> {
        let read = self.reading.work().idle;
        self.window().whole(read)
    }

    fn step(&self, group: &Group, is_open: bool) -> Step {
        let (is_over, read) = {
            let work = self.reading.work();
            (work.ended, work.idle)
        };
        self.window().next(Facts { is_open, is_over, read, is_recording: group.is_recording() })
    }

    /// Bytes that were read and are not durable.
    pub(crate) fn unsent_bytes(&self) -> u64 {
        u64::try_from(self.window().bytes()).unwrap_or(u64::MAX)
    }

    /// How far reading is.
    pub(crate) fn progress(&self) -> Progress {
        self.reading.work().progress
    }

    /// Which it is.
    pub(crate) fn resync(&self) -> ResyncId {
        self.spec.resync
    }

    /// Sends it until the receiver has all of it durably and points may go on. `None`: it cannot go on and has to start over.
    pub(super) async fn send(
        &self,
        group: &Group,
        on_way: BaseOnWay,
        round_trip: impl Fn() -> Duration,
        open: impl AsyncFnOnce() -> Result<Streams>,
    ) -> Result<Option<Sealed>> {
        let mut frames = self.frames.lock().await;
        loop {
            match self.step(group, false) {
                Step::End => return Ok(None),
                Step::Seal(sealed) => return Ok(Some(sealed)),
                Step::Open => break,
                Step::Send | Step::Wait => {}
            }
            tokio::select! {
                frame = frames.recv() => match frame {
                    Some(frame) => self.window().push(frame),
                    None => return self.failure(),
                },
                () = self.reading.changed.notified() => {}
            }
        }
        // What an earlier run sealed has to be there first: opening a base drops those that are not sealed.
        if let Some(at) = self.compared_with {
            group.durable_to(at).await;
        }
        failpoint::passed(failpoint::Step::BaseOpening);
        let (mut writer, mut reader) = open().await?;
        writer.send(&Message::OpenBase { group: group.id(), resync: self.spec.resync }).await?;
        let head = match next(&mut reader).await? {
            Message::BaseOpened(head) => head,
            other => return Err(unexpected(other)),
        };
        failpoint::passed(failpoint::Step::BaseOpened);
        if !self.window().opened(head) {
            return Ok(None);
        }
        writer.set_priority(SHARED);
        let mut reading = pin!(self.read(&mut reader, &on_way));
        let (mut allowed, mut failed) = (Allowed::default(), false);
        loop {
            // A frame that was begun is never left half sent.
            if writer.left() == 0 && failed {
                return self.failure();
            }
            if writer.left() == 0 {
                match self.step(group, true) {
                    Step::End => return Ok(None),
                    Step::Seal(sealed) => {
                        writer.finish();
                        return Ok(Some(sealed));
                    }
                    Step::Send => {
                        let unsent = self.window().unsent().cloned();
                        if let Some(frame) = unsent
                            && on_way.enter(frame.header().number.number(), frame.bytes().len(), round_trip())
                        {
                            writer.begin_frame(frame.bytes().clone());
                        }
                    }
                    Step::Open | Step::Wait => {}
                }
            }
            let (full, sends) = (self.window().is_full(), writer.left() > 0);
            tokio::select! {
                biased;
                error = &mut reading => return Err(error),
                written = allowed.write(&mut writer, group.limit(), Stream::Base), if sends => {
                    written?;
                    if writer.left() == 0 {
                        self.window().frame_sent();
                        failpoint::passed(failpoint::Step::BaseFrameSent);
                    }
                }
                frame = frames.recv(), if !full && !failed => match frame {
                    Some(frame) => self.window().push(frame),
                    None => failed = true,
                },
                () = on_way.room() => {}
                () = self.reading.changed.notified() => {}
            }
        }
    }

    /// Why reading ended: an error of the source is one, `None` means that it was ended.
    fn failure(&self) -> Result<Option<Sealed>> {
        match self.reading.work().failed.take() {
            Some(error) if error.kind() != ErrorKind::Unavailable => {
                let what = format!("cannot read all of the source: {}", in_full(&error));
                Err(Error::new(ErrorKind::Io, what).with_source(error))
            }
            _ => Ok(None),
        }
    }

    /// Until the stream ends.
    async fn read(&self, reader: &mut MessageReader, on_way: &BaseOnWay) -> Error {
        loop {
            let acknowledged = match next(reader).await {
                Ok(Message::BaseDurable(head)) => {
                    on_way.arrived(head.frame.number());
                    failpoint::passed(failpoint::Step::BaseFrameAcknowledged);
                    self.window().acknowledged(head).map_err(Error::from)
                }
                Ok(other) => Err(unexpected(other)),
                Err(error) => Err(error),
            };
            if let Err(error) = acknowledged {
                return error;
            }
            self.reading.changed.notify_one();
        }
    }

    fn window(&self) -> MutexGuard<'_, Window> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Base {
    fn drop(&mut self) {
        self.end();
    }
}

impl Reading {
    fn read(&self, mut reader: BaseReader, frames: &mpsc::Sender<Frame>) {
        loop {
            let frame = reader.next_frame();
            self.work().progress = reader.progress();
            match frame {
                Ok(Some(frame)) => {
                    failpoint::passed(failpoint::Step::BaseFrameRead);
                    if frames.blocking_send(frame).is_err() {
                        return;
                    }
                }
                Ok(None) => match self.rest(reader.sealed()) {
                    Some(added) => reader.add(added),
                    None => return,
                },
                Err(error) => {
                    // Before the channel is closed, so that whoever sees its end sees this.
                    self.work().failed = Some(error);
                    return;
                }
            }
        }
    }

    /// Waits for more to read; `None`: it is over.
    fn rest(&self, sealed: Sealed) -> Option<Vec<BaseVolume>> {
        failpoint::passed(failpoint::Step::BaseRead);
        let mut work = self.work();
        if work.added.is_empty() {
            work.idle = Some(sealed);
            self.changed.notify_one();
        }
        let waits = |work: &mut Work| work.added.is_empty() && !work.ended;
        work = self.more.wait_while(work, waits).unwrap_or_else(PoisonError::into_inner);
        (!work.ended).then(|| std::mem::take(&mut work.added))
    }

    fn work(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
