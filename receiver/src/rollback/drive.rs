//! Carries a rollback of the sources out, in the steps of `docs/PROTOCOL.md`: the agent does what is to be done there, this says what.
//!
//! ```text
//!   OpenRollback ─▶ Ready ─▶ compare two views ─▶ Begin ─▶ Begun ─▶ Blocks … ─▶ End ─▶ Sealed
//!                                                              ◀─ Done …
//! ```

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use journal::failpoint::{self, Step};
use journal::store::PointInfo;
use journal::types::Seq;
use journal::wire::{Message, RollbackBlocks, RollbackOpening};
use link::{MessageReader, MessageWriter};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::between::{Between, Difference};
use super::live::{Course, LiveGoal, check_volumes, decide, denied, mark};
use crate::error::{Code, Error, Result};
use crate::group::Group;
use crate::time;

/// How long an agent may take to put clients out and to have all of theirs durable here.
const PATIENCE: Duration = Duration::from_secs(60);
/// Messages read ahead: 4 MiB.
const AHEAD: usize = 4;
/// Before it is tried again to go on; doubled each time.
const PAUSE_FIRST: Duration = Duration::from_millis(500);
const PAUSE_LAST: Duration = Duration::from_secs(60);

/// What a person wants.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Where to.
    pub goal: LiveGoal,
    /// Clients of the tap are put out.
    pub even_if_attached: bool,
    /// Only look.
    pub dry_run: bool,
}

/// What is told while it runs.
#[derive(Clone, Debug)]
pub enum Told {
    /// Decided; nothing is written yet.
    Planned {
        /// Where to.
        point: PointInfo,
        /// Bytes that differ.
        bytes: u64,
        /// Blocks that differ.
        blocks: u64,
        /// Clients that were put out, or would be.
        clients: u32,
    },
    /// So many bytes are on the sources.
    Wrote {
        /// In all.
        bytes: u64,
    },
}

/// What came of it, or would.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TakenBack {
    /// Where the sources are.
    pub point: PointInfo,
    /// Bytes that differed.
    pub bytes: u64,
    /// Blocks that differed.
    pub blocks: u64,
    /// Clients that were put out, or would be.
    pub clients: u32,
    /// What the state before is called; `None`: it had begun before.
    pub mark: Option<String>,
}

type Listener<'a> = &'a mut (dyn FnMut(Told) + Send);

/// Takes the sources of a group to another point; returns when they are there, durably, and the order says so. The group has to be reserved
/// for it.
pub async fn take_back(group: &Group, asked: Asked, listener: Listener<'_>) -> Result<TakenBack> {
    let (library, goal) = (group.library()?, asked.goal);
    let course = blocking(move || {
        let version = library.now();
        let course = decide(&version, goal)?;
        let head = version.head().map_or(course.point.seq, |head| head.seq);
        let volumes = |seq: Seq| version.timeline().volumes(seq);
        check_volumes(&volumes(head), &volumes(course.point.seq), course.goes_on)?;
        Ok(course)
    })
    .await?;
    // Who thins may hold the pins while its list becomes durable.
    let (pinning, point) = (group.clone(), course.point.clone());
    let _pinned = blocking(move || pinning.pin_destination(&point)).await?;
    let (mut writer, mut reader) = group.rollback_stream().await?;
    let (name, locked) = mark(time::now());
    let named = (!asked.dry_run && !course.goes_on).then_some(name);
    let opening = RollbackOpening {
        group: group.id(),
        target: course.point.seq,
        looks_only: asked.dry_run,
        even_if_attached: asked.even_if_attached,
        goes_on: course.goes_on,
        locked_until: named.is_some().then_some(locked),
        mark: named.clone().unwrap_or_default(),
    };
    send(group, &mut writer, &Message::OpenRollback(opening)).await?;
    let ready = timeout(PATIENCE, next(group, &mut reader)).await;
    let ready = ready.map_err(|_| gone(group).context("the agent does not say that its tap is closed"))??;
    let Message::RollbackReady { seq, clients } = ready else { return Err(out_of_place(group, &ready)) };
    let (between, difference) = compare(group, &course, seq).await?;
    failpoint::passed(Step::RollbackPlanned);
    let (bytes, blocks) = (difference.bytes, difference.blocks);
    listener(Told::Planned { point: course.point.clone(), bytes, blocks, clients });
    let taken = TakenBack { point: course.point, bytes, blocks, clients, mark: named };
    if asked.dry_run {
        writer.finish();
        return Ok(taken);
    }
    send(group, &mut writer, &Message::RollbackBegin { blocks, bytes }).await?;
    let begun = next(group, &mut reader).await?;
    let Message::RollbackBegun { .. } = begun else { return Err(out_of_place(group, &begun)) };
    let sealed = {
        let mut sending = pin!(send_blocks(group, &mut writer, between, difference));
        let mut reading = pin!(read_answers(group, &mut reader, listener));
        let mut sent = false;
        loop {
            tokio::select! {
                ended = &mut sending, if !sent => {
                    ended?;
                    sent = true;
                }
                ended = &mut reading => break ended?,
            }
        }
    };
    failpoint::passed(Step::RollbackOver);
    // The agent has heard that from us.
    if group.progress().borrow().head.is_none_or(|head| head.seq < sealed) {
        return Err(Error::new(Code::FAILED, format!("the agent of {} calls durable what is not here", group.name())));
    }
    Ok(taken)
}

