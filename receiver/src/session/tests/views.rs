//! What an agent is told of what is here: hashes, and where something changed.

use journal::types::{Changed, ExtentRun};

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn hashes_are_those_of_the_view() {
    let receiver = Receiver::start();
    let identity = receiver.enrol("web", SECRET);
    let agent = receiver.session(&identity).await;
    let (mut live, _) = agent.open().await;
    let mut frames = Frames::new();
    // Two blocks and a sector.
    let first = frames.begin(&[257]);
    frames.write(0, extent(130, 1), &[7; 512]);
    let second = frames.finish();
    live.frame(&first).await;
    live.frame(&second).await;
    live.durable(&second).await;
    let mut compare = Stream::open(&agent.connection).await;
    compare.say(&Message::OpenCompare { group: GROUP, at: second.last_seq().unwrap() }).await;
    assert_eq!(compare.hear().await, Ok(Message::CompareReady));
    let volume = journal::types::VolumeNo(0);
    for (first_block, blocks) in [(0, 1024), (1, 1), (3, 5)] {
        compare.say(&Message::CompareRange { volume, first_block, blocks }).await;
    }
    let mut image = vec![0; 257 * 512];
    image[130 * 512..131 * 512].fill(7);
    let all: Vec<_> = image.chunks(65536).map(journal::types::Hash::of).collect();
    let expect = |first_block, hashes: &[_]| Ok(Message::BlockHashes { first_block, hashes: hashes.to_vec() });
    assert_eq!(compare.hear().await, expect(0, &all));
    assert_eq!(compare.hear().await, expect(1, &all[1..2]));
    assert_eq!(compare.hear().await, expect(3, &[]));
    // A place that is not durable here.
    let mut beyond = Stream::open(&agent.connection).await;
    beyond.say(&Message::OpenCompare { group: GROUP, at: second.last_seq().unwrap().after(1) }).await;
    assert!(beyond.hear().await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changed_after_a_place_is_told_to_whoever_agreed_to_ask() {
    let receiver = Receiver::start();
    let identity = receiver.enrol("web", SECRET);
    let agent = receiver.session(&identity).await;
    let (mut live, _) = agent.open().await;
    let mut frames = Frames::new();
    // Ten extents.
    let first = frames.begin(&[10 * 8192]);
    frames.write(0, extent(3 * 8192 + 100, 1), &[7; 512]);
    let second = frames.finish();
    frames.write(0, extent(8192, 1), &[7; 512]);
    frames.write(0, extent(5 * 8192 - 1, 2), &[7; 1024]);
    let third = frames.finish();
    for frame in [&first, &second, &third] {
        live.frame(frame).await;
    }
    live.durable(&third).await;
    let ask = async |after: Option<Seq>, at: Option<Seq>| {
        let mut changed = Stream::open(&agent.connection).await;
        changed.say(&Message::OpenChanged { group: GROUP, after, at: at.unwrap() }).await;
        assert!(matches!(changed.hear().await, Ok(Message::ChangedReady(time)) if time.0 > 0));
        changed
    };
    let runs = |runs: &[(u32, u32)]| {
        let runs = runs.iter().map(|&(first, count)| ExtentRun { first, count }).collect();
        Ok(Message::ChangedExtents(Changed { size: journal::types::Sectors::new(10 * 8192), next: None, runs }))
    };
    let [volume, none] = [0, 7].map(journal::types::VolumeNo);
    let mut changed = ask(second.last_seq(), third.last_seq()).await;
    for (volume, first, expect) in [
        (volume, 0, runs(&[(1, 1), (4, 2)])),
        (volume, 5, runs(&[(5, 1)])),
        (volume, u32::MAX, runs(&[])),
        (none, 0, Ok(Message::ChangedExtents(Changed::default()))),
    ] {
        changed.say(&Message::ChangedFrom { volume, first }).await;
        assert_eq!(changed.hear().await, expect);
    }
    changed = ask(first.last_seq(), second.last_seq()).await;
    changed.say(&Message::ChangedFrom { volume, first: 0 }).await;
    assert_eq!(changed.hear().await, runs(&[(3, 1)]));
    // A place that is not durable here, and a group that this session has not opened.
    let mut beyond = Stream::open(&agent.connection).await;
    let at = third.last_seq().unwrap().after(1);
    beyond.say(&Message::OpenChanged { group: GROUP, after: None, at }).await;
    assert_eq!(code(beyond.hear().await), RefusalCode::Internal);
    let mut strange = Stream::open(&agent.connection).await;
    strange.say(&Message::OpenChanged { group: GroupId([9; 16]), after: None, at: Seq::FIRST }).await;
    assert_eq!(code(strange.hear().await), RefusalCode::UnknownGroup);
    // Who did not say that it knows of this must not say it.
    let plain = receiver.session_with(&identity, Offer { optional: 0, ..Offer::OURS }).await;
    plain.open().await;
    let mut changed = Stream::open(&plain.connection).await;
    changed.say(&Message::OpenChanged { group: GROUP, after: None, at: Seq::FIRST }).await;
    assert_eq!(plain.refused().await, RefusalCode::Malformed);
}
