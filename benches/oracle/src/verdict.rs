//! What the oracle found, and words for it.

use std::fmt;

use crate::op::{Micros, Op};
use crate::stamp::Stamp;

/// What is wrong with a sector or an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// Older content than an operation that must be in: a write is missing, or old content came back.
    Stale,
    /// Content of an operation submitted after the instant.
    Early,
    /// The bytes are no write at all, or not exactly the write that they claim to be.
    Corrupt,
    /// A whole stamp that belongs to another sector or volume.
    Misplaced,
    /// A stamp of an operation that the history does not know, or knows to be another.
    Unknown,
    /// One operation is partly in and partly out.
    Torn,
    /// Every sector is possible by itself, but no order of the operations gives all of them.
    Order,
}

/// What a sector held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Only zeroes.
    Zeroes,
    /// A stamp, and the operation of that number in the history, if there is one.
    Stamp(Stamp, Option<Op>),
    /// Something without a whole stamp: its first eight bytes.
    Bytes([u8; 8]),
    /// Not looked at again: the finding is about operations.
    NotRead,
}

/// One thing that is wrong, with what is needed to understand it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finding {
    /// In what way.
    pub problem: Problem,
    /// Where; the first of `count`.
    pub sector: u64,
    /// How many sectors in a row it is true of.
    pub count: u64,
    /// The newest operation that must be in there, or the one that is torn or cannot be placed; `None`: the initial content.
    pub expected: Option<Op>,
    /// What was there instead.
    pub found: Found,
}

/// The judgement of one image.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// Sectors looked at: all of them.
    pub sectors: u64,
    /// Changing operations that must be in.
    pub definite: u64,
    /// Changing operations that may be in or not.
    pub doubtful: u64,
    /// Operations never acknowledged that are in partly, as a crash may leave them. Not counted as wrong.
    pub torn_in_doubt: u64,
    /// How many things are wrong.
    pub wrong: u64,
    /// The first of them.
    pub findings: Vec<Finding>,
}

/// The judgement of what was left after a crash.
#[derive(Clone, Debug, Default)]
pub struct CrashVerdict {
    /// Is the image one state of the volume: is everything there that was over before the newest content began?
    pub verdict: Verdict,
    /// The newest operation that left its stamp.
    pub newest_seen: Option<Op>,
    /// Acknowledged operations that are provably not in the image.
    pub acked_missing: u64,
    /// When the first of them was acknowledged.
    pub oldest_missing: Option<Micros>,
    /// The newest acknowledgement in the history.
    pub newest_ack: Option<Micros>,
}

impl Verdict {
    /// Is nothing wrong?
    pub const fn is_legal(&self) -> bool {
        self.wrong == 0
    }

    pub(crate) fn add(&mut self, finding: Finding) {
        self.wrong += 1;
        if let Some(last) = self.findings.last_mut()
            && last.goes_on_with(&finding)
        {
            last.count += 1;
        } else if self.findings.len() < FINDINGS_MAX {
            self.findings.push(finding);
        }
    }

    /// One line of JSON.
    pub fn to_json(&self) -> String {
        let Self { sectors, definite, doubtful, torn_in_doubt, wrong, findings } = self;
        // A finding's words hold neither quotes nor backslashes.
        let words: Vec<String> = findings.iter().map(|finding| format!("\"{finding}\"")).collect();
        format!(
            "{{\"legal\":{},\"sectors\":{sectors},\"definite\":{definite},\"doubtful\":{doubtful},\
             \"torn_in_doubt\":{torn_in_doubt},\"wrong\":{wrong},\"findings\":[{}]}}",
            self.is_legal(),
            words.join(",")
        )
    }
}

impl Finding {
    /// Is `next` the same about the next sector?
    fn goes_on_with(&self, next: &Self) -> bool {
        let same_found = match (&self.found, &next.found) {
            (Found::Stamp(a, _), Found::Stamp(b, _)) => a.number == b.number,
            (a, b) => a == b,
        };
        let about = |finding: &Self| (finding.problem, finding.expected);
        same_found && about(self) == about(next) && self.sector + self.count == next.sector
    }
}

impl CrashVerdict {
    /// One line of JSON.
    pub fn to_json(&self) -> String {
        let time = |time: Option<Micros>| time.map_or_else(|| "null".to_owned(), |at| at.0.to_string());
        format!(
            "{{\"acked_missing\":{},\"oldest_missing_us\":{},\"newest_ack_us\":{},\"newest_seen_submitted_us\":{},\
             \"verdict\":{}}}",
            self.acked_missing,
            time(self.oldest_missing),
            time(self.newest_ack),
            time(self.newest_seen.map(|op| op.submitted)),
            self.verdict.to_json()
        )
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sectors, definite, doubtful, wrong, .. } = self;
        write!(f, "{wrong} wrong in {sectors} sectors; {definite} operations must be in, {doubtful} may be")?;
        self.findings.iter().try_for_each(|finding| write!(f, "\n  {finding}"))
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sectors {}..{}: {:?}: ", self.sector, self.sector + self.count, self.problem)?;
        match (&self.expected, self.problem) {
            (Some(op), Problem::Torn | Problem::Order) => write!(f, "it is about {op}")?,
            (Some(op), _) => write!(f, "expected {op}, or later")?,
            (None, _) => write!(f, "expected the initial content, or later")?,
        }
        match &self.found {
            Found::Zeroes => write!(f, "; found zeroes"),
            Found::Stamp(_, Some(op)) => write!(f, "; found {op}"),
            Found::Stamp(stamp, None) if stamp.number == 0 => {
                write!(f, "; found initial content of sector {}", stamp.sector)
            }
            Found::Stamp(stamp, None) => write!(f, "; found {stamp:?}"),
            Found::Bytes(bytes) => write!(f, "; found {bytes:02x?}.."),
            Found::NotRead => Ok(()),
        }
    }
}

/// Enough to see a pattern, few enough to print.
const FINDINGS_MAX: usize = 16;
