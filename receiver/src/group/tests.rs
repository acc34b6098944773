use std::sync::Arc;

use journal::codec::{Body, Mark, Sealed};
use journal::disk::sim::{CrashMode, Fault as DiskFault, Rng};
use journal::disk::{Disk, SimDisk};
use journal::frame::Frame;
use journal::store::Store;
use journal::wire::RefusalCode;

use super::all::{Open, spawn, stepped};
use super::ingest::Command;
use super::writer::{Opening, Writer};
use super::*;
use crate::testing::{Frames, GROUP, base_frame, base_frames, extent};

fn entry() -> GroupEntry {
    let name = |text| Name::parse(text).unwrap();
    GroupEntry { id: GROUP, name: name("db"), agent: name("web"), retention: crate::Retention::default() }
}

fn opening(disk: &SimDisk) -> Opening {
    Opening {
        disk: Arc::new(disk.clone()),
        reserve: None,
        segment_bytes: 64 * 1024,
        entropy: || [5; 16],
        now: crate::time::now,
    }
}

fn start(disk: &SimDisk) -> Open {
    spawn(entry(), opening(disk)).unwrap()
}

async fn stop(open: Open) {
    let queue = open.group.queue().take().unwrap();
    queue.stop().await;
    tokio::task::spawn_blocking(move || open.writer.join().unwrap()).await.unwrap();
}

/// Waits until `seq` is durable, or the session is refused.
async fn durable(attachment: &mut Attachment, seq: Seq) -> std::result::Result<Head, Refusal> {
    let now = attachment.progress.wait_for(|now| now.refused.is_some() || now.head.is_some_and(|h| h.seq >= seq)).await;
    let now = now.unwrap();
    match &now.refused {
        Some(refused) => Err(refused.clone()),
        None => Ok(now.head.unwrap()),
    }
}

/// Waits as a session does, while the writer works.
fn finish<T>(future: impl Future<Output = T>, writer: &mut Writer) -> T {
    let mut future = std::pin::pin!(future);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    loop {
        if let std::task::Poll::Ready(result) = future.as_mut().poll(&mut context) {
            return result;
        }
        writer.step();
    }
}

/// A base that has much waiting is written a little at a time as soon as live frames come, and these never wait for the rest of it.
#[test]
fn live_frames_go_before_what_waits_of_a_base() {
    let opening = Opening { segment_bytes: 64 << 20, ..opening(&SimDisk::new(1)) };
    let (group, mut writer) = stepped(entry(), opening);
    let mut session = finish(group.attach(SessionId(1)), &mut writer).unwrap();
    let mut frames = Frames::new();
    let resync = ResyncId([7; 16]);
    let first = frames.begin(&[1 << 20]);
    finish(session.ingest.live(first), &mut writer).unwrap();
    while writer.step() {}
    finish(session.ingest.open_base(resync), &mut writer).unwrap();
    let base = base_frames(resync, 12);
    for frame in &base {
        finish(session.ingest.base(resync, frame.clone()), &mut writer).unwrap();
    }
    // The queue of bases is its own: there is room however full it is.
    let mut of_base = 0;
    for byte in 1..=4 {
        let frame = write(&mut frames, byte);
        finish(session.ingest.live(frame.clone()), &mut writer).unwrap();
        assert!(writer.step());
        let now = session.progress.borrow_and_update().clone();
        assert_eq!(now.head.map(|head| head.seq), frame.last_seq(), "after {of_base} frames of the base");
        let durable = now.bases.first().map_or(0, |(_, head)| head.frame.number());
        assert!((of_base + 1..=of_base + 2).contains(&durable), "{durable} after {of_base}");
        of_base = durable;
    }
    while writer.step() {}
    assert_eq!(session.progress.borrow().bases.first().map(|(_, head)| head.frame.number()), Some(12));
    // What says that it is whole is written after all of it, though it came before the last was written.
    let late = ResyncId([8; 16]);
    finish(session.ingest.open_base(late), &mut writer).unwrap();
    let base = base_frames(late, 6);
    for frame in &base {
        finish(session.ingest.base(late, frame.clone()), &mut writer).unwrap();
    }
    frames.push(Body::Sealed(Sealed { resync: late, head: base[5].head(), frames: 6 }));
    let sealed = frames.finish();
    finish(session.ingest.live(sealed.clone()), &mut writer).unwrap();
    while writer.step() {}
    let now = session.progress.borrow_and_update().clone();
    assert_eq!((now.refused, now.head.map(|head| head.seq)), (None, sealed.last_seq()));
}

