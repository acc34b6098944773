//! The frames of a base that are on their way. Kept until a receiver has them durably, so that a base outlives a connection.
//!
//! ```text
//!   durable │ kept: sent … │ kept: not sent in this session … │ not read yet
//! ```

use std::collections::VecDeque;

use journal::codec::Sealed;
use journal::frame::Frame;
use journal::types::FrameNo;
use journal::wire::{BaseHead, Refusal, RefusalCode};

/// Bytes kept, at which reading pauses: with what QUIC has in flight, which is the same memory, enough for a fast link.
pub const BASE_WINDOW_BYTES: usize = 32 * 1024 * 1024;

/// The frames of one base from the first that is not known to be durable on.
#[derive(Debug, Default)]
pub struct Window {
    durable: Option<BaseHead>,
    kept: VecDeque<Frame>,
    bytes: usize,
    /// How many of `kept` were sent in this session.
    sent: usize,
}

/// What the next step of a base depends on, beside what is on its way.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// The receiver has opened it in this session.
    pub is_open: bool,
    /// Another run took the place of the one it is read for.
    pub is_over: bool,
    /// All was read, and this is what there is to seal then.
    pub read: Option<Sealed>,
    /// Changes are recorded: nothing is missing that is not in the base.
    pub is_recording: bool,
}

/// The next step of a base.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// None: nobody needs it any more.
    End,
    /// To have it opened by the receiver. One that found nothing needs no stream.
    Open,
    /// To send the next frame.
    Send,
    /// To say in the order that it is whole.
    Seal(Sealed),
    /// To wait: for frames, for what is durable, for changes to be recorded again.
    Wait,
}

impl Window {
    /// What comes next.
    pub fn next(&self, facts: Facts) -> Step {
        if facts.is_over {
            return Step::End;
        }
        let whole = self.whole(facts.read);
        let needs_stream = !self.is_empty() || whole.is_some_and(|sealed| sealed.frames > 0);
        match whole {
            _ if !facts.is_open && needs_stream => Step::Open,
            _ if facts.is_open && self.unsent().is_some() => Step::Send,
            Some(sealed) if facts.is_recording => Step::Seal(sealed),
            _ => Step::Wait,
        }
    }

    /// What there is to seal of what was `read`, if a receiver has all of it durably.
    pub fn whole(&self, read: Option<Sealed>) -> Option<Sealed> {
        let durable = FrameNo::encode(self.durable.map(|head| head.frame));
        read.filter(|sealed| self.is_empty() && durable == sealed.frames)
    }

    /// The receiver is at `head`. False: what follows it is not here any more, and the base has to start over.
    pub fn opened(&mut self, head: Option<BaseHead>) -> bool {
        self.sent = 0;
        head == self.durable || head.is_some_and(|head| self.pass(head))
    }

    /// The next frame to be sent.
    pub fn unsent(&self) -> Option<&Frame> {
        self.kept.get(self.sent)
    }

    /// It was sent.
    pub fn frame_sent(&mut self) {
        assert!(self.sent < self.kept.len(), "there was none");
        self.sent += 1;
    }

    /// Another frame was read.
    pub fn push(&mut self, frame: Frame) {
        self.bytes += frame.bytes().len();
        self.kept.push_back(frame);
    }

    /// Whether enough is on its way.
    pub fn is_full(&self) -> bool {
        self.bytes >= BASE_WINDOW_BYTES
    }

    /// Bytes of it.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The end of what is durable.
    pub fn durable(&self) -> Option<BaseHead> {
        self.durable
    }

    /// Whether all that was read is durable.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// All up to `head` is durable. What was never sent so cannot be: nothing such a receiver says can be believed.
    pub fn acknowledged(&mut self, head: BaseHead) -> Result<(), Refusal> {
        let known = self.durable.is_some_and(|durable| head.frame <= durable.frame);
        let unsent = self.unsent().is_some_and(|frame| frame.header().number <= head.frame);
        if known || (!unsent && self.pass(head)) {
            return Ok(());
        }
        Err(Refusal::new(RefusalCode::Malformed, "a part of a base is called durable that was never sent"))
    }

    /// Lets go of what `head` covers, if it is the end of a frame here.
    fn pass(&mut self, head: BaseHead) -> bool {
        let at = |frame: &Frame| head == BaseHead { frame: frame.header().number, chain: frame.head() };
        let Some(place) = self.kept.iter().position(at) else { return false };
        self.bytes -= self.kept.drain(..=place).map(|frame| frame.bytes().len()).sum::<usize>();
        self.sent = self.sent.saturating_sub(place + 1);
        self.durable = Some(head);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use journal::codec::{Body, FrameKind};
    use journal::frame::{FrameBuilder, FrameSeal};
    use journal::types::{BootId, ChainHead, EpochId, Extent, FrameNo, GroupId, ResyncId, VolumeNo, WallTime};

    fn chain(count: u64) -> Vec<Frame> {
        let mut builder = FrameBuilder::new();
        let mut prev = ChainHead::START;
        let frames = (1..=count).map(|number| {
            let extent = Extent::of_bytes(number * 512, 512).unwrap();
            builder.push(WallTime(1), Body::Pattern { volume: VolumeNo(0), extent, fill: [0; 8] });
            let frame = builder.finish(&FrameSeal {
                kind: FrameKind::Base { resync: ResyncId([1; 16]), as_of: None },
                group: GroupId([1; 16]),
                epoch: EpochId([1; 16]),
                number: FrameNo::new(number).unwrap(),
                prev,
                durable: None,
                wall: WallTime(1),
                boottime: WallTime(1),
                boot: BootId([1; 16]),
                compress: false,
            });
            prev = frame.head();
            frame
        });
        frames.collect()
    }

    fn head(frame: &Frame) -> BaseHead {
        BaseHead { frame: frame.header().number, chain: frame.head() }
    }

    fn sends(window: &mut Window) -> Option<u64> {
        let number = window.unsent()?.header().number.number();
        window.frame_sent();
        Some(number)
    }

    #[test]
    fn a_lost_connection_is_made_up_from_the_receivers_head() {
        let frames = chain(4);
        let mut window = Window::default();
        assert!(window.opened(None));
        frames.iter().for_each(|frame| window.push(frame.clone()));
        assert_eq!([sends(&mut window), sends(&mut window), sends(&mut window)], [Some(1), Some(2), Some(3)]);
        window.acknowledged(head(&frames[0])).unwrap();
        // The second became durable, and the word of it was lost.
        assert!(window.opened(Some(head(&frames[1]))));
        assert_eq!([sends(&mut window), sends(&mut window), sends(&mut window)], [Some(3), Some(4), None]);
        window.acknowledged(head(&frames[3])).unwrap();
        assert!(window.is_empty());
        assert_eq!(window.bytes, 0);
        // A receiver that lost what it had: those frames are gone here.
        assert!(!window.opened(Some(head(&frames[2]))));
        assert!(!window.opened(None));
        assert!(window.opened(Some(head(&frames[3]))));
    }

    #[test]
    fn only_what_was_sent_is_believed() {
        let frames = chain(3);
        let mut window = Window::default();
        frames.iter().for_each(|frame| window.push(frame.clone()));
        sends(&mut window);
        assert!(window.acknowledged(head(&frames[1])).is_err(), "not sent yet");
        assert!(
            window.acknowledged(BaseHead { chain: frames[1].head(), ..head(&frames[0]) }).is_err(),
            "another chain"
        );
        window.acknowledged(head(&frames[0])).unwrap();
        window.acknowledged(head(&frames[0])).unwrap();
        assert_eq!(sends(&mut window), Some(2));
    }
}
