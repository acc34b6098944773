//! Whether what a log says can be believed: a log speaks only of what the tap did. Pure but for reading the file.
//!
//! While the agent runs, it notes every second that it does, and when the source was last changed. After its end:
//!
//! ```text
//!   last note     ≤ 5 s: the tap may have        after that: somebody else
//!  ──────┬──────────────────────────────┬────────────────────────────────────▶ the source's change time
//!        │   (another boot: ≤ 60 s, for a note reaches the disk late)
//! ```
//!
//! A log restored from an old copy is caught by the same rule, for its note is older than the source's last change; and if the
//! source was set back with it, the receiver is ahead of this agent, and then the log counts only if what the receiver has agrees
//! with it: see [`Claim`](super::Claim).

use journal::disk::{Disk, read_file};
use journal::types::{BootId, WallTime};

use super::codec::{FILE_BYTES, Note};
use super::recover::{self, Hot};
use super::{Head, Left, Subject, ranges};
use crate::Result;

/// How long after the last note the tap may have written: one is due each second. A machine under load is late.
const LATE_US: u64 = 5_000_000;
/// The same when the machine itself went down: the kernel writes a note back within half a minute or so.
pub(super) const LATE_BOOT_US: u64 = 60_000_000;

/// What is there now.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// What the log has to be about.
    pub subject: Subject,
    /// This boot.
    pub boot: BootId,
    /// When the source was last changed, as its file system says.
    pub changed: WallTime,
    /// The wall clock.
    pub wall: WallTime,
    /// How long the machine has been up.
    pub boottime: WallTime,
}

/// What a log says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Testimony {
    /// What has to be compared.
    pub left: Left,
    /// When it was last known to be tended; `None`: nobody believes it.
    pub noted: Option<WallTime>,
}

/// What the last run, which ended uncleanly, left to be compared, by the volume's log on `disk`. Whatever is wrong with that is a
/// reason to compare all.
pub fn left_by(disk: &dyn Disk, now: &Now) -> Testimony {
    let all = |why: String| Testimony { left: Left::All { why }, noted: None };
    match read_log(disk, &now.subject.file_name()) {
        Ok(None) => all("there is no record of what was being written".to_owned()),
        Ok(Some(bytes)) => match recover::read(&bytes) {
            Ok(found) => {
                judge(&found, now).unwrap_or_else(|why| all(format!("the hot-extent log proves nothing: {why}")))
            }
            Err(why) => all(format!("the hot-extent log cannot be used: {why}")),
        },
        Err(error) => all(format!("the hot-extent log cannot be read: {error}")),
    }
}

fn read_log(disk: &dyn Disk, name: &str) -> Result<Option<Vec<u8>>> {
    read_file(disk, name, crate::source::bytes(FILE_BYTES))
}

fn judge(found: &recover::Found, now: &Now) -> std::result::Result<Testimony, &'static str> {
    is_about(&found.head, now)?;
    let note = found.note.ok_or("its last note is torn")?;
    nobody_else_wrote(&found.head, &note, now)?;
    match &found.hot {
        Hot::All(why) => Err(why),
        Hot::Only(hot) => {
            let left = Left::Only(ranges(hot.iter().copied(), now.subject.size));
            Ok(Testimony { left, noted: Some(note.at) })
        }
    }
}

fn is_about(head: &Head, now: &Now) -> std::result::Result<(), &'static str> {
    let (subject, expected) = (&head.subject, &now.subject);
    if (subject.group, subject.volume) != (expected.group, expected.volume) {
        return Err("it is of another volume");
    }
    if subject.epoch != expected.epoch {
        return Err("it is not of the last run");
    }
    // Disks are numbered anew at each boot. That it is the same file, by its inode and time of birth, was seen to before.
    if subject.inode != expected.inode || (head.boot == now.boot && subject.dev != expected.dev) {
        return Err("the source is another file now");
    }
    if subject.size != expected.size {
        return Err("the source has another size now");
    }
    Ok(())
}

fn nobody_else_wrote(head: &Head, note: &Note, now: &Now) -> std::result::Result<(), &'static str> {
    let is_same_boot = head.boot == now.boot;
    let late = if is_same_boot { LATE_US } else { LATE_BOOT_US };
    // What the file system knew last may have been lost with the power.
    let lost = if is_same_boot { 0 } else { LATE_BOOT_US };
    let booted = now.wall.0.saturating_sub(now.boottime.0);
    if now.changed > now.wall {
        return Err("the source was changed in the future: the clock was set");
    }
    if now.changed.0.saturating_add(lost) < note.changed.0 {
        return Err("the source was set back, or the clock was");
    }
    if now.changed.0 > note.at.0.saturating_add(late) || (!is_same_boot && now.changed.0 >= booted) {
        return Err("the source was changed after the agent had ended");
    }
    Ok(())
}
