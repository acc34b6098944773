//! What may happen next.

use agent::source::Storage;
use journal::disk::sim::Rng;
use journal::types::VolumeNo;

use crate::link::End;
use crate::source::SourceFault;
use crate::world::{World, grown, note};

/// How often all becomes whole, in 10,000 steps.
const CALMS: u64 = 25;

/// How a receiver ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ends {
    Kill,
    Crash,
    Stop,
}

/// What a seed is like: how often each thing goes wrong, in 10,000 steps.
#[derive(Clone, Debug)]
pub(crate) struct Mood {
    link: u64,
    agent: u64,
    receiver: u64,
    disks: u64,
    sources: u64,
    clocks: u64,
    /// Changes for each step of anything else.
    busy: u64,
}

impl Mood {
    pub(crate) fn new(rng: &mut Rng) -> Self {
        let mut often = |most: u64| if rng.chance(1, 3) { 0 } else { 1 + rng.below(most) };
        let (link, agent, receiver, disks) = (often(300), often(120), often(120), often(120));
        let (sources, clocks) = (often(120), often(80));
        Self { link, agent, receiver, disks, sources, clocks, busy: 1 + rng.below(8) }
    }
}

impl World {
    /// One thing happens.
    pub(crate) fn step(&mut self) {
        let micros = if self.rng.chance(1, 50) { self.rng.below(3_000_000) } else { self.rng.below(2000) };
        self.host.clocks.pass(micros);
        for what in 0..self.outages.len() {
            match &mut self.outages[what] {
                Some(0) => {
                    self.outages[what] = None;
                    self.ends(what);
                }
                Some(left) => *left -= 1,
                None => {}
            }
        }
        self.tend();
        let Mood { link, agent, receiver, disks, sources, clocks, busy } = self.mood.clone();
        let mut at = self.rng.below(10_000);
        let mut is = |often: u64| {
            let hit = at < often;
            at = at.saturating_sub(often);
            if hit {
                at = u64::MAX;
            }
            hit
        };
        if is(link) {
            self.trouble_link();
        } else if is(agent) {
            self.trouble_agent();
        } else if is(receiver) {
            self.trouble_receiver();
        } else if is(disks) {
            self.trouble_disks();
        } else if is(sources) {
            self.trouble_sources();
        } else if is(clocks) {
            self.set_a_clock();
        } else if is(CALMS) {
            self.calm();
        } else {
            self.go_on(busy);
        }
        self.power();
    }

    /// Something that is no trouble.
    fn go_on(&mut self, busy: u64) {
        match self.rng.below(24 + busy) {
            0 | 1 => _ = self.spool(),
            2 => self.idle(),
            3..=5 => (0..=self.rng.below(3)).for_each(|_| _ = self.send()),
            6..=9 => (0..=self.rng.below(8)).for_each(|_| _ = self.deliver()),
            10 | 11 => _ = self.receiver.as_mut().is_some_and(|receiver| receiver.write()),
            12 | 13 => self.some_news(),
            14 | 15 => (0..=self.rng.below(3)).for_each(|_| _ = self.base_step()),
            16 | 17 => _ = self.read_base(),
            18 | 19 => self.connect_or_start(),
            20 => _ = self.climb(),
            21 | 22 => self.look_or_mark(),
            23 => {
                if let Some(agent) = &self.agent {
                    agent.save_durable(&mut self.host);
                }
            }
            _ => (0..=self.rng.below(3)).for_each(|_| self.client_acts()),
        }
    }

    pub(crate) fn client_acts(&mut self) {
        let acted = self.host.client.lock().unwrap().act();
        if let Some(what) = acted {
            note!(self, "{what}");
        }
    }

    fn idle(&mut self) {
        if let Some(agent) = &mut self.agent {
            self.host.clocks.pass(1_000_000);
            agent.idle();
        }
    }

    fn some_news(&mut self) {
        let conns = self.receiver.as_ref().map(|receiver| receiver.conns()).unwrap_or_default();
        if !conns.is_empty() {
            let conn = conns[self.rng.below_len(conns.len())];
            self.news(conn);
        }
    }

    fn connect_or_start(&mut self) {
        if self.agent.is_none() {
            self.start_agent();
        } else if self.receiver.is_none() {
            self.start_receiver();
        } else {
            self.connect();
        }
    }

