//! What a log says after a crash. Pure: the file's bytes in, the hot extents out.
//!
//! Sectors were written in order, but may have reached the disk in any. A transaction that is not whole was either never durable,
//! and then nothing that it would have allowed has happened; or it was, and then the log is damaged:
//!
//! | transaction n | known to have been durable | means |
//! |---|---|---|
//! | whole | – | what it says, in order |
//! | absent, torn, out of place | no | nothing |
//! | absent, torn, out of place | yes: the note or a whole transaction says so | all is hot |

use std::collections::BTreeSet;

use journal::codec::Malformed;

use super::codec::{Change, FILE_BYTES, NOTE_AT, Note, ROOM, SECTOR, TRANSACTIONS_AT, Transaction};
use super::{ExtentNo, HOT_MAX, Head, extents_of};

/// A log as it was found.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) head: Head,
    /// `None`: it was torn.
    pub(super) note: Option<Note>,
    pub(super) hot: Hot,
}

/// What counts as hot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Hot {
    /// These.
    Only(BTreeSet<ExtentNo>),
    /// Everything, and why.
    All(&'static str),
}

/// Reads a log.
pub(super) fn read(bytes: &[u8]) -> Result<Found, Malformed> {
    if bytes.len() != FILE_BYTES {
        return Err(Malformed("it is not as long as it has to be"));
    }
    let head = Head::decode(sector(bytes, 0))?;
    let empty = [SECTOR..NOTE_AT, NOTE_AT + SECTOR..TRANSACTIONS_AT];
    if empty.into_iter().any(|range| bytes.get(range).is_none_or(|bytes| bytes.iter().any(|byte| *byte != 0))) {
        return Err(Malformed("reserved bytes are not zero: made by a newer version?"));
    }
    let note = Note::decode(sector(bytes, NOTE_AT), &head.salt).ok();
    let whole = |index: usize| {
        let transaction = Transaction::decode(sector(bytes, TRANSACTIONS_AT + index * SECTOR), &head.salt).ok()?;
        (transaction.number == crate::source::bytes(index) + 1).then_some(transaction)
    };
    let transactions: Vec<_> = (0..ROOM).map(whole).collect();
    let hot = if head.is_all { Hot::All("it never listed what is hot") } else { listed(&head, note, &transactions) };
    Ok(Found { head, note, hot })
}

fn listed(head: &Head, note: Option<Note>, transactions: &[Option<Transaction>]) -> Hot {
    let said = transactions.iter().flatten().map(|transaction| transaction.durable);
    let durable = said.chain(note.map(|note| note.durable)).max().unwrap_or(0);
    let durable = usize::try_from(durable).unwrap_or(usize::MAX);
    if durable > transactions.len() || transactions.iter().take(durable).any(Option::is_none) {
        return Hot::All("a part of it that had been written is damaged");
    }
    let extents = extents_of(head.subject.size).unwrap_or(0);
    let mut hot = BTreeSet::new();
    for transaction in transactions.iter().flatten() {
        let Change::Runs(runs) = &transaction.change else { return Hot::All("more was hot than it lists") };
        for run in runs {
            let end = run.first.checked_add(run.count).filter(|end| *end <= extents);
            let Some(end) = end.filter(|_| run.hot || !hot.is_empty()) else {
                return Hot::All("it lists what the volume does not have");
            };
            if !run.hot {
                hot.retain(|extent| !(run.first..end).contains(extent));
                continue;
            }
            if hot.len() + usize::try_from(run.count).unwrap_or(usize::MAX) > 2 * HOT_MAX {
                return Hot::All("it lists more than it ever would");
            }
            hot.extend(run.first..end);
        }
    }
    Hot::Only(hot)
}

fn sector(bytes: &[u8], at: usize) -> &[u8] {
    bytes.get(at..at + SECTOR).unwrap_or_default()
}
