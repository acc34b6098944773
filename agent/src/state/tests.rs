//! What is remembered, who may have it, and what a start makes of it.

use std::collections::BTreeMap;
use std::fs;

use journal::codec::GapReason;
use journal::log::Head;
use journal::types::{ChainHead, EpochId, FrameNo, Hash, Sectors, Seq, VolumeNo, VolumeUuid};

use super::*;
use crate::ErrorKind;
use crate::source::{Identity, Source};
use crate::testing::{entropy, file_of};

fn head(seq: u64) -> Head {
    let (seq, frame) = (Seq::new(seq).unwrap(), FrameNo::new(seq).unwrap());
    Head { epoch: EpochId([3; 16]), seq, frame, chain: ChainHead(Hash([0xAB; 32])) }
}

/// As if of a file; another one for each text.
fn identity(text: &str) -> Identity {
    serde_json::from_value(text.into()).unwrap()
}

fn volume(name: &str, sectors: u64) -> Volume {
    let path = format!("/srv/{name} \"ü\".img").into();
    let (uuid, identity) = (VolumeUuid([5; 16]), Some(identity(name)));
    Volume { uuid, name: name.to_owned(), path, size: Sectors::new(sectors).unwrap(), identity }
}

fn opened(n: u8) -> OpenedEpoch {
    let parent = (n > 1).then(|| EpochId([n - 1; 16]));
    OpenedEpoch { id: EpochId([n; 16]), parent, seq: Seq::new(u64::from(n) - 1), chain: ChainHead(Hash([n; 32])) }
}

#[test]
fn a_group_is_found_again_as_it_was_left() {
    let dir = tempfile::tempdir().unwrap();
    let groups = Groups::open(dir.path().join("new")).unwrap();
    assert!(groups.list().unwrap().is_empty());
    let mut group = groups.claim("db", entropy).unwrap();
    for n in 1..=70 {
        group
            .begin(opened(n), BTreeMap::from([(VolumeNo(0), volume("db", 8)), (VolumeNo(3), volume("log", 9))]))
            .unwrap();
    }
    group.note_durable(head(10)).unwrap();
    group.note_durable(head(9)).unwrap();
    let source = Source::open(file_of(dir.path(), "source", &[1; 512])).unwrap();
    let proofs = BTreeMap::from([(VolumeNo(0), source.proof().unwrap().unwrap())]);
    let unread = BTreeMap::from([(VolumeNo(0), vec![0..65_536, 131_072..131_584]), (VolumeNo(3), vec![])]);
    let stopped = Stopped { head: head(12), proofs, unread: Some(unread) };
    group.note_stopped(stopped.clone()).unwrap();
    let left = group.state().clone();
    assert_eq!(left.durable, Some(head(10)));
    assert_eq!((left.epochs.len(), left.epochs[0]), (64, opened(7)));
    assert!(left.opened(EpochId([70; 16])).is_some() && left.opened(EpochId([6; 16])).is_none());
    drop(group);

    let other = groups.claim("other", entropy).unwrap();
    let mut group = groups.claim("db", entropy).unwrap();
    assert_eq!(*group.state(), left);
    assert_eq!(group.state().stopped, Some(stopped));
    assert_eq!((group.state().unread(VolumeNo(0)).len(), group.state().unread(VolumeNo(9)).len()), (2, 0));
    assert_ne!(other.state().id, left.id);
    // From the next beginning on, nothing is proved; and a volume that went takes its number with it.
    group.begin(opened(71), BTreeMap::from([(VolumeNo(0), volume("db", 8))])).unwrap();
    drop(group);
    let state = groups.claim("db", entropy).unwrap().state().clone();
    assert_eq!((state.stopped, state.next_volume), (None, VolumeNo(4)));
    assert_eq!(groups.list().unwrap().len(), 2);
}

#[test]
fn one_agent_has_a_group() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (Groups::open(dir.path()).unwrap(), Groups::open(dir.path()).unwrap());
    let group = first.claim("db", entropy).unwrap();
    let error = second.claim("db", entropy).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Locked);
    assert!(error.to_string().contains("another agent"), "{error}");
    drop(group);
    second.claim("db", entropy).unwrap();
}

