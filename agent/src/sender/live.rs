//! The stream of one group's order: frames out, what is durable and requests for marks in.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use journal::error::{Error, Result};
use journal::failpoint::Step;
use journal::frame::Frame;
use journal::types::Head;
use journal::wire::{Message, RebaseReason, Refusal, RefusalCode, Stranger};
use link::{MessageReader, MessageWriter};
use tokio::time::{Instant, sleep};

use super::bucket;
use super::flight::{FIRST, OnWay, SHARED, SHARED_FOR};
use super::limit::Allowed;
use super::reports::News;
use super::state::{Next, Stream};
use super::{Streams, changed};
use crate::run::{Group, Verdicts};
use crate::spool::say_passed;

/// Answers to requests for marks that may wait to be sent.
const ANSWERS: usize = 64;
/// How often it is said that all is durable: with one write after the other that would be after each.
const NEWS_EVERY: Duration = Duration::from_millis(20);

/// The open stream of a group.
pub(super) struct Live {
    group: Arc<Group>,
    news: News,
    on_way: OnWay,
    shared: Mutex<Shared>,
}

/// A frame that is being written: the end of the order after it, and its bytes.
#[derive(Debug)]
struct Begun {
    frame: Frame,
    head: Head,
}

/// What reading and writing share; both are in one task.
struct Shared {
    stream: Stream,
    answers: VecDeque<Message>,
}

impl Live {
    /// Opens the group at the receiver and decides how to go on from its head.
    pub(super) async fn open(
        group: Arc<Group>,
        news: News,
        on_way: OnWay,
        features: u64,
        (writer, reader): (&mut MessageWriter, &mut MessageReader),
        another: impl AsyncFnOnce() -> Result<Streams>,
    ) -> Result<Self> {
        writer.send(&Message::OpenGroup { group: group.id(), name: group.name().to_owned() }).await?;
        let receiver = match next(reader).await? {
            Message::Opened(head) => head,
            other => return Err(unexpected(other)),
        };
        let mut stream = Stream::default();
        stream.connected();
        let deciding = Arc::clone(&group);
        let (next, mut stream) = blocking(move || {
            let next = deciding.on_opened(receiver, &mut stream)?;
            Ok((next, stream))
        })
        .await?;
        if let Next::Rebase { parent, reason } = next {
            let verdicts = match (reason, parent) {
                (RebaseReason::Ahead, Some(head)) => changed::ask(&group, head, features, another).await?,
                _ => Verdicts::new(),
            };
            let rebasing = Arc::clone(&group);
            blocking(move || rebasing.rebase(parent, reason, &verdicts)).await?;
            stream.rebased();
        }
        match next {
            Next::Send { lost: true } => {
                tracing::error!(group = group.name(), "the receiver lost what it had called durable: it is sent again");
            }
            Next::Send { lost: false } => {}
            Next::Rebase { reason, .. } => {
                tracing::warn!(group = group.name(), ?reason, "begun anew where the receiver is");
            }
            Next::Refuse(stranger) => {
                let code = match stranger {
                    Stranger::Sibling => RefusalCode::Sibling,
                    Stranger::Unknown | Stranger::Copied => RefusalCode::UnknownHistory,
                };
                return Err(Refusal::new(code, stranger.to_string()).into());
            }
        }
        group.connected(receiver);
        Ok(Self { group, news, on_way, shared: Mutex::new(Shared { stream, answers: VecDeque::new() }) })
    }

    /// Sends until the agent stops, which is `Ok`, or the stream or its connection ends.
    pub(super) async fn run(&self, writer: &mut MessageWriter, reader: &mut MessageReader) -> Result<()> {
        let mut reading = pin!(self.read(reader));
        let mut looks = self.on_way.looks();
        let (mut shared, mut sharing) = (pin!(sleep(Duration::ZERO)), false);
        let (mut told, mut measured) = (None, Instant::now());
        let (mut told_done, mut told_at) = (None, Instant::now());
        let (mut begun, mut allowed) = (None, Allowed::default());
        loop {
            if begun.is_none() {
                begun = self.begin_next(writer).await?;
            }
            if begun.is_none() {
                if self.group.is_stopping() && self.is_done() {
                    writer.send(&Message::Bye).await?;
                    writer.finish();
                    writer.delivered().await;
                    return Ok(());
                }
                let durable = self.shared().stream.durable().map(|head| head.seq);
                if self.group.begins_anew(durable) {
                    return Err(Error::unavailable("a source was changed by somebody else: everything is compared"));
                }
                let state = Some(self.group.condition().state);
                // That all is durable is news as well: a receiver must not have to guess whether there is more.
                let done = self.is_done().then(|| self.shared().stream.durable());
                let is_news = done.is_some() && done != told_done && Instant::now() - told_at >= NEWS_EVERY;
                if is_news || told != state {
                    self.news.of(&self.group);
                    (told, told_done, told_at) = (state, done, Instant::now());
                }
            }
            tokio::select! {
                biased;
                ended = &mut reading => return ended,
                _ = looks.tick() => {
                    self.measure(&mut measured);
                    if self.on_way.shares() {
                        writer.set_priority(SHARED);
                        shared.as_mut().reset(Instant::now() + SHARED_FOR);
                        sharing = true;
                    }
                }
                () = &mut shared, if sharing => {
                    writer.set_priority(FIRST);
                    sharing = false;
                }
                written = allowed.write(writer, self.group.limit(), bucket::Stream::Live), if begun.is_some() => {
                    written?;
                    begun = begun.filter(|begun| !self.has_sent(begun, writer));
                }
                () = self.group.woken(), if begun.is_none() => {}
                () = self.on_way.room(), if begun.is_none() => {}
            }
        }
    }

