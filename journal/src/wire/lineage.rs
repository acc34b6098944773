//! Decides how an agent goes on with a receiver, from what each has of a group's order.
//!
//! ```text
//!  the agent's order   E1 ───────────────┬─ E2 ────────────┐ head
//!  what it still holds                 tail ═══════════════╡
//!  the receiver's order   E1 ─────── … where does it end?
//! ```
//!
//! | the receiver's head | is | so the agent |
//! |---|---|---|
//! | none | nothing was dropped, nothing acknowledged | sends from the first `Seq` |
//! | none | nothing was dropped, something was acknowledged | sends again from the first `Seq`: the receiver lost it |
//! | none | the agent no longer has the first `Seq` | rebases: the receiver is behind |
//! | on the agent's chain, at or after tail | not below what was acknowledged | sends what follows |
//! | on the agent's chain, at or after tail | below what was acknowledged | sends again what follows |
//! | in an epoch of this agent | beyond where its order left that epoch, or an epoch that its order is not in | rebases: it is ahead |
//! | in an epoch of this agent | below tail | rebases: it is behind |
//! | in an epoch of this agent | between, but with another chain | is a sibling: refuses |
//! | in an epoch of somebody else | at a `Seq` that the agent holds | is a sibling: refuses |
//! | in an epoch of somebody else | before or beyond what the agent holds | is unknown: refuses |
//!
//! *Rebase*: begin a new epoch whose parent is the receiver's head, with a gap, and compare everything. Ahead is how it
//! looks after a power cut of the agent's machine: the spool needs no fsync, so the receiver may have more of an epoch than
//! the one who made it. In no case is anything overwritten that the receiver has.

use crate::types::{EpochId, Head, Seq};

/// An epoch that this agent opened on the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnEpoch {
    /// Which.
    pub id: EpochId,
    /// What it continues; `None`: the group began with it.
    pub parent: Option<Head>,
}

/// What an agent knows. One that has no frame any more gives what it knows of the order's end as both `tail` and `head`.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// All epochs that it opened, in any order.
    pub epochs: &'a [OwnEpoch],
    /// What the first frame that it still holds continues; `None`: it holds the order from the first `Seq` on.
    pub tail: Option<Head>,
    /// The end of its order; equal to `tail` when it holds no frame.
    pub head: Option<Head>,
    /// The highest head that a receiver acknowledged as durable.
    pub acked: Option<Head>,
    /// The receiver's head.
    pub receiver: Option<Head>,
    /// What the agent has at the receiver's `Seq`: `tail`, or the frame that it holds which ends there; else `None`.
    pub found: Option<Head>,
}

/// How the agent goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Send from here on.
    SendFrom(Seq),
    /// The receiver lost what it had acknowledged: say so loudly, and send from here on again.
    ResendFrom(Seq),
    /// Begin a new epoch at the receiver's head, with a gap, and compare everything.
    Rebase(RebaseReason),
    /// Send nothing: this is not the agent's history. A person has to decide.
    Refuse(Stranger),
}

/// Why an agent begins anew at the receiver's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RebaseReason {
    /// The receiver has more than the agent, of the agent's own making: its machine lost power.
    Ahead,
    /// The receiver lacks what the agent no longer holds: it lost what it had acknowledged.
    Behind,
}

/// Whose history the receiver has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stranger {
    /// Another frame stands where this agent has one: there are two of it.
    Sibling,
    /// Nothing is known of it.
    Unknown,
}

/// How the agent goes on: the table above.
pub fn decide(facts: &Facts<'_>) -> Decision {
    let lost = facts.acked.map(|head| head.seq) > facts.receiver.map(|head| head.seq);
    let send = |from| if lost { Decision::ResendFrom(from) } else { Decision::SendFrom(from) };
    let Some(receiver) = facts.receiver else {
        return if facts.tail.is_none() { send(Seq::FIRST) } else { Decision::Rebase(RebaseReason::Behind) };
    };
    if facts.found == Some(receiver) {
        return send(receiver.seq.after(1));
    }
    let dropped = facts.tail.is_some_and(|tail| receiver.seq < tail.seq);
    if !facts.epochs.iter().any(|epoch| epoch.id == receiver.epoch) {
        let held = !dropped && facts.head.is_some_and(|head| receiver.seq <= head.seq);
        return Decision::Refuse(if held { Stranger::Sibling } else { Stranger::Unknown });
    }
    if facts.reach(receiver.epoch).is_none_or(|last| receiver.seq > last) {
        return Decision::Rebase(RebaseReason::Ahead);
    }
    if dropped { Decision::Rebase(RebaseReason::Behind) } else { Decision::Refuse(Stranger::Sibling) }
}