#[test]
fn agents_that_start_at_once_make_one_group() {
    let dir = tempfile::tempdir().unwrap();
    let claims: Vec<_> = std::thread::scope(|scope| {
        let claim = || Groups::open(dir.path()).unwrap().claim("db", entropy);
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(claim)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let made = claims.iter().filter(|claim| claim.is_ok()).count();
    assert_eq!(made, 1);
    assert_eq!(Groups::open(dir.path()).unwrap().list().unwrap().len(), 1);
}

#[test]
fn a_state_that_is_not_ours_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let groups = Groups::open(dir.path()).unwrap();
    let id = groups.claim("db", entropy).unwrap().state().id;
    let path = dir.path().join(format!("groups/{id}/state.json"));
    let good = fs::read_to_string(&path).unwrap();
    let check = |text: &str, kind: ErrorKind| {
        fs::write(&path, text).unwrap();
        assert_eq!(groups.claim("db", entropy).unwrap_err().kind(), kind, "{text}");
    };
    check(&good.replace("\"version\": 1", "\"version\": 2, \"more\": 3"), ErrorKind::Unsupported);
    check(&good.replace("\"durable\"", "\"endurable\""), ErrorKind::Corrupt);
    check(&good.replace(&id.to_string(), &"0".repeat(32)), ErrorKind::Corrupt);
    check(&good.replace(&id.to_string(), &"1".repeat(32)), ErrorKind::Corrupt);
    check(&good[..good.len() / 2], ErrorKind::Corrupt);
    check("", ErrorKind::Corrupt);
    fs::write(&path, good).unwrap();
    assert_eq!(groups.claim("db", entropy).unwrap().state().id, id);
    // What somebody else put there is left alone; a group that was never finished is none.
    fs::create_dir(dir.path().join("groups/notes")).unwrap();
    fs::create_dir(dir.path().join(format!("groups/{}", "2".repeat(32)))).unwrap();
    assert_eq!(groups.list().unwrap().len(), 1);
}

fn facts(name: &str, sectors: u64, unchanged: Option<bool>) -> Facts {
    let identity = Some(identity(name));
    Facts { name: name.to_owned(), path: "/srv/x".into(), size: Sectors::new(sectors).unwrap(), identity, unchanged }
}

fn known(clean: bool) -> GroupState {
    GroupState {
        id: crate::testing::GROUP,
        name: "g".to_owned(),
        volumes: BTreeMap::from([(VolumeNo(0), volume("a", 8)), (VolumeNo(4), volume("b", 8))]),
        next_volume: VolumeNo(6),
        epochs: Vec::new(),
        durable: None,
        place: None,
        stopped: clean.then(|| Stopped { head: head(1), proofs: BTreeMap::new(), unread: None }),
        rollback: None,
    }
}

#[track_caller]
fn check(clean: bool, fact: Facts, resized: bool, action: Action, reason: Option<GapReason>) {
    let plan = plan(&known(clean), &[facts("b", 8, Some(true)), fact], false).unwrap();
    let number = if action == Action::FirstCopy { VolumeNo(6) } else { VolumeNo(0) };
    assert_eq!(plan.volumes[1], VolumePlan { number, resized, action });
    let expected = if clean { reason } else { Some(GapReason::UncleanStart) };
    assert_eq!(plan.gap.map(|gap| gap.reason), expected);
}

#[test]
fn a_start_reads_again_whatever_is_not_proved() {
    use Action::{Compare, Continue, FirstCopy};
    use GapReason::{ChangedWhileStopped, UncleanStart};
    //    clean  found now                         resized  read       gap
    check(true, facts("a", 8, Some(true)), false, Continue, None);
    check(true, facts("a", 8, Some(false)), false, Compare, Some(ChangedWhileStopped));
    check(true, facts("a", 8, None), false, Compare, Some(UncleanStart));
    check(true, facts("a", 9, Some(true)), true, Compare, Some(ChangedWhileStopped));
    check(true, facts("a", 7, Some(false)), true, Compare, Some(ChangedWhileStopped));
    check(true, facts("new", 8, None), false, FirstCopy, Some(GapReason::FirstCopy));
    check(false, facts("a", 8, Some(true)), false, Compare, Some(UncleanStart));
    check(false, facts("a", 9, Some(true)), true, Compare, Some(UncleanStart));
    check(false, facts("a", 7, None), true, Compare, Some(UncleanStart));
    check(false, facts("new", 8, None), false, FirstCopy, Some(UncleanStart));

    // Stopped in the middle of a resync: what is proved and known to be unread is not read in full.
    let mut state = known(true);
    let stopped = state.stopped.as_mut().unwrap();
    stopped.unread = Some(BTreeMap::from([(VolumeNo(0), vec![0..4096, 8192..12288]), (VolumeNo(4), vec![])]));
    for (fact, action, why) in [
        (facts("a", 8, Some(true)), Action::Resume, "before all that had changed was read"),
        (facts("a", 8, Some(false)), Compare, "written to while nobody watched"),
        (facts("a", 8, None), Compare, "nothing proves"),
        (facts("a", 9, Some(true)), Compare, "it had"),
    ] {
        let plan = plan(&state, &[fact, facts("b", 8, Some(true))], false).unwrap();
        assert_eq!(plan.volumes.iter().map(|volume| volume.action).collect::<Vec<_>>(), [action, Action::Resume]);
        assert!(plan.gap.unwrap().text.contains(why));
    }
    state.stopped.as_mut().unwrap().unread.as_mut().unwrap().remove(&VolumeNo(0));
    let unknown = plan(&state, &[facts("a", 8, Some(true))], false).unwrap();
    assert_eq!((unknown.volumes[0].action, unknown.gap.is_some()), (Compare, true));

    let removed = plan(&known(true), &[facts("a", 8, Some(true))], false).unwrap().removed;
    assert_eq!(removed, [VolumeNo(4)]);
    assert!(plan(&known(true), &[facts("c", 7, None), facts("c", 7, None)], false).is_err());
    let many: Vec<_> = (0..200).map(|n| facts(&format!("volume-{n}"), 8, None)).collect();
    let plan = plan(&known(true), &many, false).unwrap();
    assert!(plan.gap.unwrap().text.len() <= 512);
    assert_eq!(plan.volumes[199].number, VolumeNo(205));
}

#[test]
fn another_source_under_a_name_is_refused_unless_a_person_says_so() {
    let other = Facts { identity: Some(identity("another")), ..facts("a", 8, Some(false)) };
    for clean in [true, false] {
        let error = plan(&known(clean), std::slice::from_ref(&other), false).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains("--replaced") && error.to_string().contains("/srv/x"), "{error}");
        let plan = plan(&known(clean), std::slice::from_ref(&other), true).unwrap();
        assert_eq!((plan.volumes[0].number, plan.volumes[0].action), (VolumeNo(0), Action::Compare));
        assert_eq!(plan.gap.unwrap().reason, GapReason::ChangedWhileStopped);
    }
    // What cannot be told from another is only compared.
    let unknown = Facts { identity: None, ..facts("a", 8, None) };
    assert_eq!(plan(&known(true), &[unknown], false).unwrap().volumes[0].action, Action::Compare);
}

