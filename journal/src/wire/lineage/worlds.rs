//! Every small world: one machine and its copies, a receiver, and all that can happen to them in a few steps.
//!
//! ```text
//!   write · send · acknowledge · drop what was acknowledged · kill -9 · power cut · reconnect
//!   agent's state restored from an old copy · machine cloned while it runs · clone started elsewhere
//!   receiver's store restored from an old copy, or replaced by an empty one · a person says --take-over
//! ```
//!
//! A frame is its place in the order. Who wrote what is known to the world, never to the function that is judged.

#![expect(clippy::indexing_slicing, reason = "a test that indexes wrongly fails")]

use std::collections::HashSet;

use super::*;
use crate::types::{ChainHead, FrameNo, Hash};

/// Who wrote a frame, in which epoch, and a number that no other frame has: its chain head says all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Frame {
    epoch: u8,
    unique: u8,
    writer: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Agent {
    /// Which machine it really is: not what it knows.
    writer: u8,
    /// Its order, of which it holds what follows `tail`.
    order: Vec<Frame>,
    tail: usize,
    acked: Option<(usize, Frame)>,
    epochs: Vec<(u8, Option<(usize, Frame)>)>,
    /// In its epoch's stream: it may send.
    open: bool,
    refused: bool,
    copied: bool,
    take_over: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    agents: Vec<Agent>,
    receiver: Vec<Frame>,
    /// Copies that were made of the receiver, and of the first agent's state directory.
    old_store: Option<Vec<Frame>>,
    old_state: Option<Agent>,
    next: u8,
    epochs: u8,
    /// A person or an accident interfered: only then may an agent be refused.
    forked: bool,
    /// A clone that nothing tells from the original was started, or a copy that took over: its early runs are the original's too.
    twins: bool,
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Write(usize),
    Connect(usize),
    Send(usize),
    Acknowledge(usize),
    Drop(usize),
    Kill(usize),
    PowerCut(usize),
    CopyStore,
    RestoreStore,
    EmptyStore,
    CopyState,
    RestoreState,
    /// Of the whole machine, running: nothing tells it apart.
    Twin,
    /// Of the state directory, to another machine.
    StartCopy,
    TakeOver(usize),
}

fn head(order: &[Frame], length: usize) -> Option<Head> {
    let frame = order.get(length.checked_sub(1)?)?;
    let number = u64::try_from(length).unwrap();
    // The chain goes over all before it: two orders that differ anywhere before have other heads.
    let bytes: Vec<u8> = order[..length].iter().flat_map(|frame| [frame.epoch, frame.unique, frame.writer]).collect();
    let (seq, no) = (Seq::new(number).unwrap(), FrameNo::new(number).unwrap());
    Some(Head { epoch: EpochId([frame.epoch; 16]), seq, frame: no, chain: ChainHead(Hash::of(&bytes)) })
}

impl Agent {
    fn first() -> Self {
        let mut agent = Self {
            writer: 0,
            order: Vec::new(),
            tail: 0,
            acked: None,
            epochs: Vec::new(),
            open: false,
            refused: false,
            copied: false,
            take_over: false,
        };
        agent.begin(1, 1);
        agent
    }

    /// A run begins at the end of what it knows.
    fn begin(&mut self, epoch: u8, unique: u8) {
        let parent = self.order.last().map(|frame| (self.order.len(), *frame));
        self.epochs.push((epoch, parent));
        self.order.push(Frame { epoch, unique, writer: self.writer });
        (self.open, self.refused) = (false, false);
    }

    fn decide(&self, receiver: &[Frame]) -> Decision {
        let place = |place: &Option<(usize, Frame)>| {
            place.map(|(length, frame)| {
                let number = u64::try_from(length).unwrap();
                let (seq, no) = (Seq::new(number).unwrap(), FrameNo::new(number).unwrap());
                Head { epoch: EpochId([frame.epoch; 16]), seq, frame: no, chain: ChainHead(Hash([9; 32])) }
            })
        };
        let epochs: Vec<OwnEpoch> =
            self.epochs.iter().map(|(id, parent)| OwnEpoch { id: EpochId([*id; 16]), parent: place(parent) }).collect();
        let at = receiver.len();
        let holds = at >= self.tail && at <= self.order.len() && at > 0;
        decide(&Facts {
            epochs: &epochs,
            tail: head(&self.order, self.tail),
            head: head(&self.order, self.order.len()),
            acked: place(&self.acked),
            receiver: head(receiver, at),
            found: if holds { head(&self.order, at) } else { None },
            copied: self.copied,
            disturbed: false,
            take_over: self.take_over,
        })
    }
}

