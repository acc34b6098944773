//! Names for instants, where there are points to be named.

use journal::types::{Seq, WallTime};
use journal::wire::{AgentState, NoMark};

use super::group::Group;
use super::report::Condition;
use crate::{Error, ErrorKind};

/// Why an instant got no name.
#[derive(Debug)]
pub(crate) enum Unmarked {
    /// A gap is open, or nothing was ever whole: for people, and what to do then.
    NoPoints {
        /// Why.
        why: String,
        /// When to try again, and how.
        hint: String,
    },
    /// Something else.
    Failed(Error),
}

impl Unmarked {
    /// Why there are none, by what the agent does.
    pub(super) fn why_no_points(condition: &Condition) -> String {
        let Condition { state, why, .. } = condition;
        let what = match state {
            AgentState::Seeding => "the first copy is not whole",
            AgentState::Resync => "what changed unseen is not read",
            AgentState::Tracking => "changes are not recorded",
            AgentState::Halted => "capture has ended",
            AgentState::Running | AgentState::Spooling => "all is compared soon",
        };
        if why.is_empty() { what.to_owned() } else { format!("{what}: {why}") }
    }

    /// As the receiver is told, with words for people.
    pub(crate) fn told(self) -> (NoMark, String) {
        match self {
            Self::NoPoints { why, .. } => (NoMark::NoPoints, why),
            Self::Failed(error) if error.kind() == ErrorKind::Unavailable => (NoMark::Stops, error.to_string()),
            Self::Failed(error) => (NoMark::Other, error.to_string()),
        }
    }
}

impl Group {
    /// Names this instant, if it is a point.
    pub(crate) fn mark(&self, name: &str, locked_until: Option<WallTime>) -> Result<Seq, Unmarked> {
        let marked = self.read().capture.mark(name, locked_until).map_err(Unmarked::Failed)?;
        marked.ok_or_else(|| {
            let group = self.name();
            let hint = format!("backspool mark {group} {name}, once backspool status {group} says live");
            let why = match self.rolling() {
                Some(_) => self.condition().why,
                None => Unmarked::why_no_points(&self.condition()),
            };
            Unmarked::NoPoints { why: format!("{group} has no points now: {why}"), hint }
        })
    }
}