    /// Whether compressing pays is decided where frames are made.
    fn measure(&self, since: &mut Instant) {
        let now = Instant::now();
        if let Some(fast) = self.shared().stream.is_fast(now - *since) {
            self.group.link_is_fast(fast);
        }
        *since = now;
    }

    /// Sends the answers that there are, and begins a frame, if there is one.
    async fn begin_next(&self, writer: &mut MessageWriter) -> Result<Option<Begun>> {
        let after = loop {
            let (answer, after) = {
                let mut shared = self.shared();
                (shared.answers.pop_front(), shared.stream.wants_after())
            };
            let Some(answer) = answer else { break after };
            writer.send(&answer).await?;
        };
        let Some(after) = after else { return Ok(None) };
        let Some(frame) = self.group.next_after(after)? else { return Ok(None) };
        let head = frame.end().ok_or_else(|| Error::corrupt("a frame of a base in the spool"))?;
        let bytes = frame.bytes().len();
        if !self.on_way.enter(head.seq.number(), bytes) {
            return Ok(None);
        }
        if !frame.payload().is_empty() {
            self.on_way.is_live();
        }
        writer.begin_frame(frame.bytes().clone());
        Ok(Some(Begun { frame, head }))
    }

    /// Whether all of the frame is written, which is then remembered.
    fn has_sent(&self, begun: &Begun, writer: &MessageWriter) -> bool {
        let done = writer.left() == 0;
        if done {
            say_passed(&begun.frame, Step::GapSent, Step::SealedSent);
            self.shared().stream.frame_sent(begun.head, begun.frame.bytes().len());
            self.group.sent(begun.head.seq);
        }
        done
    }

    async fn read(&self, reader: &mut MessageReader) -> Result<()> {
        loop {
            match next(reader).await? {
                Message::Durable(head) => {
                    if self.shared().stream.acknowledged(head)? {
                        self.on_way.arrived(head.seq.number());
                        self.group.acknowledged(head);
                    }
                }
                Message::MarkRequest { request, locked_until, name } => {
                    let answer = match self.group.mark(&name, locked_until) {
                        Ok(seq) => Message::MarkDone { request, seq },
                        Err(unmarked) => {
                            let (reason, text) = unmarked.told();
                            Message::MarkFailed { request, reason, text }
                        }
                    };
                    let mut shared = self.shared();
                    if shared.answers.len() >= ANSWERS {
                        return Err(Refusal::new(RefusalCode::Malformed, "too many marks at once").into());
                    }
                    shared.answers.push_back(answer);
                }
                other => return Err(unexpected(other)),
            }
            // There may be room in the window, or an answer to send.
            self.group.wake();
        }
    }

    /// Whether all that was captured is durable at the receiver.
    fn is_done(&self) -> bool {
        let durable = self.shared().stream.durable();
        self.group.is_drained(durable.map(|head| head.seq))
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.group.limit().live_ended();
    }
}

/// Runs what reads and writes files on a thread that may wait.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Error::unavailable("opening failed").with_source(error))?
}

/// The next message; the end of the stream is an error, a refusal too.
pub(super) async fn next(reader: &mut MessageReader) -> Result<Message> {
    match reader.next().await? {
        Some(Message::Refused(refusal)) => Err(refusal.into()),
        Some(message) => Ok(message),
        None => Err(Error::unavailable("the receiver has ended the stream")),
    }
}

pub(super) fn unexpected(message: Message) -> Error {
    Refusal::new(RefusalCode::Malformed, format!("{:?} is out of place", message.tag())).into()
}