impl World {
    fn new() -> Self {
        Self {
            agents: vec![Agent::first()],
            receiver: Vec::new(),
            old_store: None,
            old_state: None,
            next: 2,
            epochs: 2,
            forked: false,
            twins: false,
        }
    }

    fn begin(&mut self, who: usize) {
        self.agents[who].begin(self.epochs, self.next);
        self.epochs += 1;
        self.next += 1;
    }

    /// What may happen now.
    fn events(&self) -> Vec<Event> {
        use Event::*;
        let mut events = vec![CopyStore, EmptyStore, CopyState];
        events.extend(self.old_store.as_ref().map(|_| RestoreStore));
        events.extend(self.old_state.as_ref().map(|_| RestoreState));
        if self.agents.len() == 1 {
            events.push(Twin);
            events.extend(self.old_state.as_ref().map(|_| StartCopy));
        }
        for (who, agent) in self.agents.iter().enumerate() {
            events.extend([Write(who), Kill(who), PowerCut(who)]);
            events.push(if agent.open { Send(who) } else { Connect(who) });
            if agent.open {
                events.push(Acknowledge(who));
            }
            if agent.acked.is_some_and(|(length, _)| length > agent.tail) {
                events.push(Drop(who));
            }
            events.extend(agent.refused.then_some(TakeOver(who)));
        }
        events
    }

    /// The world after it; `None`: nothing happens.
    fn after(&self, event: Event) -> Option<Self> {
        let mut world = self.clone();
        match event {
            Event::Write(who) => {
                let agent = &mut world.agents[who];
                let (epoch, _) = *agent.epochs.last()?;
                agent.order.push(Frame { epoch, unique: world.next, writer: agent.writer });
                world.next += 1;
            }
            Event::Connect(who) => world.connect(who),
            Event::Send(who) => {
                let agent = &world.agents[who];
                let next = *agent.order.get(world.receiver.len())?;
                // What the receiver checks of each frame: it continues exactly what is there.
                let continues = agent.order[..world.receiver.len()] == world.receiver[..];
                assert!(
                    continues && world.receiver.len() >= agent.tail,
                    "an open stream that does not continue: {self:?}"
                );
                world.receiver.push(next);
            }
            Event::Acknowledge(who) => {
                let at = world.receiver.len();
                let last = *world.receiver.last()?;
                let agent = &mut world.agents[who];
                if agent.acked.is_some_and(|(length, _)| length >= at) {
                    return None;
                }
                agent.acked = Some((at, last));
            }
            Event::Drop(who) => {
                let agent = &mut world.agents[who];
                agent.tail = agent.acked?.0.min(agent.order.len());
            }
            Event::Kill(who) => {
                world.begin(who);
            }
            Event::PowerCut(who) => {
                let agent = &mut world.agents[who];
                // All of its spool; what was acknowledged is in the state.
                let known = agent.acked.map_or(0, |(length, _)| length).min(agent.order.len());
                agent.order.truncate(known);
                agent.tail = known;
                world.begin(who);
            }
            Event::CopyStore => world.old_store = Some(world.receiver.clone()),
            Event::RestoreStore => {
                world.receiver = world.old_store.clone()?;
                world.close_all();
            }
            Event::EmptyStore => {
                world.receiver.clear();
                world.close_all();
            }
            Event::CopyState => world.old_state = Some(world.agents[0].clone()),
            Event::RestoreState => {
                // To the same place on the same machine: the whole disk was taken back.
                let copied = world.agents[0].copied;
                world.agents[0] = Agent { copied, ..world.old_state.clone()? };
                world.begin(0);
                world.forked = true;
            }
            Event::Twin => {
                world.agents.push(Agent { writer: 1, open: false, ..world.agents[0].clone() });
                (world.forked, world.twins) = (true, true);
            }
            Event::StartCopy => {
                world.agents.push(Agent { writer: 1, copied: true, ..world.old_state.clone()? });
                world.begin(1);
                world.forked = true;
            }
            Event::TakeOver(who) => world.agents[who].take_over = true,
        }
        Some(world)
    }

    /// Whatever streams there are end.
    fn close_all(&mut self) {
        self.agents.iter_mut().for_each(|agent| agent.open = false);
    }

