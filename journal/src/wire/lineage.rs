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
//! | any | and the agent's memory is a copy | refuses: whose history it is nobody can tell |
//! | none | nothing was dropped, nothing acknowledged | sends from the first `Seq` |
//! | none | nothing was dropped, something was acknowledged | sends again from the first `Seq`: the receiver lost it |
//! | none | the agent no longer has the first `Seq` | rebases: the receiver is behind |
//! | on the agent's chain, at or after tail | not below what was acknowledged | sends what follows |
//! | on the agent's chain, at or after tail | and somebody else changed a source | rebases: only a comparison tells |
//! | on the agent's chain, at or after tail | below what was acknowledged | sends again what follows |
//! | in the epoch that runs | beyond the agent's end | is a sibling: refuses. Nobody but this process makes frames of it |
//! | in an earlier epoch of this agent | beyond where its order left that epoch, or an epoch that its order is not in | rebases: it is ahead |
//! | in an epoch of this agent | below tail | rebases: it is behind |
//! | in an epoch of this agent | between, but with another chain | is a sibling: refuses |
//! | in an epoch of somebody else | at a `Seq` that the agent holds | is a sibling: refuses |
//! | in an epoch of somebody else | before or beyond what the agent holds | is unknown: refuses |
//!
//! Whatever it would refuse, an agent that was told to *take over* rebases instead.
//!
//! *Rebase*: begin a new epoch whose parent is the receiver's head, with a gap, and compare everything. Ahead is how it
//! looks after a power cut of the agent's machine: the spool needs no fsync, so the receiver may have more of an epoch than
//! the one who made it. In no case is anything overwritten that the receiver has.

#[cfg(test)]
mod tests;
#[cfg(test)]
mod worlds;

use std::fmt;

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
    /// All epochs that it opened; the last is the one that runs.
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
    /// What it remembers may be a copy of another agent's memory, which may run as well.
    pub copied: bool,
    /// Somebody else changed a source, and nobody knows when, or what else was changed.
    pub disturbed: bool,
    /// A person said that this is the agent that goes on, whoever wrote last.
    pub take_over: bool,
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
    /// It would have been refused, and a person decided.
    TakenOver,
    /// Somebody else changed a source.
    Disturbed,
}

/// Whose history the receiver has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stranger {
    /// Another frame stands where this agent has one: there are two of it.
    Sibling,
    /// Nothing is known of it.
    Unknown,
    /// It may be this agent's, which is itself a copy.
    Copied,
}

impl fmt::Display for Stranger {
    /// What happened, and what can be done about it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self {
            Self::Sibling => {
                "the receiver has other frames where this agent has its own: a copy of it has written there"
            }
            Self::Unknown => {
                "the receiver's history was continued by a run that this state directory does not know: it was restored from an \
                 old copy, or another agent has it"
            }
            Self::Copied => "this state directory is a copy, and the agent that it was copied from may still run",
        };
        write!(
            f,
            "{what}. Let the right agent go on and stop this one; or, if this is the right one, start it with --take-over: it \
             compares everything, older points stay, and the other is refused from then on"
        )
    }
}

/// How the agent goes on: the table above.
pub fn decide(facts: &Facts<'_>) -> Decision {
    let decision = if facts.copied && !facts.take_over { Decision::Refuse(Stranger::Copied) } else { compare(facts) };
    match decision {
        Decision::Refuse(_) if facts.take_over => Decision::Rebase(RebaseReason::TakenOver),
        Decision::SendFrom(_) if facts.disturbed => Decision::Rebase(RebaseReason::Disturbed),
        decision => decision,
    }
}

fn compare(facts: &Facts<'_>) -> Decision {
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
        // Of the run that goes on nothing was lost: more of it than this process made is somebody else's.
        let runs = facts.epochs.last().is_some_and(|epoch| epoch.id == receiver.epoch);
        return if runs { Decision::Refuse(Stranger::Sibling) } else { Decision::Rebase(RebaseReason::Ahead) };
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