#[test]
fn a_state_that_stands_elsewhere_is_a_copy_until_it_is_settled() {
    let dir = tempfile::tempdir().unwrap();
    let copy = tempfile::tempdir().unwrap();
    let id = Groups::open(dir.path()).unwrap().claim("db", entropy).unwrap().state().id;
    let of = |dir: &tempfile::TempDir| dir.path().join(format!("groups/{id}"));
    Groups::open(copy.path()).unwrap();
    fs::create_dir(of(&copy)).unwrap();
    fs::copy(of(&dir).join("state.json"), of(&copy).join("state.json")).unwrap();
    let claim = |dir: &tempfile::TempDir| Groups::open(dir.path()).unwrap().claim("db", entropy).unwrap();
    assert!(!claim(&dir).is_copied());
    let mut copied = claim(&copy);
    assert!(copied.is_copied());
    // A run does not change what it is.
    copied.begin(opened(1), BTreeMap::new()).unwrap();
    drop(copied);
    let mut copied = claim(&copy);
    assert!(copied.is_copied());
    copied.settle_here().unwrap();
    drop(copied);
    assert!(!claim(&copy).is_copied() && !claim(&dir).is_copied());
    // That of an older version says nothing of where it stood.
    let path = of(&dir).join("state.json");
    let mut text: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    text.as_object_mut().unwrap().remove("place");
    fs::write(&path, text.to_string()).unwrap();
    assert!(!claim(&dir).is_copied());
}
