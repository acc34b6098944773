//! The table, row by row.

use super::*;
use crate::types::{ChainHead, FrameNo, Hash};
use Decision::{Rebase, Refuse, ResendFrom, SendFrom};
use RebaseReason::{Ahead, Behind, Disturbed, TakenOver};
use Stranger::{Copied, Sibling, Unknown};

/// A frame ends at every tenth `Seq`; `fork` tells histories apart.
fn head(epoch: u8, seq: u64, fork: u8) -> Option<Head> {
    let chain = ChainHead(Hash([epoch, u8::try_from(seq).unwrap(), fork, 1].repeat(8).try_into().unwrap()));
    let (seq, frame) = (Seq::new(seq).unwrap(), FrameNo::new(seq.div_ceil(10)).unwrap());
    Some(Head { epoch: EpochId([epoch; 16]), seq, frame, chain })
}

/// The agent: E1 up to 100, E2 was opened at 40 and given up, E3 continues E1 at 100 up to 150. E4 has just begun.
fn own(seq: u64) -> Option<Head> {
    head(if seq > 100 { 3 } else { 1 }, seq, 0)
}

/// What the agent that holds `(tail, end]` and was acknowledged `acked` does when the receiver is at `receiver`.
#[track_caller]
fn check(tail: u64, end: u64, acked: u64, receiver: Option<Head>, expect: Decision) {
    let at = |seq| if seq == 0 { None } else { own(seq) };
    let epoch = |id, parent| OwnEpoch { id: EpochId([id; 16]), parent };
    let mut epochs = vec![epoch(1, None), epoch(2, own(40))];
    epochs.extend((end > 100).then(|| epoch(3, own(100))));
    epochs.push(epoch(4, at(end)));
    let found = receiver.and_then(|receiver| {
        let seq = receiver.seq.number();
        ((tail.max(1)..=end).contains(&seq) && seq.is_multiple_of(10)).then(|| own(seq).unwrap())
    });
    let facts = Facts {
        epochs: &epochs,
        tail: at(tail),
        head: at(end),
        acked: at(acked),
        receiver,
        found,
        copied: false,
        disturbed: false,
        take_over: false,
    };
    assert_eq!(decide(&facts), expect, "{facts:#?}");
    // A source that somebody else changed is compared before anything more is sent.
    let sent = if matches!(expect, SendFrom(_)) { Rebase(Disturbed) } else { expect };
    assert_eq!(decide(&Facts { disturbed: true, ..facts }), sent);
    // A copy is never believed; and whoever takes over is never refused, and changes nothing else.
    assert_eq!(decide(&Facts { copied: true, ..facts }), Refuse(Copied));
    let taken = if matches!(expect, Refuse(_)) { Rebase(TakenOver) } else { expect };
    for copied in [false, true] {
        assert_eq!(decide(&Facts { copied, take_over: true, ..facts }), taken);
    }
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
    let epochs = [OwnEpoch { id: EpochId([1; 16]), parent: None }, OwnEpoch { id: EpochId([3; 16]), parent: own(100) }];
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
        let facts = Facts {
            epochs: &epochs,
            tail: at(tail),
            head: at(end),
            acked: at(acked),
            receiver: theirs,
            found,
            copied: false,
            disturbed: false,
            take_over: false,
        };
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
    let epoch = |id, parent| OwnEpoch { id: EpochId([id; 16]), parent };
    let epochs = [epoch(1, own(10)), epoch(2, None), epoch(3, own(10))];
    let receiver = head(2, 5, 0);
    let facts = Facts {
        epochs: &epochs,
        tail: None,
        head: own(10),
        acked: None,
        receiver,
        found: None,
        copied: false,
        disturbed: false,
        take_over: false,
    };
    assert_eq!(decide(&facts), Rebase(Ahead));
}

#[test]
fn of_the_epoch_that_runs_nobody_else_has_more() {
    let epoch = |id, parent| OwnEpoch { id: EpochId([id; 16]), parent };
    let epochs = [epoch(1, None), epoch(3, own(100))];
    let at = |receiver: u64| {
        let (tail, found) = (own(50), own(receiver).filter(|_| receiver <= 150));
        let receiver = own(receiver);
        let facts = Facts {
            epochs: &epochs,
            tail,
            head: own(150),
            acked: tail,
            receiver,
            found,
            copied: false,
            disturbed: false,
            take_over: false,
        };
        decide(&facts)
    };
    assert_eq!(at(150), SendFrom(seq(151)));
    assert_eq!(at(160), Refuse(Sibling), "a clone of the running machine wrote it");
}

#[test]
fn a_refusal_says_what_to_do_and_fits() {
    for stranger in [Sibling, Unknown, Copied] {
        let text = stranger.to_string();
        assert!(text.contains("--take-over") && text.len() <= 512, "{text}");
    }
}