/// A number that was given out for a file beside the journal stays its own when the journal is opened anew: who has it may still make and
/// remove a file of that name.
#[test]
fn a_number_that_was_given_out_is_nobody_elses_after_the_journal_is_opened_anew() {
    let disk = SimDisk::new(1);
    let (group, mut writer) = stepped(entry(), Opening { segment_bytes: 8 * 1024, ..opening(&disk) });
    let session = finish(group.attach(SessionId(1)), &mut writer).unwrap();
    let mut frames = Frames::new();
    let mut sent = vec![frames.begin(&[1 << 20])];
    finish(session.ingest.live(sent[0].clone()), &mut writer).unwrap();
    while writer.step() {}
    let (reply, answer) = oneshot::channel();
    let commands = group.queue().clone().unwrap().commands;
    finish(commands.send(Command::TakeNumber { reply }), &mut writer).unwrap();
    while writer.step() {}
    let number = answer.blocking_recv().unwrap().unwrap();
    disk.fail_nth(disk.ops() + 1, DiskFault::Io);
    sent.push(write(&mut frames, 1));
    finish(session.ingest.live(sent[1].clone()), &mut writer).unwrap();
    while writer.step() {}
    assert!(matches!(group.snapshot().progress.fault, Some(Fault::Disk(_))));
    let session = finish(group.attach(SessionId(2)), &mut writer).unwrap();
    sent.extend((2..40).map(|byte| write(&mut frames, byte)));
    for frame in &sent {
        finish(session.ingest.live(frame.clone()), &mut writer).unwrap();
    }
    while writer.step() {}
    assert_eq!(group.snapshot().progress.head.map(|head| head.seq), sent.last().map(last));
    let files = disk.list().unwrap();
    let segments: Vec<_> = files.iter().filter(|name| name.ends_with(".seg")).collect();
    assert!(segments.len() > 2 && !files.contains(&number.file_name()), "{number:?} was given out: {files:?}");
}

fn write(frames: &mut Frames, byte: u8) -> Frame {
    frames.write(0, extent(u64::from(byte), 1), &[byte; 512]);
    frames.finish()
}

