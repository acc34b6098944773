//! The live stream of one group to one receiver: decides what goes out next. No I/O, no clock.
//!
//! ```text
//!            connected          opened: SendFrom, ResendFrom
//!   Down ──────────────▶ Opening ───────────────────────────▶ Streaming
//!    ▲                     │  │ opened: Rebase        rebased ▲
//!    │ disconnected        │  └──────────────▶ Rebasing ──────┘
//!    └── from anywhere     └─ opened: Refuse ─▶ Refused
//!
//!   durable ≤ sent; between them lie the frames in flight
//! ```
//!
//! **Invariant:** what is sent follows the receiver's head without a hole, and each frame is sent once in a session.
//! **Invariant:** only a head that was sent, with the chain it was sent with, is ever believed to be durable.

use std::collections::VecDeque;
use std::time::Duration;

use journal::types::{Head, Seq};
use journal::wire::{Decision, Facts, RebaseReason, Refusal, RefusalCode, Stranger, decide};

/// Unacknowledged bytes at which sending pauses: two of the largest bursts a receiver makes durable at once, and the most that a lost
/// connection makes us send again.
pub const WINDOW_BYTES: usize = 32 * 1024 * 1024;
/// First pause before connecting again.
pub const RECONNECT_FIRST: Duration = Duration::from_millis(100);
/// Longest pause before connecting again.
pub const RECONNECT_LAST: Duration = Duration::from_secs(2);
/// A link that carries more than this per second is not to be compressed for.
pub const FAST_BYTES: u64 = 300_000_000;
/// Longest time without a report: a receiver counts a session as live for a second after one.
pub const REPORT_EVERY: Duration = Duration::from_millis(250);
/// How often it is measured how fast the link is.
pub const MEASURE_EVERY: Duration = Duration::from_millis(250);

/// What to do about the receiver's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Send what follows.
    Send {
        /// The receiver had acknowledged more than it has now.
        lost: bool,
    },
    /// Begin a new epoch that continues this head, then say [`Stream::rebased`].
    Rebase {
        /// The receiver's head; `None`: it has nothing.
        parent: Option<Head>,
        /// Why.
        reason: RebaseReason,
    },
    /// Send nothing: a person has to decide.
    Refuse(Stranger),
}

/// The stream of one group.
#[derive(Debug, Default)]
pub struct Stream {
    phase: Phase,
    /// The receiver's head in this session, as far as acknowledged.
    durable: Option<Head>,
    /// Sent and not acknowledged: the head after each frame, and its bytes.
    in_flight: VecDeque<(Head, usize)>,
    in_flight_bytes: usize,
    /// Acknowledged since the pace was last asked for, and whether the link was busy then.
    acked_bytes: usize,
    was_busy: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Down,
    Opening,
    Rebasing,
    Streaming,
    Refused,
}

impl Stream {
    /// There is a session: the group is to be opened.
    pub fn connected(&mut self) {
        *self = Self { phase: Phase::Opening, ..Self::default() };
    }

    /// The session is gone; what was in flight will be asked for again by the next receiver's head.
    pub fn disconnected(&mut self) {
        *self = Self::default();
    }

    /// The receiver answered with its head, which `facts` has beside what is known here.
    pub fn opened(&mut self, facts: &Facts<'_>) -> Next {
        self.durable = facts.receiver;
        let decision = decide(facts);
        self.phase = match decision {
            Decision::SendFrom(_) | Decision::ResendFrom(_) => Phase::Streaming,
            Decision::Rebase(_) => Phase::Rebasing,
            Decision::Refuse(_) => Phase::Refused,
        };
        match decision {
            Decision::SendFrom(_) => Next::Send { lost: false },
            Decision::ResendFrom(_) => Next::Send { lost: true },
            Decision::Rebase(reason) => Next::Rebase { parent: facts.receiver, reason },
            Decision::Refuse(stranger) => Next::Refuse(stranger),
        }
    }

    /// The new epoch has begun.
    pub fn rebased(&mut self) {
        assert_eq!(self.phase, Phase::Rebasing, "nobody asked for it");
        self.phase = Phase::Streaming;
    }