    /// An agent opens the group, and does what the function says: all that must hold is checked here.
    fn connect(&mut self, who: usize) {
        let decision = self.agents[who].decide(&self.receiver);
        let before = self.clone();
        // The newest session is the only one.
        self.close_all();
        self.twins |= self.agents[who].copied && self.agents[who].take_over;
        let (at, agent) = (self.receiver.len(), &mut self.agents[who]);
        match decision {
            Decision::SendFrom(from) | Decision::ResendFrom(from) => {
                assert_eq!(from, Seq::new(u64::try_from(at + 1).unwrap()).unwrap());
                assert!(at >= agent.tail && at <= agent.order.len(), "it does not hold what it is to send: {before:?}");
                assert!(agent.order[..at] == self.receiver[..], "the receiver has another history: {before:?}");
                let lost = agent.acked.is_some_and(|(length, _)| length > at);
                assert_eq!(matches!(decision, Decision::ResendFrom(_)), lost, "{before:?}");
                assert!(!agent.copied || agent.take_over, "a copy goes on by itself: {before:?}");
                (agent.open, agent.refused, agent.copied, agent.take_over) = (true, false, false, false);
            }
            Decision::Rebase(reason) => {
                let writers: HashSet<u8> = self.receiver.iter().map(|frame| frame.writer).collect();
                let taken = agent.take_over;
                assert!(taken || !agent.copied, "a copy rebases by itself: {before:?}");
                assert_eq!(reason == RebaseReason::TakenOver, taken && reason == RebaseReason::TakenOver);
                // By itself it only ever goes on from what it wrote, unless a twin cannot be told from it.
                assert!(
                    taken || self.twins || writers.iter().all(|&writer| self.forked || writer == agent.writer),
                    "{before:?}"
                );
                // The order goes on at the receiver's head; nothing of the receiver's is given up.
                agent.order = self.receiver.clone();
                agent.tail = at;
                agent.acked = self.receiver.last().map(|frame| (at, *frame));
                (agent.copied, agent.take_over) = (false, false);
                self.begin(who);
                self.agents[who].open = true;
            }
            Decision::Refuse(_) => {
                assert!(self.forked, "an agent alone is refused: {before:?}");
                assert!(!agent.take_over, "who takes over is never refused: {before:?}");
                agent.refused = true;
            }
        }
        assert_eq!(self.receiver, before.receiver, "a decision changed the receiver");
    }

    /// A person leaves only one agent running, and says that it goes on: everything comes over.
    fn converges(&self, who: usize) {
        let mut world = self.clone();
        for _ in 0..2 {
            world.connect(who);
            if world.agents[who].refused && !world.agents[who].open {
                world.agents[who].take_over = true;
            }
        }
        let (agent, mut receiver) = (&world.agents[who], world.receiver.clone());
        assert!(agent.open, "it never goes on: {self:?}");
        receiver.extend(&agent.order[receiver.len()..]);
        assert_eq!(receiver, agent.order, "{self:?}");
        // And from then on nobody else does by himself what was not his before.
        for (other, agent) in world.agents.iter().enumerate().filter(|(other, _)| *other != who) {
            let decision = agent.decide(&receiver);
            let goes_on = match decision {
                // Nothing of it is another's: what is there is the beginning of both.
                _ if agent.order.starts_with(&receiver) => false,
                Decision::SendFrom(_) | Decision::ResendFrom(_) => true,
                // A twin's run looks as its own one did before a power cut: it compares, and from then on the other is refused.
                Decision::Rebase(_) => !self.twins,
                Decision::Refuse(_) => false,
            };
            assert!(!goes_on || agent.take_over, "{other} goes on as well: {decision:?} {self:?}");
        }
    }
}

#[test]
fn in_every_small_world_no_history_is_lost_and_no_two_are_accepted() {
    let depth = std::env::var("BACKSPOOL_LINEAGE_STEPS").ok().and_then(|text| text.parse().ok()).unwrap_or(6);
    let mut seen = HashSet::from([World::new()]);
    let mut edge = vec![World::new()];
    let (mut steps, mut refused, mut converged) = (0, 0, 0);
    for _ in 0..depth {
        let mut next = Vec::new();
        for world in &edge {
            for event in world.events() {
                steps += 1;
                let Some(after) = world.after(event) else { continue };
                if seen.insert(after.clone()) {
                    next.push(after);
                }
            }
        }
        edge = next;
    }
    for world in &seen {
        refused += usize::from(world.agents.iter().any(|agent| agent.refused));
        for who in 0..world.agents.len() {
            world.converges(who);
            converged += 1;
        }
    }
    println!(
        "{} worlds of up to {depth} steps, {steps} steps, {refused} with a refused agent, {converged} converged",
        seen.len()
    );
    assert!(refused > 100);
}