fn last(frame: &Frame) -> Seq {
    frame.last_seq().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_acknowledged_is_durable_visible_and_there_after_a_restart() {
    let disk = SimDisk::new(1);
    let open = start(&disk);
    let mut session = open.group.attach(SessionId(1)).await.unwrap();
    assert_eq!(session.head, None);
    let mut frames = Frames::new();
    let mut newest = frames.begin(&[1000]);
    session.ingest.live(newest.clone()).await.unwrap();
    for byte in 1..200 {
        newest = write(&mut frames, byte);
        session.ingest.live(newest.clone()).await.unwrap();
    }
    let head = durable(&mut session, last(&newest)).await.unwrap();
    assert_eq!(head.chain, newest.head());
    let view = open.group.library().unwrap().now().view(head.seq).unwrap();
    let mut sector = [0; 512];
    view.read(journal::types::VolumeNo(0), 77 * 512, &mut sector).unwrap();
    assert_eq!(sector, [77; 512]);
    stop(open).await;
    let open = start(&disk);
    assert_eq!(open.group.attach(SessionId(2)).await.unwrap().head, Some(head));
    assert_eq!(open.group.snapshot().findings, []);
    stop(open).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_session_fences_the_older_one_at_once() {
    let open = start(&SimDisk::new(1));
    let mut frames = Frames::new();
    let old = open.group.attach(SessionId(5)).await.unwrap();
    old.ingest.live(frames.begin(&[1000])).await.unwrap();
    let new = open.group.attach(SessionId(6)).await.unwrap();
    assert_eq!(old.ingest.live(write(&mut frames, 1)).await.unwrap_err().code, RefusalCode::Superseded);
    assert_eq!(old.ingest.open_base(ResyncId([1; 16])).await.unwrap_err().code, RefusalCode::Superseded);
    assert_eq!(old.progress.borrow().session, SessionId(6));
    assert_eq!(open.group.attach(SessionId(5)).await.unwrap_err().code, RefusalCode::Superseded);
    // What the old one had handed over before is there or not, and the new one is told which.
    let first = new.head.map(|head| head.seq);
    assert!(first.is_none() || first == Seq::new(3), "{first:?}");
    stop(open).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_that_does_not_continue_is_refused_and_the_group_goes_on() {
    let open = start(&SimDisk::new(1));
    let mut frames = Frames::new();
    let mut session = open.group.attach(SessionId(1)).await.unwrap();
    let first = frames.begin(&[1000]);
    session.ingest.live(first.clone()).await.unwrap();
    durable(&mut session, last(&first)).await.unwrap();
    let lost = write(&mut frames, 1);
    let next = write(&mut frames, 2);
    session.ingest.live(next.clone()).await.unwrap();
    assert_eq!(durable(&mut session, last(&next)).await.unwrap_err().code, RefusalCode::ChainBroken);
    assert!(session.ingest.live(lost.clone()).await.is_err(), "the session is over");
    let mut session = open.group.attach(SessionId(2)).await.unwrap();
    assert_eq!(session.head.unwrap().chain, first.head());
    for frames in [[&first, &lost, &next], [&lost, &next, &write(&mut frames, 3)]] {
        for frame in frames {
            session.ingest.live(frame.clone()).await.unwrap();
        }
        // What is here already changes nothing.
        let end = frames[2];
        assert_eq!(durable(&mut session, last(end)).await.unwrap().chain, end.head());
    }
    stop(open).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_is_sealed_only_when_all_of_it_is_durable() {
    let open = start(&SimDisk::new(1));
    let mut frames = Frames::new();
    let mut session = open.group.attach(SessionId(1)).await.unwrap();
    let first = frames.begin(&[1000]);
    session.ingest.live(first.clone()).await.unwrap();
    durable(&mut session, last(&first)).await.unwrap();
    let resync = ResyncId([8; 16]);
    let base = base_frame(resync, Some(last(&first)), 0, extent(9, 1), &[9; 512]);
    frames.push(Body::Sealed(Sealed { resync, head: base.head(), frames: 1 }));
    let sealed = frames.finish();
    session.ingest.live(sealed.clone()).await.unwrap();
    assert!(durable(&mut session, last(&sealed)).await.is_err(), "nothing of the base is here");
    let mut session = open.group.attach(SessionId(2)).await.unwrap();
    assert_eq!(session.ingest.open_base(resync).await.unwrap(), None);
    session.ingest.base(resync, base.clone()).await.unwrap();
    let whole = BaseHead { frame: base.header().number, chain: base.head() };
    session.progress.wait_for(|now| now.bases.contains(&(resync, whole))).await.unwrap();
    assert_eq!(session.ingest.open_base(resync).await.unwrap(), Some(whole));
    session.ingest.live(sealed.clone()).await.unwrap();
    durable(&mut session, last(&sealed)).await.unwrap();
    assert_eq!(session.progress.borrow().bases, []);
    let mut sector = [0; 512];
    let view = open.group.library().unwrap().now().view(last(&sealed)).unwrap();
    view.read(journal::types::VolumeNo(0), 9 * 512, &mut sector).unwrap();
    assert_eq!(sector, [9; 512]);
    stop(open).await;
}

/// The receiver is killed between a write and its fdatasync: what recovery finds then is in the cache only. Once the next session
/// was told to go on from there, nobody sends it again.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_promised_is_made_durable_before_a_session_goes_on_from_it() {
    let disk = SimDisk::new(1);
    let (mut store, _) = Store::open(Arc::new(disk.clone()), GROUP, 64 * 1024, || [5; 16]).unwrap();
    let first = Frames::new().begin(&[1000]);
    store.append(std::slice::from_ref(&first), SessionId(1), WallTime(1)).unwrap();
    drop(store);
    let open = start(&disk);
    let head = open.group.attach(SessionId(2)).await.unwrap().head;
    assert_eq!(head.map(|head| head.chain), Some(first.head()));
    let after = start(&disk.crash(CrashMode::LoseAll, &mut Rng::new(1)));
    assert_eq!(after.group.attach(SessionId(3)).await.unwrap().head, head);
    stop(open).await;
    stop(after).await;
}

/// The disk fails at any operation: the session is refused, and once the disk works again nothing promised is missing.
#[tokio::test(flavor = "multi_thread")]
async fn a_failing_disk_ends_the_session_and_loses_nothing() {
    let mut full = 0;
    for op in 0..60 {
        for fault in [DiskFault::Io, DiskFault::NoSpace] {
            let disk = SimDisk::new(op);
            let open = start(&disk);
            let mut frames = Frames::new();
            let mut session = open.group.attach(SessionId(1)).await.unwrap();
            let mut sent = vec![frames.begin(&[1000])];
            session.ingest.live(sent[0].clone()).await.unwrap();
            let mut promised = durable(&mut session, last(&sent[0])).await.unwrap();
            disk.fail_nth(disk.ops() + 1 + op, fault);
            let refused = loop {
                let frame = write(&mut frames, u8::try_from(sent.len() % 200).unwrap());
                sent.push(frame.clone());
                if let Err(refused) = session.ingest.live(frame.clone()).await {
                    break refused;
                }
                match durable(&mut session, last(&frame)).await {
                    Ok(head) => promised = head,
                    Err(refused) => break refused,
                }
            };
            full += usize::from(refused.code == RefusalCode::NoSpace);
            // Whatever anybody was told, also in between, survives the power going now.
            let told = session.progress.borrow().head.map(|head| head.seq);
            let after_cut = start(&disk.crash(CrashMode::LoseAll, &mut Rng::new(op)));
            let left = after_cut.group.attach(SessionId(9)).await.unwrap().head.map(|head| head.seq);
            assert!(left >= told, "operation {op}, {fault:?}: {told:?} was told, {left:?} is left after a power cut");
            stop(after_cut).await;
            assert!(open.group.snapshot().progress.fault.is_some());
            let Ok(mut session) = open.group.attach(SessionId(2)).await else {
                panic!("the disk works again, but the group does not: {:?}", open.group.snapshot().progress)
            };
            let head = session.head.unwrap();
            assert!(head.seq >= promised.seq, "{promised:?} was promised, {head:?} is left");
            assert_eq!(open.group.snapshot().progress.fault, None);
            for frame in &sent {
                session.ingest.live(frame.clone()).await.unwrap();
            }
            durable(&mut session, last(sent.last().unwrap())).await.unwrap();
            stop(open).await;
        }
    }
    assert!(full > 0);
}

/// A disk that is full, or fails, while a journal is opened has damaged nothing: nobody has to look at it.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_without_room_is_no_damage() {
    let mut refused = 0;
    for op in 0..12 {
        for fault in [DiskFault::Io, DiskFault::NoSpace] {
            let disk = SimDisk::new(op);
            let open = start(&disk);
            let mut frames = Frames::new();
            let mut session = open.group.attach(SessionId(1)).await.unwrap();
            let first = frames.begin(&[1000]);
            session.ingest.live(first.clone()).await.unwrap();
            durable(&mut session, last(&first)).await.unwrap();
            stop(open).await;
            // As a kill leaves it: nobody has noted a clean stop.
            let disk = disk.crash(CrashMode::KeepAll, &mut Rng::new(op));
            drop(Store::open(Arc::new(disk.clone()), GROUP, 64 * 1024, || [6; 16]).unwrap().0);
            disk.fail_nth(disk.ops() + 1 + op, fault);
            let open = start(&disk);
            assert_eq!(open.group.damage(), None, "operation {op}, {fault:?}");
            for number in 2..4 {
                if let Err(why) = open.group.attach(SessionId(number)).await {
                    assert!(matches!(why.code, RefusalCode::NoSpace | RefusalCode::Internal), "{op}, {fault:?}: {why}");
                    refused += 1;
                }
            }
            stop(open).await;
        }
    }
    assert!(refused > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mark_is_asked_for_and_waited_for() {
    let open = start(&SimDisk::new(1));
    let group = open.group.clone();
    assert_eq!(group.mark("m", None).await.unwrap_err().code().exit(), 16, "nobody is connected");
    let mut frames = Frames::new();
    let mut session = group.attach(SessionId(1)).await.unwrap();
    session.ingest.live(frames.begin(&[1000])).await.unwrap();
    let asked = tokio::spawn({
        let group = group.clone();
        async move { group.mark("before-upgrade", Some(WallTime(7))).await }
    });
    let order = session.orders.recv().await.unwrap();
    let Order::Mark { name, locked_until, reply } = order else { panic!("{order:?}") };
    assert_eq!((name.as_str(), locked_until), ("before-upgrade", Some(WallTime(7))));
    let seq = frames.seq();
    frames.push(Body::Mark(Mark { locked_until, name }));
    reply.send(Ok(seq)).unwrap();
    session.ingest.live(frames.finish()).await.unwrap();
    assert_eq!(asked.await.unwrap().unwrap(), seq);
    drop(session);
    assert_eq!(group.mark("m", None).await.unwrap_err().code().exit(), 16, "it is gone again");
    stop(open).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_group_takes_nothing_in() {
    let open = start(&SimDisk::new(1));
    let group = open.group.clone();
    let session = group.attach(SessionId(1)).await.unwrap();
    stop(open).await;
    assert!(session.ingest.live(Frames::new().begin(&[8])).await.is_err());
    assert!(group.attach(SessionId(2)).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_group_says_so_and_stops_nobody_else() {
    let dir = tempfile::tempdir().unwrap();
    let open = || {
        let dir = crate::catalog::StoreDir::open(dir.path(), crate::catalog::StoreId([1; 16])).unwrap();
        Groups::open(crate::catalog::Catalog::open(dir).unwrap(), false).unwrap()
    };
    let agent = Name::parse("web").unwrap();
    let (good, bad) = (GroupId([1; 16]), GROUP);
    let groups = open();
    groups.claim(&agent, good, "good").unwrap();
    let group = groups.claim(&agent, bad, "bad").unwrap();
    let mut session = group.attach(groups.next_session()).await.unwrap();
    let mut frames = Frames::new();
    let mut newest = frames.begin(&[1000]);
    session.ingest.live(newest.clone()).await.unwrap();
    for byte in 1..9 {
        newest = write(&mut frames, byte);
        session.ingest.live(newest.clone()).await.unwrap();
    }
    durable(&mut session, last(&newest)).await.unwrap();
    groups.stop().await;
    let bad_dir = groups.catalog().group_dir(bad);
    drop(groups);
    // Its tail was promised, and is gone.
    let segment = std::fs::read_dir(&bad_dir).unwrap().map(|entry| entry.unwrap().path());
    let segment = segment.into_iter().find(|path| path.extension().is_some_and(|e| e == "seg")).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&segment).unwrap();
    file.set_len(file.metadata().unwrap().len() - 600).unwrap();
    let groups = open();
    let group = groups.by_name("bad").unwrap();
    assert!(matches!(group.snapshot().progress.fault, Some(Fault::Damaged(_))));
    assert!(!group.snapshot().findings.is_empty());
    assert_eq!(group.attach(groups.next_session()).await.unwrap_err().code, RefusalCode::Damaged);
    let version = group.library().unwrap().now();
    assert!(version.view(Seq::new(5).unwrap()).is_ok(), "what is below the damage is readable");
    groups.by_name("good").unwrap().attach(groups.next_session()).await.unwrap();
    groups.stop().await;
}
