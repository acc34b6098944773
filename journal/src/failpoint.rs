//! Named steps of the ladder, of a resync, of a merge, of cleaning and of a live rollback at which a test ends the process, lets it stand still,
//! or lets the step fail.
//!
//! Always compiled in: what is tested is what is shipped. A step that nobody armed costs one relaxed load, and none is on the way of a
//! write that is recorded. `docs/decisions/0014-failpoints.md` says why.
//!
//! ```text
//!   BACKSPOOL_FAILPOINT=NAME[:PASSAGE][:eio|:stop][,NAME…]      at that passage (the first), once: SIGKILL; an error; SIGSTOP
//! ```

use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::{Signal, getpid, kill_process};

use crate::error::{Error, ErrorKind, Result};

/// Where the steps to be armed are named.
pub const VARIABLE: &str = "BACKSPOOL_FAILPOINT";

macro_rules! steps {
    ($($(#[doc = $what:literal])* $step:ident = $name:literal, $may_fail:literal;)*) => {
        /// Every step there is, in the order of a way down and up again.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Step {
            $($(#[doc = $what])* $step,)*
        }

        impl Step {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$step),*];

            /// What it is called.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$step => $name),* }
            }

            /// Whether it can fail as an operation of a disk does.
            pub const fn may_fail(self) -> bool {
                match self { $(Self::$step => $may_fail),* }
            }
        }
    };
}