impl Facts<'_> {
    /// The last `Seq` of `epoch` in the agent's order; `None` when its order does not pass through it.
    fn reach(&self, epoch: EpochId) -> Option<Seq> {
        let mut at = self.head;
        // A list of epochs that names itself as its parent would go round for ever.
        for _ in 0..=self.epochs.len() {
            let head = at?;
            if head.epoch == epoch {
                return Some(head.seq);
            }
            at = self.epochs.iter().find(|own| own.id == head.epoch)?.parent;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{ChainHead, FrameNo, Hash};
    use Decision::{Rebase, Refuse, ResendFrom, SendFrom};
    use RebaseReason::{Ahead, Behind};
    use Stranger::{Sibling, Unknown};

    /// A frame ends at every tenth `Seq`; `fork` tells histories apart.
    fn head(epoch: u8, seq: u64, fork: u8) -> Option<Head> {
        let chain = ChainHead(Hash([epoch, u8::try_from(seq).unwrap(), fork, 1].repeat(8).try_into().unwrap()));
        let (seq, frame) = (Seq::new(seq).unwrap(), FrameNo::new(seq.div_ceil(10)).unwrap());
        Some(Head { epoch: EpochId([epoch; 16]), seq, frame, chain })
    }

    /// The agent: E1 up to 100, E2 was opened at 40 and given up, E3 continues E1 at 100 up to 150.
    fn own(seq: u64) -> Option<Head> {
        head(if seq > 100 { 3 } else { 1 }, seq, 0)
    }

    /// What the agent that holds `(tail, end]` and was acknowledged `acked` does when the receiver is at `receiver`.
    #[track_caller]
    fn check(tail: u64, end: u64, acked: u64, receiver: Option<Head>, expect: Decision) {
        let at = |seq| if seq == 0 { None } else { own(seq) };
        let epoch = |id, parent| OwnEpoch { id: EpochId([id; 16]), parent };
        let all = [epoch(1, None), epoch(2, own(40)), epoch(3, own(100))];
        let epochs = if end > 100 { &all[..] } else { &all[..2] };
        let found = receiver.and_then(|receiver| {
            let seq = receiver.seq.number();
            ((tail.max(1)..=end).contains(&seq) && seq.is_multiple_of(10)).then(|| own(seq).unwrap())
        });
        let facts = Facts { epochs, tail: at(tail), head: at(end), acked: at(acked), receiver, found };
        assert_eq!(decide(&facts), expect, "{facts:#?}");
    }

    fn seq(number: u64) -> Seq {
        Seq::new(number).unwrap()
    }

    #[test]
    fn every_pair_has_its_row() {
        //    tail  end acked receiver              expect
        // The receiver has nothing.
        check(0, 0, 0, None, SendFrom(seq(1)));
        check(0, 150, 0, None, SendFrom(seq(1)));
        check(0, 150, 50, None, ResendFrom(seq(1)));
        check(50, 150, 50, None, Rebase(Behind));
        check(50, 50, 0, None, Rebase(Behind));
        // It is on the agent's chain.
        check(0, 150, 0, own(50), SendFrom(seq(51)));
        check(50, 150, 50, own(50), SendFrom(seq(51)));
        check(50, 150, 50, own(150), SendFrom(seq(151)));
        check(150, 150, 150, own(150), SendFrom(seq(151)));
        check(50, 150, 50, own(100), SendFrom(seq(101))); // the end of an epoch
        check(50, 150, 50, own(120), SendFrom(seq(121)));
        check(30, 150, 90, own(50), ResendFrom(seq(51)));
        check(50, 150, 120, own(50), ResendFrom(seq(51)));
        // It is ahead, in an epoch of the agent's.
        check(0, 0, 0, own(50), Rebase(Ahead));
        check(50, 50, 50, own(80), Rebase(Ahead));
        check(50, 150, 50, own(160), Rebase(Ahead));
        check(50, 150, 50, head(1, 110, 0), Rebase(Ahead)); // E1 went on there, E3 was opened without knowing
        check(50, 150, 50, head(1, 200, 0), Rebase(Ahead));
        check(110, 150, 110, head(1, 105, 0), Rebase(Ahead)); // below tail, and yet never held
        check(50, 150, 50, head(2, 60, 0), Rebase(Ahead)); // an epoch that was given up
        // It is behind what the agent still holds.
        check(50, 150, 50, own(40), Rebase(Behind));
        check(120, 150, 120, own(110), Rebase(Behind));
        check(120, 150, 120, own(40), Rebase(Behind));
        check(150, 150, 0, own(40), Rebase(Behind));
        // The same place, another chain.
        check(0, 150, 0, head(1, 50, 7), Refuse(Sibling));
        check(50, 150, 50, head(1, 50, 7), Refuse(Sibling));
        check(50, 150, 50, head(3, 150, 7), Refuse(Sibling));
        check(50, 150, 50, head(3, 120, 7), Refuse(Sibling));
        check(0, 150, 0, head(1, 55, 0), Refuse(Sibling)); // no frame of the agent ends there
        check(0, 150, 0, head(9, 50, 0), Refuse(Sibling));
        check(50, 150, 50, head(9, 50, 0), Refuse(Sibling));
        check(50, 150, 50, head(9, 150, 0), Refuse(Sibling));
        // Somebody else's, where the agent has nothing to compare.
        check(0, 0, 0, head(9, 50, 0), Refuse(Unknown));
        check(50, 150, 50, head(9, 160, 0), Refuse(Unknown));
        check(50, 150, 50, head(9, 40, 0), Refuse(Unknown));
    }

    #[test]
    fn what_is_sent_always_continues_what_the_receiver_has() {
        let ends = [0, 10, 50, 90, 100, 110, 120, 150];
        let epochs =
            [OwnEpoch { id: EpochId([1; 16]), parent: None }, OwnEpoch { id: EpochId([3; 16]), parent: own(100) }];
        let mut cases = Vec::new();
        for tail in ends {
            for end in ends.into_iter().filter(|&end| end >= tail) {
                cases.extend(ends.iter().flat_map(|&acked| ends.map(|receiver| (tail, end, acked, receiver))));
            }
        }
        let at = |seq: u64| if seq == 0 { None } else { own(seq) };
        let mut sent = 0;
        for ((tail, end, acked, receiver), fork) in cases.iter().flat_map(|&case| [(case, false), (case, true)]) {
            let forked = |head| Head { chain: ChainHead(Hash([7; 32])), ..head };
            let theirs = if fork { at(receiver).map(forked) } else { at(receiver) };
            let found = at(receiver).filter(|_| (tail..=end).contains(&receiver));
            let facts =
                Facts { epochs: &epochs, tail: at(tail), head: at(end), acked: at(acked), receiver: theirs, found };
            if let SendFrom(from) | ResendFrom(from) = decide(&facts) {
                sent += 1;
                assert_eq!(from, Seq::following(theirs.map(|head| head.seq)));
                // The agent holds what it is to send, and the receiver's head is on its chain.
                assert!(from.number() > tail && from.number() <= end + 1, "{facts:#?}");
                assert!(theirs.is_none() || theirs == found, "{facts:#?}");
            }
        }
        assert!(sent > 100);
    }

    #[test]
    fn a_list_of_epochs_that_goes_round_ends() {
        let epochs =
            [OwnEpoch { id: EpochId([1; 16]), parent: own(10) }, OwnEpoch { id: EpochId([2; 16]), parent: None }];
        let receiver = head(2, 5, 0);
        let facts = Facts { epochs: &epochs, tail: None, head: own(10), acked: None, receiver, found: None };
        assert_eq!(decide(&facts), Rebase(Ahead));
    }
}