    /// After which place the next frame is to be read; `None`: nothing is to be sent now.
    pub fn wants_after(&self) -> Option<Option<Seq>> {
        let open = self.phase == Phase::Streaming && self.in_flight_bytes < WINDOW_BYTES;
        open.then(|| self.sent().map(|head| head.seq))
    }

    /// The end of what was sent in this session, or was there before it.
    pub fn sent(&self) -> Option<Head> {
        self.in_flight.back().map(|(head, _)| *head).or(self.durable)
    }

    /// The end of what the receiver said is durable.
    pub fn durable(&self) -> Option<Head> {
        self.durable
    }

    /// A frame of `bytes` was handed to the link; `head` is the end of the order after it.
    ///
    /// # Panics
    /// If it does not follow what was sent before.
    pub fn frame_sent(&mut self, head: Head, bytes: usize) {
        let before = self.sent().map(|head| head.seq);
        assert!(before < Some(head.seq), "{} sent after {before:?}", head.seq);
        self.in_flight.push_back((head, bytes));
        self.in_flight_bytes += bytes;
    }

    /// The receiver says that all up to `head` is durable. True if that is news. One that was never sent, or was sent with another
    /// chain, is an error: nothing that such a receiver says can be believed.
    pub fn acknowledged(&mut self, head: Head) -> Result<bool, Refusal> {
        if self.durable.is_some_and(|durable| head.seq <= durable.seq) {
            return Ok(false);
        }
        let Some(place) = self.in_flight.iter().position(|(sent, _)| *sent == head) else {
            let text = format!("{} called durable, which was never sent so", head.seq);
            return Err(Refusal::new(RefusalCode::Malformed, text));
        };
        let bytes = self.in_flight.drain(..=place).map(|(_, bytes)| bytes).sum::<usize>();
        self.in_flight_bytes -= bytes;
        self.acked_bytes += bytes;
        self.durable = Some(head);
        Ok(true)
    }
}

impl Stream {
    /// Whether the link is a fast one, after the `elapsed` time since this was last asked; `None`: it had too little to do to tell.
    pub fn is_fast(&mut self, elapsed: Duration) -> Option<bool> {
        let acked = u64::try_from(std::mem::take(&mut self.acked_bytes)).unwrap_or(u64::MAX);
        let busy = self.in_flight_bytes >= WINDOW_BYTES / 2;
        let was_busy = std::mem::replace(&mut self.was_busy, busy);
        let micros = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX).max(1);
        (busy && was_busy).then(|| acked.saturating_mul(1_000_000) / micros >= FAST_BYTES)
    }
}

/// Whether a person has to do something first.
pub fn is_final(code: RefusalCode) -> bool {
    use RefusalCode as Code;
    match code {
        Code::NotEnrolled | Code::Version | Code::Feature => true,
        // A copy of this agent took over, and is refused as a sibling: then this one is let in again.
        Code::Superseded => false,
        Code::UnknownGroup | Code::Fenced | Code::Sibling | Code::UnknownHistory | Code::Damaged => true,
        Code::ChainBroken | Code::Malformed | Code::Busy | Code::NoSpace | Code::Internal | Code::BaseLost => false,
    }
}

/// Whether the receiver cannot take the end of a base, for it lost the base: then all is compared anew, from where it is.
pub fn needs_rebase(code: RefusalCode) -> bool {
    code == RefusalCode::BaseLost
}

/// Trying again: how long to wait before, doubled each time, for ever, and what of it is worth a line in the log.
#[derive(Clone, Debug)]
pub struct Attempts {
    next: Duration,
    /// Why the last one failed.
    why: Option<String>,
}

impl Default for Attempts {
    fn default() -> Self {
        Self { next: RECONNECT_FIRST, why: None }
    }
}

