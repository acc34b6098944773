//! The receiver: its writer, its sessions and its store, stepped by the world.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use journal::frame::Frame;
use journal::store::{Version, View};
use journal::types::{FrameNo, GroupId, ResyncId, Seq, SessionId};
use journal::wire::{Message, Refusal, RefusalCode};
use receiver::catalog::{GroupEntry, Name};
use receiver::group::{Attachment, Group, Opening, Writer, stepped};
use receiver::session::state::{Admit, BaseOrder, LiveOrder, Opening as Opens, base_news, news};
use receiver::session::wire_base;

use crate::disk::Machine;
use crate::link::{ConnId, Stream};
use crate::time::{entropy, receiver_now};

/// Small, so that histories have several.
const SEGMENT_BYTES: u64 = 64 * 1024;

#[derive(Debug)]
pub(crate) struct Receiver {
    pub(crate) group: Group,
    writer: Writer,
    sessions: BTreeMap<ConnId, Session>,
    next_session: u64,
}

#[derive(Debug)]
struct Session {
    id: SessionId,
    attachment: Attachment,
    order: LiveOrder,
    acked: Option<Seq>,
    base: Option<Base>,
    /// What is asked for what was changed, and since when.
    changed: Option<(View, Option<Seq>)>,
    /// Marks that were asked for, by request.
    marks: BTreeMap<u64, String>,
}

#[derive(Debug)]
struct Base {
    resync: ResyncId,
    order: BaseOrder,
    acked: Option<FrameNo>,
}

/// What a session says.
pub(crate) type Answers = Vec<(Stream, Message)>;

impl Receiver {
    pub(crate) fn start(machine: &Machine, id: GroupId, next_session: u64) -> Self {
        let name = |text| Name::parse(text).unwrap();
        let entry = GroupEntry { id, name: name("db"), agent: name("web"), retention: receiver::Retention::default() };
        let opening =
            Opening { disk: machine.disk(), reserve: None, segment_bytes: SEGMENT_BYTES, entropy, now: receiver_now };
        let (group, writer) = stepped(entry, opening);
        Self { group, writer, sessions: BTreeMap::new(), next_session }
    }

    /// The number after that of the last session: the clock keeps them growing across restarts.
    pub(crate) fn stop(self, cleanly: bool) -> u64 {
        if cleanly {
            self.writer.stop();
        }
        self.next_session
    }

    /// What readers see.
    pub(crate) fn version(&self) -> Option<Arc<Version>> {
        self.group.library().ok().map(|library| library.now())
    }

    /// The writer does what waits.
    pub(crate) fn write(&mut self) -> bool {
        self.writer.step()
    }

    pub(crate) fn leave(&mut self, conn: ConnId) {
        self.sessions.remove(&conn);
    }

