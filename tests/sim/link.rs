//! The way between agent and receiver: connections with streams. Within a stream messages keep their order; streams overtake each other.
//! Each end notices by itself that a connection is gone; until then it believes in it.

use std::collections::{BTreeMap, VecDeque};

use journal::disk::sim::Rng;
use journal::wire::Message;

pub(crate) type ConnId = u64;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum End {
    Agent,
    Receiver,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stream {
    Live,
    Base,
    Changed,
}

#[derive(Debug, Default)]
pub(crate) struct Link {
    conns: BTreeMap<ConnId, Conn>,
    last: ConnId,
    /// Nobody can connect.
    pub(crate) is_down: bool,
    /// Nothing gets to this end.
    pub(crate) dead: Option<End>,
}

#[derive(Debug, Default)]
struct Conn {
    /// Ends that know that it is gone.
    gone: Vec<End>,
    /// On their way, by where to.
    queues: BTreeMap<(End, Stream), VecDeque<Message>>,
}

impl Link {
    /// A new connection, if there is a way.
    pub(crate) fn connect(&mut self) -> Option<ConnId> {
        if self.is_down || self.dead.is_some() {
            return None;
        }
        self.last += 1;
        self.conns.insert(self.last, Conn::default());
        Some(self.last)
    }

    pub(crate) fn send(&mut self, conn: ConnId, to: End, stream: Stream, message: Message) {
        if let Some(conn) = self.conns.get_mut(&conn) {
            conn.queues.entry((to, stream)).or_default().push_back(message);
        }
    }

    /// The next message of some stream.
    pub(crate) fn deliver(&mut self, rng: &mut Rng) -> Option<(ConnId, End, Stream, Message)> {
        let dead = self.dead;
        let ready = |conn: &Conn, to: End| !conn.gone.contains(&to) && dead != Some(to);
        let waiting: Vec<_> = self
            .conns
            .iter()
            .flat_map(|(id, conn)| {
                let full = conn.queues.iter().filter(|((to, _), queue)| !queue.is_empty() && ready(conn, *to));
                full.map(|(key, _)| (*id, *key))
            })
            .collect();
        if waiting.is_empty() {
            return None;
        }
        let (id, key) = waiting[rng.below_len(waiting.len())];
        let message = self.conns.get_mut(&id)?.queues.get_mut(&key)?.pop_front()?;
        Some((id, key.0, key.1, message))
    }

    /// This end is done with the connection. What is on its way to the other may still arrive, or the first part of it.
    pub(crate) fn leave(&mut self, conn: ConnId, end: End, rng: &mut Rng) {
        let Some(known) = self.conns.get_mut(&conn).filter(|known| !known.gone.contains(&end)) else { return };
        known.gone.push(end);
        if known.gone.len() == 2 {
            self.conns.remove(&conn);
            return;
        }
        for ((to, _), queue) in &mut known.queues {
            if *to == end {
                queue.clear();
            } else {
                queue.truncate(rng.below_len(queue.len() + 1));
            }
        }
    }

    /// Connections that this end believes in.
    pub(crate) fn conns(&self, end: End) -> Vec<ConnId> {
        self.conns.iter().filter(|(_, conn)| !conn.gone.contains(&end)).map(|(id, _)| *id).collect()
    }

    /// Connections that this end still believes in and the other has left.
    pub(crate) fn half_open(&self, end: End) -> Vec<ConnId> {
        let half = self.conns.iter().filter(|(_, conn)| !conn.gone.is_empty() && !conn.gone.contains(&end));
        half.map(|(id, _)| *id).collect()
    }
}