impl Attempts {
    /// It failed: the pause before the next attempt, and whether this is another reason than the last time.
    pub fn failed(&mut self, why: &str) -> (Duration, bool) {
        let pause = self.next;
        self.next = (pause * 2).min(RECONNECT_LAST);
        let is_new = self.why.as_deref() != Some(why);
        if is_new {
            self.why = Some(why.to_owned());
        }
        (pause, is_new)
    }

    /// It came to be.
    pub fn succeeded(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use journal::types::{ChainHead, EpochId, FrameNo, Hash};
    use journal::wire::OwnEpoch;

    fn head(seq: u64) -> Head {
        fork(seq, 0)
    }

    fn fork(seq: u64, fork: u8) -> Head {
        let mut chain = [fork; 32];
        chain[..8].copy_from_slice(&seq.to_le_bytes());
        let (seq, frame) = (Seq::new(seq).unwrap(), FrameNo::new(seq).unwrap());
        Head { epoch: EpochId([1; 16]), seq, frame, chain: ChainHead(Hash(chain)) }
    }

    /// An agent that holds the frames after `tail` up to `end`, one `Seq` each, opens a receiver that is at `receiver`.
    fn open(tail: u64, end: u64, acked: u64, receiver: Option<Head>) -> (Stream, Next) {
        let at = |seq: u64| Seq::new(seq).map(|seq| head(seq.number()));
        let found = receiver.filter(|head| (tail.max(1)..=end).contains(&head.seq.number()));
        let epochs = [1, 2].map(|id| OwnEpoch { id: EpochId([id; 16]), parent: None });
        let facts = Facts {
            epochs: &epochs,
            tail: at(tail),
            head: at(end),
            acked: at(acked),
            receiver,
            found: found.map(|receiver| head(receiver.seq.number())),
            copied: false,
            disturbed: false,
            take_over: false,
        };
        let mut stream = Stream::default();
        stream.connected();
        assert_eq!(stream.wants_after(), None, "nothing is sent before the receiver's head is known");
        let next = stream.opened(&facts);
        (stream, next)
    }

    fn after(seq: u64) -> Option<Option<Seq>> {
        Some(Seq::new(seq))
    }

    #[test]
    fn it_goes_on_from_the_receivers_head() {
        for (receiver, lost) in [(None, true), (Some(head(3)), true), (Some(head(5)), false), (Some(head(9)), false)] {
            let (stream, next) = open(0, 9, 5, receiver);
            assert_eq!(next, Next::Send { lost });
            assert_eq!(stream.wants_after(), after(receiver.map_or(0, |head| head.seq.number())));
        }
    }

    #[test]
    fn a_receiver_ahead_or_behind_is_rebased_and_a_sibling_refused() {
        for (receiver, reason) in [(head(12), RebaseReason::Ahead), (head(2), RebaseReason::Behind)] {
            let (mut stream, next) = open(4, 9, 5, Some(receiver));
            assert_eq!(next, Next::Rebase { parent: Some(receiver), reason });
            assert_eq!(stream.wants_after(), None);
            stream.rebased();
            assert_eq!(stream.wants_after(), after(receiver.seq.number()));
        }
        let (stream, next) = open(0, 9, 5, Some(fork(7, 1)));
        assert_eq!((next, stream.wants_after()), (Next::Refuse(Stranger::Sibling), None));
    }

    #[test]
    fn an_acknowledgement_is_believed_once_and_only_for_what_was_sent() {
        let (mut stream, _) = open(0, 9, 0, Some(head(2)));
        assert_eq!(stream.acknowledged(head(2)), Ok(false), "stale");
        assert_eq!(stream.acknowledged(head(1)), Ok(false), "older than the session");
        assert!(stream.acknowledged(head(3)).is_err(), "not sent yet");
        for seq in 3..=6 {
            assert_eq!(stream.wants_after(), after(seq - 1));
            stream.frame_sent(head(seq), 10);
        }
        assert!(stream.acknowledged(fork(4, 1)).is_err(), "another chain");
        assert_eq!(stream.acknowledged(head(5)), Ok(true));
        assert_eq!(stream.acknowledged(head(5)), Ok(false), "duplicate");
        assert_eq!(stream.acknowledged(head(4)), Ok(false), "overtaken");
        assert_eq!((stream.durable(), stream.sent()), (Some(head(5)), Some(head(6))));
        assert_eq!(stream.in_flight_bytes, 10);
    }

    #[test]
    fn the_window_bounds_what_is_in_flight() {
        let (mut stream, _) = open(0, 9, 0, None);
        stream.frame_sent(head(1), WINDOW_BYTES - 1);
        assert_eq!(stream.wants_after(), after(1));
        stream.frame_sent(head(2), 1);
        assert_eq!(stream.wants_after(), None);
        assert_eq!(stream.acknowledged(head(1)), Ok(true));
        assert_eq!(stream.wants_after(), after(2));
    }

    #[test]
    fn only_a_busy_link_tells_how_fast_it_is() {
        let second = Duration::from_secs(1);
        let (mut stream, _) = open(0, 9, 0, None);
        stream.frame_sent(head(1), 1_000_000_000);
        assert_eq!(stream.is_fast(second), None, "it may have become busy just now");
        stream.frame_sent(head(2), WINDOW_BYTES);
        assert_eq!(stream.acknowledged(head(1)), Ok(true));
        assert_eq!(stream.is_fast(second), Some(true));
        assert_eq!(stream.is_fast(second), Some(false), "nothing came through");
        assert_eq!(stream.acknowledged(head(2)), Ok(true));
        assert_eq!(stream.is_fast(second), None, "there was nothing to send");
    }

    #[test]
    fn a_new_session_starts_from_nothing() {
        let (mut stream, _) = open(0, 9, 0, None);
        stream.frame_sent(head(1), WINDOW_BYTES);
        stream.disconnected();
        assert_eq!((stream.wants_after(), stream.sent()), (None, None));
        stream.connected();
        assert_eq!(stream.in_flight_bytes, 0);
    }

    /// Whatever is lost, acknowledged late or twice: after enough sessions the receiver has every frame, in order, and was
    /// never sent one that does not follow.
    #[test]
    fn sessions_that_break_anywhere_bring_everything_over() {
        let mut random = 1u64;
        let mut below = |n: u64| {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (random >> 33) % n
        };
        for _ in 0..200 {
            let (end, mut received, mut durable) = (40, 0, 0);
            let mut acked = 0;
            for _session in 0..1000 {
                // A receiver that was killed has what was durable, or more.
                received = durable + below(received - durable + 1);
                durable = received;
                let (mut stream, next) = open(0, end, acked, Seq::new(received).map(|seq| head(seq.number())));
                assert_eq!(next, Next::Send { lost: false });
                for _ in 0..below(20) {
                    match below(3) {
                        0 | 1 => {
                            let Some(after) = stream.wants_after() else { continue };
                            let seq = Seq::following(after).number();
                            if seq <= end {
                                assert_eq!(seq, received + 1);
                                stream.frame_sent(head(seq), 1);
                                received = seq;
                            }
                        }
                        _ if received > 0 => {
                            durable += below(received - durable + 1);
                            if durable > 0 && stream.acknowledged(head(durable)).unwrap() {
                                acked = durable;
                            }
                        }
                        _ => {}
                    }
                }
                if received == end {
                    break;
                }
            }
            assert_eq!(received, end);
        }
    }

    #[test]
    fn the_pause_doubles_up_to_two_seconds_and_starts_again() {
        let mut attempts = Attempts::default();
        let pauses: Vec<u128> = (0..8).map(|_| attempts.failed("gone").0.as_millis()).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 2000, 2000, 2000]);
        attempts.succeeded();
        assert_eq!(attempts.failed("gone").0, RECONNECT_FIRST);
    }

    #[test]
    fn a_reason_is_new_once() {
        let mut attempts = Attempts::default();
        let new = ["gone", "gone", "refused", "refused", "gone"].map(|why| attempts.failed(why).1);
        assert_eq!(new, [true, false, true, false, true]);
        attempts.succeeded();
        assert!(attempts.failed("gone").1);
    }
}