    fn look_or_mark(&mut self) {
        match self.rng.below(3) {
            0 => self.look(),
            1 => {
                let name = self.mark_name();
                self.mark(name);
            }
            _ => {
                let name = self.mark_name();
                let conns = self.receiver.as_ref().map(|receiver| receiver.conns()).unwrap_or_default();
                if let (Some(receiver), Some(conn)) = (&mut self.receiver, conns.last())
                    && let Some(message) = receiver.ask_for_mark(*conn, self.rng.u64(), name)
                {
                    self.link.send(*conn, End::Agent, crate::link::Stream::Live, message);
                }
            }
        }
    }

    fn trouble_link(&mut self) {
        self.counts.links_cut += 1;
        let conn = self.agent.as_ref().and_then(|agent| agent.session.as_ref()).map(|session| session.conn);
        match self.rng.below(8) {
            // Both notice; or only one of them yet.
            0 | 1 => self.agent_leaves(),
            2 => conn.into_iter().for_each(|conn| self.receiver_leaves(conn)),
            3 => {
                self.agent_leaves();
                conn.into_iter().for_each(|conn| self.receiver_leaves(conn));
            }
            4 => {
                note!(self, "the link is down");
                self.link.is_down = true;
                self.begins(0);
                self.agent_leaves();
            }
            5 | 6 => {
                self.link.dead = Some([End::Agent, End::Receiver][self.rng.below_len(2)]);
                self.begins(0);
                note!(self, "nothing gets to {:?}", self.link.dead);
            }
            _ => self.notice(),
        }
    }

    /// Who believes in a connection that the other has left does not any more.
    fn notice(&mut self) {
        for conn in self.link.half_open(End::Receiver) {
            self.receiver_leaves(conn);
        }
        let conn = self.agent.as_ref().and_then(|agent| agent.session.as_ref()).map(|session| session.conn);
        if conn.is_some_and(|conn| self.link.half_open(End::Agent).contains(&conn)) {
            self.agent_leaves();
        }
    }

    fn trouble_agent(&mut self) {
        if self.agent.is_none() {
            return self.start_agent();
        }
        match self.rng.below(5) {
            0 | 1 => self.agent_ends(false),
            2 | 3 => self.agent_ends(true),
            _ => {
                self.host.client.lock().unwrap().run_ends();
                self.agent_leaves();
                let Some(agent) = self.agent.take() else { return };
                let is_whole = agent.stop(&mut self.host);
                if self.host.machine.is_off() {
                    // It ended on the way: what it said last nobody knows.
                    return;
                }
                self.counts.agents_stopped += 1;
                note!(self, "agent stops; all is there: {is_whole}");
                self.host.machine.kill(&mut self.rng);
                self.resize_unserved();
            }
        }
    }

    /// The agent's process ends, or its whole host.
    pub(crate) fn agent_ends(&mut self, host_goes: bool) {
        if self.agent.is_some() && self.rng.chance(1, 2) {
            let acted = self.host.client.lock().unwrap().act_unanswered();
            acted.into_iter().for_each(|what| note!(self, "{what}"));
        }
        self.host.client.lock().unwrap().run_ends();
        self.agent_leaves();
        drop(self.agent.take());
        if host_goes {
            note!(self, "host crashes");
            self.spool_is_lost = true;
            self.counts.hosts_crashed += 1;
            self.host.machine.crash(&mut self.rng);
            self.host.hot.iter_mut().for_each(|machine| machine.crash(&mut self.rng));
            self.host.sources.iter().for_each(|source| source.crash(&mut self.rng));
            self.host.client.lock().unwrap().host_crashes();
            // It takes a while to come up.
            self.host.clocks.pass(1_500_000 + self.rng.below(20_000_000));
            self.host.clocks.boot();
            self.host.boot = journal::types::BootId(crate::time::entropy());
        } else {
            note!(self, "agent is killed");
            self.counts.agents_killed += 1;
            self.host.machine.kill(&mut self.rng);
            self.host.client.lock().unwrap().settle();
        }
        self.resize_unserved();
    }

    fn trouble_receiver(&mut self) {
        if self.receiver.is_none() {
            return self.start_receiver();
        }
        let ends = [Ends::Kill, Ends::Kill, Ends::Crash, Ends::Crash, Ends::Stop][self.rng.below_len(5)];
        self.receiver_ends(ends);
        if self.rng.chance(1, 2) {
            self.start_receiver();
        }
    }