steps! {
    /// Agent: frames are about to be appended to the spool.
    SpoolAppend = "spool-append", true;
    /// Agent: more waits than the spool may hold.
    SpoolFull = "spool-full", false;
    /// Agent: a gap is the last record.
    GapRecorded = "gap-recorded", false;
    /// Agent: from now on changes are only tracked.
    Tracking = "tracking", false;
    /// Agent: a change was marked dirty.
    ChangeTracked = "change-tracked", false;
    /// Agent: the gap is in the spool.
    GapSpooled = "gap-spooled", false;
    /// Agent: the gap was sent.
    GapSent = "gap-sent", false;
    /// Either: the manifest calls a segment dropped, and its file is there.
    SegmentDropped = "segment-dropped", true;
    /// Agent: there is room again.
    Room = "room", false;
    /// Agent: the dirty map was taken as a whole, and changes are recorded again.
    MapTaken = "map-taken", false;
    /// Agent: what was dirty is to be read.
    ResyncWanted = "resync-wanted", false;
    /// Agent: what got dirty once more is to be read by the same resync.
    ResyncExtended = "resync-extended", false;
    /// Agent: a spool that could not be written was given up.
    SpoolGivenUp = "spool-given-up", false;
    /// Agent: the epoch of a run that begins anew is durable.
    EpochOpened = "epoch-opened", false;
    /// Agent: the new run is in the old one's place.
    RunReplaced = "run-replaced", false;
    /// Agent: a base has a name, and its reader runs.
    BaseBegun = "base-begun", false;
    /// Agent: the receiver's view is about to be opened for comparison.
    CompareOpening = "compare-opening", false;
    /// Agent: hashes were asked for.
    HashesAsked = "hashes-asked", false;
    /// Receiver: hashes were made of what is here.
    HashesMade = "hashes-made", false;
    /// Agent: hashes came.
    HashesCame = "hashes-came", false;
    /// Agent: hashes of the pages of blocks that differ were asked for.
    PagesAsked = "pages-asked", false;
    /// Receiver: hashes were made of pages.
    PagesMade = "pages-made", false;
    /// Agent: hashes of pages came.
    PagesCame = "pages-came", false;
    /// Agent: a piece of the source was read.
    ExtentRead = "extent-read", true;
    /// Agent: a frame of what was read is closed.
    BaseFrameRead = "base-frame-read", false;
    /// Agent: the base is about to be opened at the receiver.
    BaseOpening = "base-opening", false;
    /// Receiver: bases that nobody goes on with are gone.
    BaseMadeWay = "base-made-way", false;
    /// Agent: the receiver has opened the base.
    BaseOpened = "base-opened", false;
    /// Agent: a frame of the base was sent.
    BaseFrameSent = "base-frame-sent", false;
    /// Receiver: a segment for the base has its header, and no manifest names it.
    BaseSegmentMade = "base-segment-made", true;
    /// Receiver: the manifest names the base's segment.
    BaseSegmentNamed = "base-segment-named", true;
    /// Receiver: frames of the base were appended.
    BaseAppended = "base-appended", true;
    /// Receiver: they are durable.
    BaseDurable = "base-durable", true;
    /// Receiver: that they are was said.
    BaseAcknowledged = "base-acknowledged", false;
    /// Agent: it was heard.
    BaseFrameAcknowledged = "base-frame-acknowledged", false;
    /// Agent: all that was to be read was read.
    BaseRead = "base-read", false;
    /// Agent: the receiver has the base as a whole.
    BaseWhole = "base-whole", false;
    /// Agent: `sealed` is the last record.
    SealedRecorded = "sealed-recorded", false;
    /// Agent: `sealed` is in the spool.
    SealedSpooled = "sealed-spooled", false;
    /// Agent: `sealed` was sent.
    SealedSent = "sealed-sent", false;
    /// Receiver: the base's last segment has its index, and the manifest does not call it sealed.
    BaseIndexWritten = "base-index-written", true;
    /// Receiver: the manifest calls it sealed; the order does not say so yet.
    BaseSealed = "base-sealed", true;
    /// Receiver: `sealed` was appended to the order.
    SealedAppended = "sealed-appended", true;
    /// Receiver: `sealed` is durable; readers do not see it yet.
    SealedDurable = "sealed-durable", true;
    /// Receiver: readers see what the base brought.
    SealedPublished = "sealed-published", false;
    /// Agent: it was heard that `sealed` is durable.
    SealedAcknowledged = "sealed-acknowledged", false;
    /// Receiver: a part of a merged run is about to be written.
    RunWriting = "run-writing", true;
    /// Receiver: a merged run is whole in its file, durably.
    RunWritten = "run-written", true;
    /// Receiver: it has its name.
    RunNamed = "run-named", true;
    /// Receiver: readers look into it.
    RunPublished = "run-published", false;
    /// Receiver: a file of a run that it replaces is gone.
    RunRemoved = "run-removed", true;
    /// Receiver: a list of points is durable, and no manifest names it.
    PointsWritten = "points-written", true;
    /// Receiver: the manifest names it; readers do not see it yet, and the old one is there.
    HistoryThinned = "history-thinned", true;
    /// Receiver: a compacted segment has all its bytes, and is not durable.
    CompactedWritten = "compacted-written", true;
    /// Receiver: it is durable, and no manifest names it.
    CompactedDurable = "compacted-durable", true;
    /// Receiver: the manifest lets it stand for others; readers do not see it yet, and their files are there.
    SegmentReplaced = "segment-replaced", true;
    /// Receiver: their files are gone.
    ReplacedRemoved = "replaced-removed", true;
    /// Agent: nobody but a rollback writes to the sources.
    RollbackShut = "rollback-shut", false;
    /// Agent: the mark of the state before a rollback is the last record.
    RollbackMarked = "rollback-marked", false;
    /// Receiver: it is known which blocks differ.
    RollbackPlanned = "rollback-planned", false;
    /// Agent: its state is about to say that a rollback is not over.
    RollbackNoting = "rollback-noting", true;
    /// Agent: it says so.
    RollbackNoted = "rollback-noted", false;
    /// Agent: `rollback begin` is the last record.
    RollbackBegun = "rollback-begun", false;
    /// Agent: it was heard that this is durable.
    RollbackBeginHeard = "rollback-begin-heard", false;
    /// Receiver: blocks were sent.
    RollbackBlocksSent = "rollback-blocks-sent", false;
    /// Agent: blocks are about to be written to a source.
    RollbackWriting = "rollback-writing", true;
    /// Agent: they are on the source, and in the order.
    RollbackWritten = "rollback-written", false;
    /// Agent: all are, and the sources are flushed.
    RollbackFlushed = "rollback-flushed", false;
    /// Agent: `rollback sealed` is the last record.
    RollbackSealed = "rollback-sealed", false;
    /// Agent: it was heard that this is durable.
    RollbackSealHeard = "rollback-seal-heard", false;
    /// Agent: its state is about to say nothing of a rollback any more.
    RollbackForgetting = "rollback-forgetting", true;
    /// Agent: it says nothing; nobody is let in yet.
    RollbackForgotten = "rollback-forgotten", false;
    /// Receiver: it was heard that the rollback is over.
    RollbackOver = "rollback-over", false;
}