/// Goes on, again and again, with what has begun and is not over: as long as the session is there.
pub(crate) async fn go_on(group: &Group) -> Infallible {
    let mut progress = group.progress();
    let (mut pause, mut said) = (PAUSE_FIRST, String::new());
    loop {
        let is_unfinished = group.library().is_ok_and(|library| library.now().timeline().unfinished().is_some());
        if !is_unfinished {
            (pause, said) = (PAUSE_FIRST, String::new());
            if progress.changed().await.is_err() {
                return std::future::pending().await;
            }
            continue;
        }
        match once(group).await {
            Ok(taken) => {
                let (seq, bytes) = (taken.point.seq, taken.bytes);
                tracing::warn!(group = %group.name(), %seq, bytes, "the sources are back there: what had begun is over");
            }
            Err(error) => {
                let why = error.to_string();
                if error.code() != Code::BUSY && why != said {
                    tracing::warn!(group = %group.name(), why, "taking the sources back is not over: tried again");
                    said = why;
                }
                sleep(pause).await;
                pause = match error.code() {
                    // Somebody else is at it, or it is only not the time yet.
                    Code::BUSY | Code::NOT_LIVE => PAUSE_FIRST,
                    _ => (pause * 2).min(PAUSE_LAST),
                };
            }
        }
    }
}

async fn once(group: &Group) -> Result<TakenBack> {
    let _alone = group.reserve("a live rollback")?;
    let asked = Asked { goal: LiveGoal::GoOn, even_if_attached: true, dry_run: false };
    take_back(group, asked, &mut |_| {}).await
}

/// What differs between now, which is the place that the agent named, and then.
async fn compare(group: &Group, course: &Course, now: Seq) -> Result<(Arc<Between>, Difference)> {
    let (library, then, goes_on) = (group.library()?, course.point.seq, course.goes_on);
    let given_up = Arc::new(AtomicBool::new(false));
    let _gives_up = GivesUp(Arc::clone(&given_up));
    blocking(move || {
        let version = library.now();
        let between = Between { now: version.view(now)?, then: version.view(then)? };
        check_volumes(between.now.volumes(), between.then.volumes(), goes_on)?;
        let difference = between.compare(|| match given_up.load(Ordering::Relaxed) {
            true => Err(Error::new(Code::FAILED, "nobody waits for it any more")),
            false => Ok(()),
        })?;
        Ok((Arc::new(between), difference))
    })
    .await
}

/// A thread that reads for a session that has gone ends.
struct GivesUp(Arc<AtomicBool>);

impl Drop for GivesUp {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Reads on a thread of its own, a little ahead.
async fn send_blocks(
    group: &Group,
    writer: &mut MessageWriter,
    between: Arc<Between>,
    difference: Difference,
) -> Result<()> {
    let (ahead, mut read) = mpsc::channel::<RollbackBlocks>(AHEAD);
    let reading = tokio::task::spawn_blocking(move || {
        between.each(&difference, |blocks| {
            ahead.blocking_send(blocks).map_err(|_| Error::new(Code::FAILED, "nobody waits for it any more"))
        })
    });
    let (mut messages, mut bytes) = (0, 0);
    while let Some(blocks) = read.recv().await {
        (messages, bytes) = (messages + 1, bytes + u64::from(blocks.length));
        send(group, writer, &Message::RollbackBlocks(blocks)).await?;
        failpoint::passed(Step::RollbackBlocksSent);
    }
    reading.await.unwrap_or_else(|_| Err(Error::new(Code::FAILED, "a thread failed: see the log")))?;
    send(group, writer, &Message::RollbackEnd { messages, bytes }).await
}

/// Until the agent says that it is over.
async fn read_answers(group: &Group, reader: &mut MessageReader, listener: Listener<'_>) -> Result<Seq> {
    loop {
        match next(group, reader).await? {
            Message::RollbackDone { bytes } => listener(Told::Wrote { bytes }),
            Message::RollbackSealed { seq } => return Ok(seq),
            other => return Err(out_of_place(group, &other)),
        }
    }
}

async fn send(group: &Group, writer: &mut MessageWriter, message: &Message) -> Result<()> {
    writer.send(message).await.map_err(|error| gone(group).with_source(error))
}

async fn next(group: &Group, reader: &mut MessageReader) -> Result<Message> {
    match reader.next().await {
        Ok(Some(Message::RollbackRefused { reason, text })) => Err(denied(group.name().as_str(), reason, &text)),
        Ok(Some(message)) => Ok(message),
        Ok(None) => Err(gone(group)),
        Err(error) => Err(gone(group).with_source(error)),
    }
}

fn gone(group: &Group) -> Error {
    let name = group.name();
    Error::new(Code::NO_SESSION, format!("the agent of {name} has gone"))
        .hint(format!("what was begun is gone on with by itself when it is back: backspool status {name}"))
}

fn out_of_place(group: &Group, message: &Message) -> Error {
    Error::new(Code::FAILED, format!("the agent of {} says {:?}, which is out of place", group.name(), message.tag()))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|_| Err(Error::new(Code::FAILED, "a thread failed: see the log")))
}