    pub(crate) fn receiver_ends(&mut self, ends: Ends) {
        note!(self, "receiver ends: {ends:?}");
        if let Some(receiver) = self.receiver.take() {
            self.next_session = receiver.stop(ends == Ends::Stop);
        }
        match ends {
            Ends::Crash => {
                self.counts.receivers_crashed += 1;
                self.store.crash(&mut self.rng);
            }
            Ends::Kill => {
                self.counts.receivers_killed += 1;
                self.store.kill(&mut self.rng);
            }
            Ends::Stop if self.store.is_off() => self.store.crash(&mut self.rng),
            Ends::Stop => self.store.kill(&mut self.rng),
        }
        for conn in self.link.conns(End::Receiver) {
            self.link.leave(conn, End::Receiver, &mut self.rng);
        }
    }

    /// A source fails, or grows.
    fn trouble_sources(&mut self) {
        let volume = VolumeNo(self.rng.below(u64::from(self.host.layout.volumes)) as u32);
        if self.rng.chance(1, 2) {
            return self.grow(volume);
        }
        let fault = [SourceFault::Write, SourceFault::WriteAndRead, SourceFault::Read, SourceFault::Sync];
        let fault = fault[self.rng.below_len(4)];
        note!(self, "volume {volume}: {fault:?} will fail");
        self.host.source(volume).fail(Some(fault));
    }

    fn grow(&mut self, volume: VolumeNo) {
        let (size, whole) = (self.host.source(volume).size(), self.host.layout.size(volume));
        let Some(agent) = self.agent.as_ref().filter(|_| size < whole) else { return };
        let Some(seq) = agent.grew(&mut self.host, volume, whole) else { return };
        note!(self, "volume {volume} grows from {size:?} to {whole:?} at {seq}");
        self.host.client.lock().unwrap().has_grown(volume, seq, whole);
        self.counts.volumes_resized += 1;
    }

    /// Perhaps somebody cuts a volume, or makes it larger, while no agent runs.
    fn resize_unserved(&mut self) {
        if !self.rng.chance(1, 5) {
            return;
        }
        let volume = VolumeNo(self.rng.below(u64::from(self.host.layout.volumes)) as u32);
        let size = grown(&self.host.layout, volume, &mut self.rng);
        if size == self.host.source(volume).size() {
            return;
        }
        note!(self, "volume {volume} has {size:?} now");
        self.host.source(volume).resize(size);
        self.host.client.lock().unwrap().was_resized(volume);
        self.host.proofs.get_mut(&volume).into_iter().for_each(|unchanged| *unchanged = false);
        self.counts.volumes_resized += 1;
    }

    fn trouble_disks(&mut self) {
        match self.rng.below(12) {
            8 | 9 => {
                let op = self.store.cut_soon(&mut self.rng);
                note!(self, "the receiver's power goes at {op}");
            }
            10 | 11 => {
                let op = self.host.machine.cut_soon(&mut self.rng);
                self.host_goes = self.rng.chance(1, 2);
                note!(self, "the agent ends at {op}, its host too: {}", self.host_goes);
            }
            0..=3 => {
                let what = self.store.hurt(&mut self.rng);
                note!(self, "receiver's disk: {what}");
                self.counts.receiver_faults += 1;
            }
            4 => {
                let what = self.host.machine.hurt(&mut self.rng);
                note!(self, "spool's disk: {what}");
                self.counts.spool_faults += 1;
            }
            5 | 6 => {
                note!(self, "receiver's disk is full");
                self.store.set_full(true);
                self.begins(1);
            }
            _ => {
                note!(self, "spool's disk is full");
                self.host.machine.set_full(true);
                self.begins(2);
            }
        }
    }

    /// An outage begins, for a while.
    fn begins(&mut self, what: usize) {
        let longest = if self.rng.chance(1, 4) { 200 } else { 40 };
        self.outages[what] = Some(self.rng.below(longest));
    }

    /// An outage is over.
    pub(crate) fn ends(&mut self, what: usize) {
        match what {
            0 => (self.link.is_down, self.link.dead) = (false, None),
            1 => self.store.set_full(false),
            _ => self.host.machine.set_full(false),
        }
        note!(self, "what was out of order is in order again: {}", ["link", "store", "spool"][what]);
    }

    fn set_a_clock(&mut self) {
        const HOUR: u64 = 3_600_000_000;
        let micros = [HOUR, 10 * 365 * 24 * HOUR, 700_000][self.rng.below_len(3)];
        let ahead = self.rng.chance(1, 2);
        note!(self, "a clock is set by {micros} us, ahead: {ahead}");
        self.counts.clocks_set += 1;
        if self.rng.chance(1, 2) {
            self.host.clocks.set_agent(ahead, micros);
        } else {
            crate::time::Clocks::set_receiver(ahead, micros);
        }
    }
}