/// Passages to go, with [`FAILS`] or [`STOPS`]; 0: nobody armed it.
static ARMED: [AtomicU32; Step::ALL.len()] = [const { AtomicU32::new(0) }; Step::ALL.len()];
/// The step fails; otherwise the process ends, or
const FAILS: u32 = 1 << 31;
/// stands still until somebody lets it go on.
const STOPS: u32 = 1 << 30;
const PASSAGES: u32 = STOPS - 1;

/// Arms what `text` names, as it stands in [`VARIABLE`].
///
/// # Errors
/// `Invalid` for what is no step, or cannot be done there.
pub fn arm(text: &str) -> Result<()> {
    for order in text.split(',') {
        let (step, armed) = parse(order)?;
        ARMED[step as usize].store(armed, Ordering::Relaxed);
    }
    Ok(())
}

/// Whether somebody waits for this step: then it may be worth looking whether it was done.
pub fn is_armed(step: Step) -> bool {
    ARMED[step as usize].load(Ordering::Relaxed) != 0
}

/// The step was done, in memory or where nothing can fail any more.
pub fn passed(step: Step) {
    // Nothing that cannot fail is armed to fail.
    let _ = reached(step);
}

/// The step was done, or is about to be, and may fail.
///
/// # Errors
/// `Io`, if the step is armed so.
pub fn reached(step: Step) -> Result<()> {
    if is_armed(step) { fire(step) } else { Ok(()) }
}

/// Counts a passage, and does what is to be done at it.
#[cold]
fn fire(step: Step) -> Result<()> {
    let passed = |left: u32| match left & PASSAGES {
        0 => None,
        1 => Some(0),
        _ => Some(left - 1),
    };
    let before = ARMED[step as usize].fetch_update(Ordering::Relaxed, Ordering::Relaxed, passed);
    match before.map(|left| (left & PASSAGES, left & !PASSAGES)) {
        Ok((1, FAILS)) => return Err(Error::new(ErrorKind::Io, format!("failpoint {}", step.name()))),
        // Should that fail, a test waits in vain.
        Ok((1, STOPS)) => _ = kill_process(getpid(), Signal::STOP),
        Ok((1, _)) => {
            // Nothing of this process may run any more: no destructor, no other thread's next step.
            _ = kill_process(getpid(), Signal::KILL);
            std::process::abort();
        }
        _ => {}
    }
    Ok(())
}

/// A step and what to store for it.
fn parse(order: &str) -> Result<(Step, u32)> {
    let wrong = |what: &str| Error::invalid(format!("{VARIABLE}: {order:?}: {what}"));
    let mut words = order.split(':');
    let name = words.next().unwrap_or_default();
    let step =
        Step::ALL.iter().copied().find(|step| step.name() == name).ok_or_else(|| wrong("there is no such step"))?;
    let (mut passage, mut what) = (1, 0);
    for word in words {
        match word.parse::<u32>() {
            Ok(number) if (1..=PASSAGES).contains(&number) => passage = number,
            Err(_) if word == "stop" => what = STOPS,
            Err(_) if word == "eio" && step.may_fail() => what = FAILS,
            Err(_) if word == "eio" => return Err(wrong("this step cannot fail")),
            _ => return Err(wrong("NAME[:PASSAGE][:eio|:stop] is what can be said")),
        }
    }
    Ok((step, passage | what))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unlike_and_are_what_is_parsed() {
        for (at, step) in Step::ALL.iter().enumerate() {
            assert_eq!(*step as usize, at);
            assert_eq!(parse(step.name()).unwrap(), (*step, 1), "another step has this name");
            assert_eq!(parse(&format!("{}:7:stop", step.name())).unwrap(), (*step, 7 | STOPS));
            let fails = parse(&format!("{}:7:eio", step.name()));
            assert_eq!(fails.ok(), step.may_fail().then_some((*step, 7 | FAILS)));
        }
        for wrong in
            ["", "nothing", "room:0", "room:-1", "room:4294967295", "room:eio", "room::", "spool-append:enospc"]
        {
            let error = arm(wrong).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{wrong}");
            assert!(error.to_string().contains(VARIABLE), "{error}");
        }
    }

    /// No other test of this crate reaches this step.
    #[test]
    fn a_step_fails_at_its_passage_and_once() {
        let fails = || (0..5).map(|_| reached(Step::ExtentRead).is_err()).collect::<Vec<_>>();
        assert_eq!(fails(), [false; 5]);
        arm("extent-read:3:eio").unwrap();
        assert_eq!(fails(), [false, false, true, false, false]);
        assert!(!is_armed(Step::ExtentRead));
    }
}