    /// A message that arrived; what is answered, or why the stream ends.
    pub(crate) fn on_message(&mut self, conn: ConnId, stream: Stream, message: Message) -> Result<Answers, Refusal> {
        let known = self.sessions.get_mut(&conn);
        match (known, message) {
            (known, first @ (Message::OpenGroup { .. } | Message::OpenBase { .. })) => match (Opens::of(first)?, known)
            {
                (Opens::Group { group, .. }, None) => self.open(conn, group),
                (Opens::Base { group, resync }, Some(session)) => {
                    let ingest = session.attachment.ingest.clone();
                    let head = finish(ingest.open_base(resync), &mut self.writer)?.map(wire_base);
                    let acked = head.map(|head| head.frame);
                    session.base = Some(Base { resync, order: BaseOrder::new(group, resync, head), acked });
                    Ok(vec![(Stream::Base, Message::BaseOpened(head))])
                }
                (opened, _) => panic!("{opened:?} out of place"),
            },
            // Of a session that was refused.
            (None, _) => Ok(Vec::new()),
            (Some(session), Message::Frame(bytes)) => {
                let frame = Frame::check(bytes)?;
                let ingest = session.attachment.ingest.clone();
                match (stream, &mut session.base) {
                    (Stream::Live, _) => {
                        if session.order.admit(&frame)? == Admit::Next {
                            finish(ingest.live(frame), &mut self.writer)?;
                        }
                    }
                    (Stream::Base, Some(base)) => {
                        if base.order.admit(&frame)? == Admit::Next {
                            finish(ingest.base(base.resync, frame), &mut self.writer)?;
                        }
                    }
                    (Stream::Base | Stream::Changed, _) => panic!("a frame of a base that was not opened"),
                }
                Ok(Vec::new())
            }
            // As `session::changed` does.
            (Some(session), Message::OpenChanged { after, at, .. }) => {
                let library = self.group.library().map_err(|error| internal(&error))?;
                let version = library.now();
                let view = version.view(at).map_err(|error| internal(&error))?;
                let time = version.time_of(at).map_err(|error| internal(&error))?;
                session.changed = Some((view, after));
                Ok(vec![(Stream::Changed, Message::ChangedReady(time.expect("the receiver's own head")))])
            }
            (Some(session), Message::ChangedFrom { volume, first }) => {
                let (view, after) = session.changed.as_ref().expect("it was opened");
                let changed = view.changed_extents(*after, volume, first).map_err(|error| internal(&error))?;
                Ok(vec![(Stream::Changed, Message::ChangedExtents(changed))])
            }
            (Some(_), Message::MarkDone { .. } | Message::MarkFailed { .. } | Message::Bye) => Ok(Vec::new()),
            (Some(_), other) => panic!("{:?} out of place", other.tag()),
        }
    }

    fn open(&mut self, conn: ConnId, group: GroupId) -> Result<Answers, Refusal> {
        self.next_session += 1;
        let id = SessionId(self.next_session);
        let attachment = finish(self.group.attach(id), &mut self.writer)?;
        let head = attachment.head;
        let (order, acked) = (LiveOrder::new(group, head), head.map(|head| head.seq));
        let (base, changed, marks) = (None, None, BTreeMap::new());
        self.sessions.insert(conn, Session { id, attachment, order, acked, base, changed, marks });
        Ok(vec![(Stream::Live, Message::Opened(head))])
    }

    /// Connections that have a session.
    pub(crate) fn conns(&self) -> Vec<ConnId> {
        self.sessions.keys().copied().collect()
    }

    /// What became durable.
    pub(crate) fn news(&mut self, conn: ConnId) -> Result<Answers, Refusal> {
        let Some(session) = self.sessions.get_mut(&conn) else { return Ok(Vec::new()) };
        let now = session.attachment.progress.borrow_and_update().clone();
        let mut answers = Vec::new();
        if let Some(head) = news(&now, session.id, session.acked)? {
            session.acked = Some(head.seq);
            answers.push((Stream::Live, Message::Durable(head)));
        }
        if let Some(base) = &mut session.base
            && let Some(head) = base_news(&now, session.id, base.resync, base.acked)?
        {
            base.acked = Some(head.frame);
            answers.push((Stream::Base, Message::BaseDurable(head)));
        }
        Ok(answers)
    }

    /// Asks for a mark.
    pub(crate) fn ask_for_mark(&mut self, conn: ConnId, request: u64, name: String) -> Option<Message> {
        let session = self.sessions.get_mut(&conn)?;
        session.marks.insert(request, name.clone());
        Some(Message::MarkRequest { request, locked_until: None, name })
    }

    /// The name of a mark that was asked for.
    pub(crate) fn mark(&mut self, conn: ConnId, request: u64) -> Option<String> {
        self.sessions.get_mut(&conn)?.marks.remove(&request)
    }
}

fn internal(error: &dyn std::fmt::Display) -> Refusal {
    Refusal::new(RefusalCode::Internal, error.to_string())
}

/// Waits as a session does, while the writer works.
fn finish<T>(future: impl Future<Output = Result<T, Refusal>>, writer: &mut Writer) -> Result<T, Refusal> {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..4 {
        if let Poll::Ready(result) = future.as_mut().poll(&mut context) {
            return result;
        }
        writer.step();
    }
    Err(Refusal::new(RefusalCode::Internal, "the writer does not answer"))
}
