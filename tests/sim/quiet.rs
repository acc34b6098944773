//! When nothing goes wrong: all comes to rest, and is compared.

use crate::agent::{Agent, Stage};
use crate::link::{ConnId, End};
use crate::receiver::Receiver;
use crate::trace::{Counts, Outcome};
use crate::world::{World, note};

impl World {
    /// Nothing goes wrong any more.
    pub(crate) fn heal(&mut self) {
        for what in 0..self.outages.len() {
            self.outages[what] = None;
            self.ends(what);
        }
        self.store.stays_on();
        self.host.machine.stays_on();
        self.host.sources.iter().for_each(|source| source.fail(None));
    }

    /// For a while nothing goes wrong: all is whole, and clients do this and that.
    pub(crate) fn calm(&mut self) {
        self.heal();
        self.rest();
        note!(self, "all is whole");
        self.counts.calms += 1;
        for _ in 0..2 + self.rng.below(10) {
            self.host.clocks.pass(1_100_000);
            (0..self.rng.below(4)).for_each(|_| self.client_acts());
            while self.spool() {}
            while self.send() {}
            while self.deliver() {}
            self.work();
            while self.deliver() {}
            if let Some(agent) = &self.agent {
                agent.save_durable(&mut self.host);
            }
            self.tend();
        }
    }

    /// Until nothing happens any more.
    pub(crate) fn rest(&mut self) {
        // What a flush lost is known once a client asks for one.
        let mut flushed = false;
        for round in 1..=2000 {
            self.host.clocks.pass(10_000);
            self.tend();
            // A person starts it again, as a disk that failed asks for.
            if round % 200 == 0
                && let Some(receiver) = self.receiver.take()
            {
                for conn in receiver.conns() {
                    self.receiver_leaves(conn);
                }
                self.next_session = receiver.stop(true);
                self.store.kill(&mut self.rng);
            }
            if self.receiver.is_none() {
                self.start_receiver();
            }
            if self.agent.is_none() {
                self.start_agent();
            }
            if self.agent.as_ref().is_some_and(Agent::is_at_rest) {
                if flushed {
                    return;
                }
                for volume in self.host.layout.numbers() {
                    self.host.client.lock().unwrap().flush(volume);
                }
                flushed = true;
            }
            for conn in self.link.half_open(End::Receiver) {
                self.receiver_leaves(conn);
            }
            let conn = self.agent.as_ref().and_then(|agent| agent.session.as_ref()).map(|session| session.conn);
            if conn.is_some_and(|conn| self.link.half_open(End::Agent).contains(&conn)) {
                self.agent_leaves();
            }
            self.connect();
            self.power();
            while self.spool() {}
            while self.send() {}
            self.read_base();
            while self.base_step() {}
            while self.deliver() {}
            self.work();
            self.climb();
        }
        let agent = self.agent.as_ref().map(|agent| (&agent.run.stage, agent.run.capture.state(), agent.durable));
        panic!("it does not come to rest: {agent:?}");
    }

    /// The receiver writes, and says what is durable.
    fn work(&mut self) {
        let Some(receiver) = &mut self.receiver else { return };
        while receiver.write() {}
        for conn in receiver.conns() {
            self.news(conn);
        }
    }

    pub(crate) fn news(&mut self, conn: ConnId) {
        let Some(receiver) = &mut self.receiver else { return };
        let answers = receiver.news(conn);
        self.answer(conn, answers);
    }

    pub(crate) fn end(mut self) -> Outcome {
        self.look();
        let version = self.receiver.as_ref().and_then(Receiver::version).unwrap();
        let client = self.host.client.lock().unwrap();
        self.judge.is_all_there(&version, &client, client.runs.len() - 1);
        assert!(self.agent.iter().all(|agent| matches!(agent.run.stage, Stage::Sealed)));
        let counts = Counts {
            changes: client.done.len() as u64,
            flushes: client.flushes,
            changes_beside_a_base: client.beside_a_base,
            changes_failed: client.failed,
            points_judged: self.judge.points_judged,
            promises: self.judge.promises,
            marks: self.judge.marks(),
            ..self.counts
        };
        drop(client);
        Outcome { trace: self.trace.hash(), counts }
    }
}
