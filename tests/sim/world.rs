//! Everything there is in one seed, and how what was said on one side comes to the other.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use agent::base::Known;
use agent::capture::{Clock, Terms, WhenFull};
use agent::run::rungs::Rung;
use agent::sender::state::{Next, Stream as Sending, is_final, needs_rebase};
use agent::sender::window::Step;
use journal::disk::sim::Rng;
use journal::types::{BootId, GroupId, Head, Sectors, Seq, VolumeNo};
use journal::wire::{Message, NoMark, RebaseReason, Refusal, RefusalCode};
use oracle::Volume;

use crate::agent::{Agent, Host, Session, Stage};
use crate::client::Client;
use crate::disk::Machine;
use crate::events::{Ends, Mood};
use crate::judge::Judge;
use crate::layout::Layout;
use crate::link::{ConnId, End, Link, Stream};
use crate::receiver::Receiver;
use crate::source::Source;
use crate::time::{Clocks, entropy};
use crate::trace::{Counts, Outcome, Trace};

const GROUP: GroupId = GroupId([7; 16]);

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) rng: Rng,
    pub(crate) trace: Trace,
    pub(crate) counts: Counts,
    pub(crate) mood: Mood,
    pub(crate) host: Host,
    /// `None`: it does not run.
    pub(crate) agent: Option<Agent>,
    /// Where the receiver's store is.
    pub(crate) store: Machine,
    /// `None`: it does not run.
    pub(crate) receiver: Option<Receiver>,
    pub(crate) next_session: u64,
    pub(crate) link: Link,
    pub(crate) judge: Judge,
    marks: u64,
    /// When what is out of order now is in order again, in steps from now: the link, the receiver's disk, the spool's.
    pub(crate) outages: [Option<u64>; 3],
    /// The power of the agent's host went, or the spool's disk failed.
    pub(crate) spool_is_lost: bool,
    /// Whether the agent's process, or the whole host, ends when its spool's disk stops; the receiver's machine.
    pub(crate) host_goes: bool,
    /// When the logs of what is hot were tended last, since boot.
    tended: u64,
    /// Receivers of this seed can say what they changed.
    can_say: bool,
}

macro_rules! note {
    ($world:expr, $($what:tt)*) => { $world.trace.note(format_args!($($what)*)) };
}
pub(crate) use note;

/// One run of a seed, from the beginning to where all is healed, quiet and compared.
pub(crate) fn run(seed: u64, prints: bool) -> Outcome {
    let mut world = World::new(seed, prints);
    if world.rng.chance(1, 2) {
        world.calm();
    }
    let steps = 100 + world.rng.below(500);
    for _ in 0..steps {
        world.step();
    }
    world.heal();
    world.rest();
    world.end()
}

