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
    // Pages, of the last block only what there is of it, and of none behind it.
    let pages: Vec<_> = image.chunks(4096).map(journal::types::Hash::of).collect();
    let [none, no_volume] = [7, 9].map(journal::types::VolumeNo);
    for (volume, blocks, expect) in [
        (volume, vec![1], &pages[16..32]),
        (volume, vec![0, 2, 3], &[&pages[..16], &pages[32..]].concat()[..]),
        (volume, vec![3, 1 << 46], &[]),
        (no_volume, vec![0], &[]),
    ] {
        let first_block = blocks[0];
        compare.say(&Message::ComparePages { volume, blocks }).await;
        assert_eq!(compare.hear().await, Ok(Message::PageHashes { first_block, hashes: expect.to_vec() }));
    }
    compare.say(&Message::CompareRange { volume: none, first_block: 0, blocks: 1024 }).await;
    assert_eq!(compare.hear().await, expect(0, &[]));
    // A place that is not durable here.
    let mut beyond = Stream::open(&agent.connection).await;
    beyond.say(&Message::OpenCompare { group: GROUP, at: second.last_seq().unwrap().after(1) }).await;
    assert!(beyond.hear().await.is_err());
    // Who did not say that it knows of pages must not ask for them.
    let plain = receiver.session_with(&identity, Offer { optional: 0, ..Offer::OURS }).await;
    plain.open().await;
    let mut compare = Stream::open(&plain.connection).await;
    compare.say(&Message::OpenCompare { group: GROUP, at: second.last_seq().unwrap() }).await;
    assert_eq!(compare.hear().await, Ok(Message::CompareReady));
    compare.say(&Message::CompareRange { volume, first_block: 1, blocks: 1 }).await;
    assert_eq!(compare.hear().await, expect(1, &all[1..2]));
    compare.say(&Message::ComparePages { volume, blocks: vec![0] }).await;
    assert_eq!(plain.refused().await, RefusalCode::Malformed);
}

/// Where nothing is, nothing is read; what is said of it is the same.
#[tokio::test(flavor = "multi_thread")]
async fn hashes_of_what_is_sparse_are_those_of_the_view() {
    let receiver = Receiver::start();
    let identity = receiver.enrol("web", SECRET);
    let agent = receiver.session(&identity).await;
    let (mut live, _) = agent.open().await;
    let mut frames = Frames::new();
    // 300 blocks and a sector: what is asked for is more than is read at once.
    const SECTORS: usize = 300 * 128 + 1;
    let mut image = vec![0; SECTORS * 512];
    live.frame(&frames.begin(&[SECTORS as u64])).await;
    for (fill, at) in (1..).zip([0, 129, 5 * 128 - 1, 100 * 128 + 64, 117 * 128, 299 * 128, SECTORS - 2]) {
        let data = [fill; 1024];
        frames.write(0, extent(at as u64, 2), &data);
        image[at * 512..][..1024].copy_from_slice(&data);
    }
    let last = frames.finish();
    live.frame(&last).await;
    live.durable(&last).await;
    let all: Vec<_> = image.chunks(65536).map(journal::types::Hash::of).collect();
    let mut compare = Stream::open(&agent.connection).await;
    compare.say(&Message::OpenCompare { group: GROUP, at: last.last_seq().unwrap() }).await;
    assert_eq!(compare.hear().await, Ok(Message::CompareReady));
    let volume = journal::types::VolumeNo(0);
    for range in [0..301, 4..101, 99..100, 101..117, 118..299, 250..300, 300..301, 301..301usize] {
        // More are asked for than there are, where it goes to the end.
        let more = if range.end == 301 { 9 } else { 0 };
        let (first_block, blocks) = (range.start as u64, u32::try_from(range.len()).unwrap() + more);
        compare.say(&Message::CompareRange { volume, first_block, blocks }).await;
        assert_eq!(compare.hear().await, Ok(Message::BlockHashes { first_block, hashes: all[range].to_vec() }));
    }
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
