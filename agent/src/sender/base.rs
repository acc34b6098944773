//! Sends what a first copy or compare reads, on a stream of its own that comes after the live ones.
//!
//! A thread of its own reads; when the receiver has all of it durably, the order says so. A lost connection is made up from what
//! is kept; if that is not enough, the base starts over under a new name.

use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use journal::codec::Sealed;
use journal::error::{Error, ErrorKind, Result};
use journal::frame::Frame;
use journal::types::{ResyncId, Seq};
use journal::wire::Message;
use link::MessageReader;
use tokio::sync::{Notify, mpsc};

use super::Streams;
use super::compare::{Ask, Remote};
use super::live::{next, unexpected};
use super::window::Window;
use crate::base::{BaseReader, BaseSpec, BaseVolume, Hashes, Progress};
use crate::capture::Capture;
use crate::run::Group;

/// Frames read ahead.
const FRAMES: usize = 8;
/// Questions that may wait: the reader asks one at a time.
const ASKS: usize = 1;
/// After the live streams.
const PRIORITY: i32 = -1;

/// One base on its way. Dropped, its reader ends.
#[derive(Debug)]
pub(crate) struct Base {
    spec: BaseSpec,
    /// The place whose view it is compared with.
    pub(super) compared_with: Option<Seq>,
    frames: tokio::sync::Mutex<mpsc::Receiver<Frame>>,
    pub(super) asks: tokio::sync::Mutex<mpsc::Receiver<Ask>>,
    reading: Arc<Reading>,
    window: Mutex<Window>,
    acked: Notify,
}

/// What the reader's thread tells.
#[derive(Debug, Default)]
struct Reading {
    progress: Mutex<Progress>,
    /// How it ended.
    ended: OnceLock<Result<Sealed>>,
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
        let (asks, asked) = mpsc::channel(ASKS);
        let hashes: Box<dyn Hashes> = Box::new(Remote::new(asks));
        let reading = Arc::new(Reading::default());
        let reader = BaseReader::new(spec, volumes, capture, hashes, link_is_fast);
        let thread = {
            let reading = Arc::clone(&reading);
            move || reading.read(reader, &frames)
        };
        std::thread::Builder::new().name("base".to_owned()).spawn(thread)?;
        Ok(Self {
            spec,
            compared_with,
            frames: received.into(),
            asks: asked.into(),
            reading,
            window: Mutex::default(),
            acked: Notify::new(),
        })
    }

    /// How far reading is.
    pub(crate) fn progress(&self) -> Progress {
        *self.reading.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Which it is.
    pub(crate) fn resync(&self) -> ResyncId {
        self.spec.resync
    }

    /// Sends it until the receiver has all of it durably. `None`: it cannot go on and has to start over.
    pub(super) async fn send(
        &self,
        group: &Group,
        open: impl AsyncFnOnce() -> Result<Streams>,
    ) -> Result<Option<Sealed>> {
        let mut frames = self.frames.lock().await;
        // One that found nothing needs no stream.
        if self.window().is_empty() {
            match frames.recv().await {
                Some(frame) => self.window().push(frame),
                None => match self.ended()? {
                    Some(sealed) if sealed.frames == 0 => return Ok(Some(sealed)),
                    _ => {}
                },
            }
        }
        // What an earlier run sealed has to be there first: opening a base drops those that are not sealed.
        if let Some(at) = self.compared_with {
            group.durable_to(at).await;
        }
        let (mut writer, mut reader) = open().await?;
        writer.send(&Message::OpenBase { group: group.id(), resync: self.spec.resync }).await?;
        let head = match next(&mut reader).await? {
            Message::BaseOpened(head) => head,
            other => return Err(unexpected(other)),
        };
        if !self.window().opened(head) {
            return Ok(None);
        }
        writer.set_priority(PRIORITY);
        let mut reading = pin!(self.read(&mut reader));
        let mut ended = false;
        loop {
            let unsent = self.window().unsent().cloned();
            if let Some(frame) = unsent {
                writer.send_frame(frame.bytes().clone()).await?;
                self.window().frame_sent();
            } else if ended && self.window().is_empty() {
                writer.finish();
                return self.ended();
            }
            let (full, waiting) = {
                let window = self.window();
                (window.is_full(), window.unsent().is_some())
            };
            tokio::select! {
                biased;
                error = &mut reading => return Err(error),
                () = std::future::ready(()), if waiting => {}
                frame = frames.recv(), if !full && !ended => match frame {
                    Some(frame) => self.window().push(frame),
                    None => ended = true,
                },
                () = self.acked.notified() => {}
            }
        }
    }

    /// How reading ended; an error of the source is one, `None` means that it was ended.
    fn ended(&self) -> Result<Option<Sealed>> {
        match self.reading.ended.get() {
            Some(Ok(sealed)) => Ok(Some(*sealed)),
            Some(Err(error)) if error.kind() == ErrorKind::Unavailable => Ok(None),
            Some(Err(error)) => Err(Error::new(ErrorKind::Io, format!("cannot read all of the source: {error}"))),
            None => Ok(None),
        }
    }

    /// Until the stream ends.
    async fn read(&self, reader: &mut MessageReader) -> Error {
        loop {
            let acknowledged = match next(reader).await {
                Ok(Message::BaseDurable(head)) => self.window().acknowledged(head).map_err(Error::from),
                Ok(other) => Err(unexpected(other)),
                Err(error) => Err(error),
            };
            if let Err(error) = acknowledged {
                return error;
            }
            self.acked.notify_one();
        }
    }

    fn window(&self) -> MutexGuard<'_, Window> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reading {
    fn read(&self, mut reader: BaseReader, frames: &mpsc::Sender<Frame>) {
        let ended = loop {
            let frame = reader.next_frame();
            *self.progress.lock().unwrap_or_else(PoisonError::into_inner) = reader.progress();
            match frame {
                Ok(Some(frame)) => {
                    if frames.blocking_send(frame).is_err() {
                        return;
                    }
                }
                Ok(None) => break Ok(reader.sealed()),
                Err(error) => break Err(error),
            }
        };
        // Before the channel is closed, so that whoever sees its end sees this.
        let _ = self.ended.set(ended);
    }
}