impl World {
    fn new(seed: u64, prints: bool) -> Self {
        let mut rng = Rng::new(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let clocks = Clocks::new(rng.u64());
        let layout = Layout::new(&mut rng);
        let mut volume = Volume::new(seed, layout.bytes());
        volume.holes_percent = [0, 30, 100][rng.below_len(3)];
        let row = Client::initial(&volume);
        let mut source = |number| {
            let size = grown(&layout, number, &mut rng);
            Source::new(layout.of(number), size, &row, Arc::clone(&clocks), rng.u64())
        };
        let sources: Vec<_> = layout.numbers().map(&mut source).collect();
        let mut client = Client::new(layout.clone(), volume, rng.u64());
        client.begin(sources.clone());
        let client = Arc::new(Mutex::new(client));
        let when_full = if rng.chance(1, 5) { WhenFull::BlockWrites } else { WhenFull::Track };
        let limit_bytes = if rng.chance(1, 2) { (64 + rng.below(192)) * 1024 } else { 64 << 20 };
        let host = Host {
            clocks,
            layout,
            sources,
            machine: Machine::new(rng.u64(), false),
            hot: rng.chance(1, 2).then(|| Machine::new(rng.u64(), true)),
            proofs: BTreeMap::new(),
            state: Host::empty_state(GROUP),
            client,
            limit_bytes,
            segment_bytes: (limit_bytes / 8).clamp(16 * 1024, 64 * 1024),
            terms: Terms { when_full, flush_wait: None },
            boot: BootId(entropy()),
        };
        let mood = Mood::new(&mut rng);
        let store = Machine::new(rng.u64(), true);
        let can_say = !rng.chance(1, 8);
        let mut world = Self {
            rng,
            trace: Trace::new(prints),
            counts: Counts::default(),
            mood,
            host,
            agent: None,
            store,
            receiver: None,
            next_session: 1,
            link: Link::default(),
            judge: Judge::default(),
            marks: 0,
            outages: [None; 3],
            spool_is_lost: false,
            host_goes: false,
            tended: 0,
            can_say,
        };
        note!(world, "{:?}, spool of {limit_bytes}, {when_full:?}, {:?}", world.host.layout, world.mood);
        world
    }

    pub(crate) fn start_agent(&mut self) {
        match self.host.start() {
            Ok(agent) => {
                note!(self, "agent starts: epoch {}, {:?}, {:?}", agent.run.epoch, agent.run.stage, agent.crash);
                self.agent = Some(agent);
                self.note_run();
            }
            Err(error) => note!(self, "agent does not start: {error}"),
        }
    }

    /// Whatever has lost its power on the way does not go on.
    pub(crate) fn power(&mut self) {
        if self.store.is_off() {
            self.counts.crashes_within_a_step += 1;
            self.receiver_ends(Ends::Crash);
        }
        if self.host.machine.is_off() {
            self.counts.crashes_within_a_step += 1;
            self.agent_ends(self.host_goes);
        }
    }

    /// What the agent does once a second, and did not do for that long.
    pub(crate) fn tend(&mut self) {
        let now = self.host.clocks.boottime().0;
        if now.abs_diff(self.tended) < 1_000_000 {
            return;
        }
        self.tended = now;
        if let Some(agent) = &self.agent {
            agent.tend(&self.host);
            // As every few seconds.
            if self.rng.chance(1, 3) {
                agent.save_durable(&mut self.host);
            }
        }
    }

    /// The agent has begun a run.
    fn note_run(&mut self) {
        let run = self.host.client.lock().unwrap().runs.len() - 1;
        if let Some(agent) = &self.agent {
            self.judge.run_begins(agent.run.epoch, run);
        }
    }

    pub(crate) fn start_receiver(&mut self) {
        let receiver = Receiver::start(&self.store, GROUP, self.next_session);
        note!(self, "receiver starts at {:?}", receiver.version().and_then(|version| version.head()));
        self.receiver = Some(receiver);
        self.look();
    }

    /// Judges what the receiver offers.
    pub(crate) fn look(&mut self) {
        let Some(version) = self.receiver.as_ref().and_then(Receiver::version) else { return };
        self.judge.look(&version, &self.host.client.lock().unwrap(), &mut self.rng);
    }

    pub(crate) fn connect(&mut self) -> bool {
        let Some(agent) = self.agent.as_mut().filter(|agent| agent.session.is_none()) else { return false };
        if self.receiver.is_none() {
            return false;
        }
        let Some(conn) = self.link.connect() else { return false };
        let (stream, can_say) = (Sending::default(), self.can_say);
        agent.session = Some(Session { conn, stream, is_open: false, can_say, asking: None, base: None });
        let open = Message::OpenGroup { group: GROUP, name: "db".to_owned() };
        self.link.send(conn, End::Receiver, Stream::Live, open);
        note!(self, "connection {conn}");
        true
    }

    /// The agent's session is over.
    pub(crate) fn agent_leaves(&mut self) {
        if let Some(session) = self.agent.as_mut().and_then(|agent| agent.session.take()) {
            note!(self, "agent leaves {}", session.conn);
            self.link.leave(session.conn, End::Agent, &mut self.rng);
        }
    }

    pub(crate) fn receiver_leaves(&mut self, conn: ConnId) {
        note!(self, "receiver leaves {conn}");
        self.receiver.iter_mut().for_each(|receiver| receiver.leave(conn));
        self.link.leave(conn, End::Receiver, &mut self.rng);
    }

    /// One message arrives.
    pub(crate) fn deliver(&mut self) -> bool {
        let Some((conn, to, stream, message)) = self.link.deliver(&mut self.rng) else { return false };
        match to {
            End::Receiver => self.receiver_gets(conn, stream, message),
            End::Agent => self.agent_gets(conn, message),
        }
        true
    }

    fn receiver_gets(&mut self, conn: ConnId, stream: Stream, message: Message) {
        note!(self, "receiver gets {:?} on {conn} {stream:?}", message.tag());
        let Some(receiver) = &mut self.receiver else { return self.receiver_leaves(conn) };
        if let Message::MarkDone { request, .. } = message {
            receiver.mark(conn, request);
        }
        let answers = receiver.on_message(conn, stream, message);
        self.answer(conn, answers);
    }

    /// What the receiver has to say on a connection.
    pub(crate) fn answer(&mut self, conn: ConnId, answers: Result<Vec<(Stream, Message)>, Refusal>) {
        if self.store.is_off() {
            // Nobody hears it.
            return;
        }
        match answers {
            Ok(answers) => {
                for (stream, message) in answers {
                    note!(self, "receiver says {message:?} on {conn}");
                    self.link.send(conn, End::Agent, stream, message);
                }
            }
            Err(refusal) => {
                note!(self, "receiver refuses on {conn}: {refusal}");
                use RefusalCode as Code;
                let is_legal =
                    matches!(refusal.code, Code::Internal | Code::NoSpace | Code::Superseded | Code::BaseLost);
                assert!(is_legal, "the receiver refuses what a right agent sent: {refusal}");
                self.link.send(conn, End::Agent, Stream::Live, Message::Refused(refusal));
                self.receiver_leaves(conn);
            }
        }
    }

    fn agent_gets(&mut self, conn: ConnId, message: Message) {
        let Some(agent) = self.agent.as_mut().filter(|agent| agent.session.as_ref().is_some_and(|s| s.conn == conn))
        else {
            self.link.leave(conn, End::Agent, &mut self.rng);
            return;
        };
        match message {
            Message::Opened(head) => self.on_opened(head),
            Message::Durable(head) => {
                if agent.on_durable(head) {
                    note!(self, "agent hears that {} is durable, chain {}", head.seq, head.chain);
                    self.judge.promised(head);
                }
            }
            Message::BaseOpened(head) => {
                let goes_on = agent.on_base_opened(head);
                note!(self, "agent hears that the base is at {head:?}; it goes on: {goes_on}");
            }
            Message::BaseDurable(head) => {
                note!(self, "agent hears that base frame {} is durable", head.frame);
                agent.on_base_durable(head);
            }
            Message::MarkRequest { request, name, .. } => {
                let answer = match self.mark(name) {
                    Some(seq) => Message::MarkDone { request, seq },
                    None => Message::MarkFailed { request, reason: NoMark::NoPoints, text: String::new() },
                };
                self.link.send(conn, End::Receiver, Stream::Live, answer);
            }
            Message::ChangedReady(_) | Message::ChangedExtents(_) => self.on_changed(conn, &message),
            Message::Refused(refusal) => self.on_refused(&refusal),
            other => panic!("{:?} out of place", other.tag()),
        }
    }

    fn on_opened(&mut self, head: Option<Head>) {
        let Some(agent) = &mut self.agent else { return };
        let epoch = agent.run.epoch;
        match agent.on_opened(&mut self.host, head) {
            Ok((next, asks)) => {
                note!(self, "agent opens at {:?}: {next:?}", head.map(|head| head.seq));
                match next {
                    Next::Refuse(stranger) => panic!("an agent's own history is strange to it: {stranger}"),
                    Next::Rebase { reason, .. } => {
                        // What the receiver lacks is in the spool, unless the host's disk lost it.
                        let lost = reason == RebaseReason::Behind;
                        assert!(!lost || self.spool_is_lost, "the agent dropped what the receiver has not got");
                        self.counts.rebases += 1;
                    }
                    Next::Send { lost } => {
                        assert!(!lost, "the receiver lost what it had called durable");
                    }
                }
                if let (Some(question), Some(session)) = (asks, self.agent.as_ref().and_then(|it| it.session.as_ref()))
                {
                    self.link.send(session.conn, End::Receiver, Stream::Changed, question);
                }
                head.into_iter().for_each(|head| self.judge.promised(head));
            }
            Err(error) => {
                note!(self, "agent cannot open: {error}");
                self.agent_leaves();
            }
        }
        self.note_if_new(epoch);
    }

    /// The receiver says what it changed.
    fn on_changed(&mut self, conn: ConnId, message: &Message) {
        let Some(agent) = &mut self.agent else { return };
        let epoch = agent.run.epoch;
        match agent.on_changed(&mut self.host, message) {
            Ok(Some(question)) => self.link.send(conn, End::Receiver, Stream::Changed, question),
            Ok(None) => {
                let Stage::Wanted(volumes) = &agent.run.stage else { panic!("nothing is compared") };
                let is_partly = volumes.iter().any(|volume| matches!(volume.known, Known::AllBut(_)));
                note!(self, "agent compares {volumes:?}");
                self.counts.hot_agreed += u64::from(is_partly);
                self.counts.hot_doubted += u64::from(!is_partly);
            }
            Err(error) => {
                note!(self, "agent cannot begin anew: {error}");
                self.agent_leaves();
            }
        }
        self.note_if_new(epoch);
    }

    /// A run may have taken the place of that of `epoch`.
    fn note_if_new(&mut self, epoch: journal::types::EpochId) {
        if self.agent.as_ref().is_some_and(|agent| agent.run.epoch != epoch) {
            self.note_run();
        }
    }

    fn on_refused(&mut self, refusal: &Refusal) {
        assert!(!is_final(refusal.code), "refused for good: {refusal}");
        note!(self, "agent is refused: {refusal}");
        if needs_rebase(refusal.code)
            && let Some(agent) = &mut self.agent
        {
            let (epoch, durable) = (agent.run.epoch, agent.durable);
            if let Err(error) = agent.rebase(&mut self.host, durable, RebaseReason::Behind, &BTreeMap::new()) {
                note!(self, "agent cannot rebase: {error}");
            }
            self.counts.rebases += 1;
            self.note_if_new(epoch);
        }
        self.agent_leaves();
    }

    /// A mark, if this instant is a point.
    pub(crate) fn mark(&mut self, name: String) -> Option<Seq> {
        let agent = self.agent.as_ref()?;
        let seq = agent.run.capture.mark(&name, None).unwrap();
        note!(self, "mark {name}: {seq:?}");
        self.judge.marked(name, seq?, agent.run.epoch);
        seq
    }

    pub(crate) fn mark_name(&mut self) -> String {
        self.marks += 1;
        format!("mark {}", self.marks)
    }

    /// The agent sends the next frame of its order.
    pub(crate) fn send(&mut self) -> bool {
        let Some(agent) = &mut self.agent else { return false };
        match agent.next_frame() {
            Ok(Some(frame)) => {
                let end = frame.end().unwrap();
                note!(self, "agent sends up to {} of {}, chain {}", end.seq, end.epoch, end.chain);
                self.judge.sent(&frame);
                if let Some(session) = &agent.session {
                    self.link.send(session.conn, End::Receiver, Stream::Live, Message::Frame(frame.bytes().clone()));
                }
                true
            }
            Ok(None) => false,
            Err(error) => {
                note!(self, "agent cannot read its spool: {error}");
                self.agent_leaves();
                false
            }
        }
    }

    /// A step of the base, if there is one.
    pub(crate) fn base_step(&mut self) -> bool {
        let Some(agent) = &mut self.agent else { return false };
        if let Some(resync) = agent.begin_base(&self.host, &mut self.rng) {
            note!(self, "base {resync} begins");
            return true;
        }
        let Some((resync, step)) = agent.base_step() else { return false };
        let Some(session) = &mut agent.session else { return false };
        let conn = session.conn;
        match step {
            Step::End | Step::Wait => return false,
            Step::Open => {
                session.base = Some((resync, false));
                note!(self, "agent opens base {resync}");
                self.link.send(conn, End::Receiver, Stream::Base, Message::OpenBase { group: GROUP, resync });
            }
            Step::Send => {
                let frame = agent.base_frame().unwrap();
                note!(self, "agent sends base frame {}, chain {}", frame.header().number, frame.head());
                self.link.send(conn, End::Receiver, Stream::Base, Message::Frame(frame.bytes().clone()));
            }
            Step::Seal(_) => {
                let sealed = agent.seal();
                note!(self, "base {resync} is sealed: {sealed:?}");
                self.counts.bases_sealed += u64::from(sealed.is_some());
            }
        }
        true
    }

    /// The base's reader goes on.
    pub(crate) fn read_base(&mut self) -> bool {
        let receiver = self.receiver.as_ref();
        let Some(agent) = &mut self.agent else { return false };
        // Asked on the session's own connection: it has to be open on both sides.
        let conn = agent.session.as_ref().map(|session| session.conn);
        let theirs = |at| {
            let receiver = receiver.filter(|receiver| conn.is_some_and(|conn| receiver.conns().contains(&conn)))?;
            receiver.version()?.view(at).ok().map(Arc::new)
        };
        let Some(told) = agent.read_base(theirs) else { return false };
        note!(self, "{told}");
        true
    }

    pub(crate) fn climb(&mut self) -> bool {
        let Some(agent) = &mut self.agent else { return false };
        let epoch = agent.run.epoch;
        match agent.climb(&mut self.host) {
            Ok(Rung::Stay) => return false,
            Ok(rung) => {
                note!(self, "agent climbs: {rung:?}, {:?}", agent.run.stage);
                match rung {
                    Rung::Respool => self.counts.spools_lost += 1,
                    Rung::Record | Rung::Stay => self.counts.resyncs += 1,
                }
            }
            Err(error) => note!(self, "agent cannot climb: {error}"),
        }
        self.note_if_new(epoch);
        true
    }

    pub(crate) fn spool(&mut self) -> bool {
        let Some(agent) = &mut self.agent else { return false };
        let before = agent.run.capture.state();
        let was = agent.spool();
        let after = agent.run.capture.state();
        if before != after {
            note!(self, "capture: {after:?}");
            self.counts.spools_full += 1;
        }
        was
    }
}

/// A size that a volume may have: its last window, or a part of it.
pub(crate) fn grown(layout: &Layout, volume: VolumeNo, rng: &mut Rng) -> Sectors {
    let whole = layout.size(volume);
    let last = layout.of(volume).pop().expect("a volume has a window");
    match rng.below(2) {
        0 => Sectors::new(whole.count() - rng.below(last.bytes / 1024) / 8 * 8).unwrap(),
        _ => whole,
    }
}
