//! Where points are offered around gaps, epochs and rollbacks of the sources.

use crate::codec::*;
use crate::index::Event;
use crate::store::{Rollback, Timeline};
use crate::types::*;

/// First and last place of each stretch in which all are points; rollbacks; whether the last one is not over.
type Told = (Vec<(u64, Option<u64>)>, Vec<Rollback>, bool);

/// Events from the words of a story, each at the next place.
fn told(story: &str) -> Told {
    let mut timeline = Timeline::default();
    let seq = |number: &str| Seq::new(number.parse().unwrap()).unwrap();
    for (number, word) in (1..).zip(story.split(' ')) {
        let (word, argument) = word.split_once(':').unwrap_or((word, "1"));
        let body = match word {
            "write" => Body::Flush,
            "sealed" => Body::Sealed(Sealed { resync: ResyncId([1; 16]), head: ChainHead::START, frames: 0 }),
            "gap" => Body::Gap(Gap { reason: GapReason::SpoolFull, text: String::new() }),
            "epoch" => Body::EpochBegin(EpochBegin { continues: false, ..EpochBegin::FIRST }),
            "on" => Body::EpochBegin(EpochBegin { continues: true, ..EpochBegin::FIRST }),
            "mark" => Body::Mark(Mark { locked_until: None, name: format!("before-rollback-{argument}") }),
            "other" => Body::Mark(Mark { locked_until: None, name: "other".to_owned() }),
            "begin" => Body::RollbackBegin { target: seq(argument) },
            "end" => Body::RollbackSealed { target: seq(argument) },
            word => panic!("{word}"),
        };
        timeline.add(Event { seq: Seq::new(number).unwrap(), record: Record { time: WallTime(number), body } });
    }
    let stretches = timeline.stretches().iter().map(|it| (it.from.number(), it.to.map(Seq::number)));
    (stretches.collect(), timeline.rollbacks().to_vec(), timeline.unfinished().is_some())
}

fn rollback(begin: u64, target: u64, before: u64, sealed: Option<u64>) -> Rollback {
    let [begin, target, before] = [begin, target, before].map(|number| Seq::new(number).unwrap());
    Rollback { begin, target, before: Some(before), sealed: sealed.and_then(Seq::new) }
}

#[test]
fn no_place_between_begin_and_sealed_is_a_point() {
    let (points, rollbacks, unfinished) = told("epoch sealed write mark write begin:3 write write end:3 write");
    assert_eq!(points, [(2, Some(5)), (9, None)]);
    assert_eq!(rollbacks, [rollback(6, 3, 4, Some(9))]);
    assert!(!unfinished);
    let (points, rollbacks, unfinished) = told("epoch sealed write other begin:3 write");
    assert_eq!((points, unfinished), (vec![(2, Some(4))], true));
    assert_eq!(rollbacks, [rollback(5, 3, 4, None)], "the last point, if nobody marked it");
}

#[test]
fn a_rollback_that_is_interrupted_is_the_same_until_it_is_over() {
    // The agent was killed: it compares, and says again that its rollback is not over.
    let (points, rollbacks, unfinished) =
        told("epoch sealed mark begin:2 write epoch gap begin:2 write sealed write end:2 write");
    assert_eq!(points, [(2, Some(3)), (12, None)]);
    assert_eq!((rollbacks, unfinished), (vec![rollback(4, 2, 3, Some(12))], false));
    // Nothing of it had arrived before.
    let (points, rollbacks, _) = told("epoch sealed mark write epoch gap begin:2 sealed end:2");
    assert_eq!((points, rollbacks), (vec![(2, Some(4)), (9, None)], vec![rollback(7, 2, 3, Some(9))]));
    // It was stopped cleanly; and undone before it was over. What ends another target's ends nothing.
    let (points, rollbacks, _) = told("epoch sealed mark begin:2 on begin:2 write begin:3 end:2 write end:3");
    assert_eq!((points, rollbacks), (vec![(2, Some(3)), (11, None)], vec![rollback(4, 3, 3, Some(11))]));
    // A gap is open when it is over: points begin with what ends that.
    let (points, ..) = told("epoch sealed mark begin:2 gap write end:2 write sealed");
    assert_eq!(points, [(2, Some(3)), (9, None)]);
    // The next one is another.
    let (_, rollbacks, _) = told("epoch sealed mark begin:2 end:2 mark begin:3 end:3");
    assert_eq!(rollbacks, [rollback(4, 2, 3, Some(5)), rollback(7, 3, 6, Some(8))]);
}

#[test]
fn one_that_was_over_and_whose_agent_had_not_heard_it_is_the_same() {
    let (points, rollbacks, _) = told("epoch sealed mark begin:2 end:2 epoch gap begin:2 sealed begin:2 end:2");
    assert_eq!((points, rollbacks), (vec![(2, Some(3)), (5, Some(5)), (11, None)], vec![rollback(4, 2, 3, Some(11))]));
    let (points, rollbacks, _) = told("epoch sealed mark begin:2 end:2 on begin:2 end:2");
    assert_eq!((points, rollbacks), (vec![(2, Some(3)), (5, Some(6)), (8, None)], vec![rollback(4, 2, 3, Some(8))]));
    // A person wants the same once more.
    let (_, rollbacks, _) = told("epoch sealed mark begin:2 end:2 write mark begin:2 end:2");
    assert_eq!(rollbacks, [rollback(4, 2, 3, Some(5)), rollback(8, 2, 7, Some(9))]);
}

#[test]
fn an_agent_that_knows_of_no_rollback_has_points_when_all_was_read() {
    let (points, rollbacks, unfinished) =
        told("epoch sealed mark begin:2 write epoch gap sealed write mark begin:8 end:8");
    assert_eq!(points, [(2, Some(3)), (8, Some(10)), (12, None)]);
    assert_eq!(rollbacks, [rollback(4, 2, 3, None), rollback(11, 8, 10, Some(12))]);
    assert!(!unfinished);
    let (points, ..) = told("epoch sealed end:1 begin:2");
    assert_eq!(points, [(2, Some(3))], "nothing had begun");
}
