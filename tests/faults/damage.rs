//! A flipped bit in the store: told with its place, never served, and nobody else's affair.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::common::cluster::{Cluster, random};
use crate::common::wait_for;

const SIZE: usize = 4 << 20;
const BLOCK: usize = 16384;
/// More than a segment.
const SEGMENT_MIB: u64 = 70;
/// Where the damaged block is.
const AT: u64 = 1 << 20;

/// The group `db`, with the mark `before`, then a block, then the mark `after`; beside it a group `other`.
fn two_groups() -> Cluster {
    let mut cluster = Cluster::new();
    fs::write(&cluster.source, random(1, SIZE)).unwrap();
    fs::write(cluster.path("other.img"), random(2, SIZE)).unwrap();
    let mut other = OsString::from("other=");
    other.push(cluster.path("other.img"));
    cluster.protect = vec![other];
    cluster.begin();
    cluster.settle();
    cluster.mark("before");
    cluster.write(AT, &random(3, BLOCK));
    cluster.mark("after");
    cluster.write(0, &random(4, BLOCK));
    cluster.settle();
    cluster
}

/// Where these bytes are in the store's segments.
fn find(store: &Path, bytes: &[u8]) -> (PathBuf, u64) {
    let groups = fs::read_dir(store.join("groups")).unwrap().map(|group| group.unwrap().path());
    let files = groups.flat_map(|group| fs::read_dir(group).unwrap().map(|file| file.unwrap().path()));
    let mut found = files.filter_map(|file| {
        let content = fs::read(&file).ok()?;
        let at = content.windows(bytes.len()).position(|window| window == bytes)?;
        Some((file, u64::try_from(at).unwrap()))
    });
    found.next().expect("the block is in the store")
}

fn flip(file: &Path, at: u64) {
    let file = fs::File::options().read(true).write(true).open(file).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
}

/// The place and the words of the first finding of `verify`.
#[track_caller]
fn finding(cluster: &Cluster) -> (String, String) {
    let call = cluster.ask(&["verify", "db"]);
    assert_eq!(call.exit, 14, "{call:?}");
    let verified: Value = serde_json::from_str(&call.stdout).unwrap();
    let finding = &verified["findings"][0];
    assert_eq!((&verified["ok"], &finding["mended"]), (&Value::Bool(false), &Value::Bool(false)), "{verified}");
    let text = |key: &str| finding[key].as_str().unwrap().to_owned();
    (text("where"), text("what"))
}

/// Nothing of this instant at the damaged place goes out, and it is said why.
#[track_caller]
fn assert_not_served(cluster: &Cluster, instant: &str, exit: i32) {
    let served = cluster.read(instant, AT, u64::try_from(BLOCK).unwrap()).unwrap();
    assert_eq!(served.expect_err("served")["exit"], exit);
    let target = cluster.path("out.img");
    cluster.restore(instant, &target, &[]).refused(exit, "");
    assert!(!target.exists(), "half an image is none");
}

#[track_caller]
fn assert_other_goes_on(cluster: &Cluster) {
    wait_for("the other group is live", || (cluster.state_of("other")? == "live").then_some(()), || cluster.words());
    cluster.write_to("other", 0, &random(5, BLOCK));
    assert_eq!(cluster.ask(&["verify", "other"]).document()["ok"], true);
}

/// In a segment that is sealed: all else of the group is served, and it goes on.
#[test]
fn a_flipped_bit_is_told_with_its_place_and_never_served() {
    let mut cluster = two_groups();
    let (segment, place) = find(&cluster.store, &random(3, BLOCK)[..512]);
    // Until that segment is full.
    for seed in 0..SEGMENT_MIB {
        cluster.write(2 << 20, &random(seed, 1 << 20));
    }
    cluster.settle();
    cluster.stop_receiver();
    flip(&segment, place + 5000);
    cluster.start_receiver();
    cluster.settle();
    let (place, _) = finding(&cluster);
    assert!(place.contains(segment.file_name().unwrap().to_str().unwrap()), "{place}");
    assert_not_served(&cluster, "mark:after", 14);
    assert_not_served(&cluster, "latest", 14);
    cluster.read("latest", 0, u64::try_from(SIZE).unwrap()).expect_err("an answer that is cut off there");
    assert!(cluster.image("mark:before") == random(1, SIZE));
    let (behind, length) = (usize::try_from(AT).unwrap() + BLOCK, u64::try_from(BLOCK).unwrap());
    let beside = cluster.read("mark:after", AT + length, length).unwrap().unwrap();
    assert!(beside == random(1, SIZE)[behind..behind + BLOCK], "what does not need that bit");

    cluster.write(AT, &random(6, BLOCK));
    cluster.wait_durable();
    assert!(cluster.read("latest", AT, length).unwrap().unwrap() == random(6, BLOCK), "written anew");
    assert_not_served(&cluster, "mark:after", 14);
    finding(&cluster);
    assert_other_goes_on(&cluster);
    cluster.assert_runs();
}

/// In the data of a frame in the segment that is being written: as in a sealed one, only what needs it is refused.
#[test]
fn damaged_data_in_the_segment_being_written_hides_nothing() {
    let mut cluster = two_groups();
    let (segment, place) = find(&cluster.store, &random(3, BLOCK)[..512]);
    cluster.kill_receiver();
    flip(&segment, place + 5000);
    let bytes = fs::metadata(&segment).unwrap().len();
    cluster.start_receiver();
    cluster.settle();
    let (place, what) = finding(&cluster);
    assert!(place.contains(segment.file_name().unwrap().to_str().unwrap()) && what.contains("checksum"), "{what}");
    assert_not_served(&cluster, "mark:after", 14);
    assert!(cluster.image("mark:before") == random(1, SIZE));
    cluster.write(AT, &random(6, BLOCK));
    cluster.wait_durable();
    assert!(fs::metadata(&segment).unwrap().len() >= bytes, "nothing is cut");
    assert!(cluster.read("latest", AT, u64::try_from(BLOCK).unwrap()).unwrap().unwrap() == random(6, BLOCK));
    assert_other_goes_on(&cluster);
    cluster.assert_runs();
}

/// What the source holds now is what is written at the newest point, and `mark:before` is as it was.
#[track_caller]
fn assert_goes_on(cluster: &mut Cluster) {
    cluster.settle();
    cluster.assert_same();
    assert!(cluster.image("mark:before") == random(1, SIZE));
    cluster.write(AT, &random(8, BLOCK));
    cluster.mark("later");
    assert!(cluster.read("mark:later", AT, u64::try_from(BLOCK).unwrap()).unwrap().unwrap() == random(8, BLOCK));
    assert_eq!(cluster.ask(&["verify", "db"]).document()["ok"], true);
    assert_other_goes_on(cluster);
    cluster.assert_runs();
}

/// `verify` mends, says so, and exits with 14 all the same.
#[track_caller]
fn mend(cluster: &Cluster) {
    let call = cluster.ask(&["verify", "db"]);
    assert_eq!(call.exit, 14, "{call:?}");
    let verified: Value = serde_json::from_str(&call.stdout).unwrap();
    let findings = verified["findings"].as_array().unwrap();
    assert!(findings.len() > 1 && findings.iter().all(|finding| finding["mended"] == true), "{verified}");
}

/// Flips a bit in the tables of the frame that holds the block: its records are lost, and with them the order behind it.
fn damage(cluster: &Cluster) -> PathBuf {
    let (segment, place) = find(&cluster.store, &random(3, BLOCK)[..512]);
    flip(&segment, place - 40);
    segment
}

#[track_caller]
fn assert_damaged(cluster: &Cluster, segment: &Path) {
    let damaged = cluster.wait_state("damaged");
    let why = damaged["why"].as_str().unwrap();
    assert!(why.contains(segment.file_name().unwrap().to_str().unwrap()), "{why}");
    assert!(why.contains("promised") && why.contains("backspool verify db"), "{why}");
    assert_not_served(cluster, "mark:after", 13);
    assert!(cluster.image("mark:before") == random(1, SIZE));
    assert_other_goes_on(cluster);
}

/// In the header or tables of a frame that is being written: what follows is not believed either, and nothing is cut.
#[test]
fn a_flipped_bit_before_the_end_is_no_torn_tail() {
    let mut cluster = two_groups();
    cluster.kill_receiver();
    let segment = damage(&cluster);
    let bytes = fs::metadata(&segment).unwrap().len();
    cluster.start_receiver();
    assert_damaged(&cluster, &segment);
    // The host does not notice, and an agent starts all the same.
    cluster.write(AT, &random(6, BLOCK));
    cluster.kill_agent();
    cluster.start_agent();
    cluster.write(AT, &random(7, BLOCK));
    assert_other_goes_on(&cluster);
    assert_eq!(fs::metadata(&segment).unwrap().len(), bytes, "nothing is cut");

    // Mended by whoever can, it goes on, and nothing is lost.
    cluster.stop_receiver();
    damage(&cluster);
    cluster.start_receiver();
    cluster.settle();
    assert!(cluster.read("mark:after", AT, 16384).unwrap().unwrap() == random(3, BLOCK));
    assert_goes_on(&mut cluster);
}

/// Mended by `verify` while the agent still holds what is lost: it sends that again, by itself.
#[test]
fn what_was_lost_is_sent_again_once_the_damage_is_mended() {
    let mut cluster = two_groups();
    let gaps = cluster.gaps();
    cluster.kill_receiver();
    let segment = damage(&cluster);
    let before = fs::read(&segment).unwrap();
    cluster.start_receiver();
    assert_damaged(&cluster, &segment);
    cluster.write(AT + 65536, &random(6, BLOCK));
    mend(&cluster);
    assert!(fs::read(&segment).unwrap().starts_with(&before), "what is damaged is set aside, not removed");
    cluster.settle();
    assert!(cluster.read("mark:after", AT, 16384).unwrap().unwrap() == random(3, BLOCK), "every point is back");
    assert_eq!(cluster.gaps(), gaps);
    assert_goes_on(&mut cluster);
    // And so it is after a restart.
    cluster.stop_receiver();
    cluster.start_receiver();
    assert_goes_on(&mut cluster);
}

/// Mended while the agent holds nothing any more: it compares everything, behind a gap.
#[test]
fn what_nobody_has_any_more_becomes_a_gap() {
    let mut cluster = two_groups();
    cluster.stop_agent();
    cluster.stop_receiver();
    let segment = damage(&cluster);
    let groups = fs::read_dir(cluster.state.join("groups")).unwrap().map(|group| group.unwrap().path());
    for spool in groups.map(|group| group.join("spool")).filter(|spool| spool.exists()) {
        fs::remove_dir_all(spool).unwrap();
    }
    cluster.start_receiver();
    cluster.start_agent();
    assert_damaged(&cluster, &segment);
    cluster.write(AT + 65536, &random(6, BLOCK));
    let gaps = cluster.gaps().len();
    mend(&cluster);
    cluster.settle();
    assert_eq!(cluster.gaps().len(), gaps + 1, "{:?}", cluster.gaps());
    assert_not_served(&cluster, "mark:after", 13);
    assert_goes_on(&mut cluster);
}

/// The receiver lost all it had of the group. The agent still holds its order and sends it again, but not what the first copy read: it
/// begins anew instead of sending for ever what cannot be taken.
#[test]
fn a_base_that_the_receiver_lost_is_begun_anew() {
    let mut cluster = two_groups();
    let (segment, _) = find(&cluster.store, &random(3, BLOCK)[..512]);
    cluster.stop_receiver();
    fs::remove_dir_all(segment.parent().unwrap()).unwrap();
    cluster.start_receiver();
    cluster.settle();
    cluster.assert_same();
    cluster.write(AT, &random(8, BLOCK));
    cluster.mark("later");
    assert!(cluster.read("mark:later", AT, u64::try_from(BLOCK).unwrap()).unwrap().unwrap() == random(8, BLOCK));
    assert_eq!(cluster.ask(&["verify", "db"]).document()["ok"], true);
    assert_other_goes_on(&cluster);
    cluster.assert_runs();
}

/// A bad entry in the middle of the manifest: what the segments say is served, and mending writes it anew.
#[test]
fn a_manifest_with_a_bad_entry_is_read_around_and_mended() {
    let mut cluster = two_groups();
    let (segment, _) = find(&cluster.store, &random(3, BLOCK)[..512]);
    cluster.stop_receiver();
    let manifest = segment.with_file_name("manifest");
    flip(&manifest, 512 + 50);
    cluster.start_receiver();
    let damaged = cluster.wait_state("damaged");
    let why = damaged["why"].as_str().unwrap();
    assert!(why.contains("manifest") && why.contains("entry 1 at byte 512"), "{why}");
    assert!(cluster.image("mark:before") == random(1, SIZE));
    assert!(cluster.read("mark:after", AT, 16384).unwrap().unwrap() == random(3, BLOCK));
    assert_other_goes_on(&cluster);
    mend(&cluster);
    assert_goes_on(&mut cluster);
}

/// After a clean stop all is promised: a short file has lost something.
#[test]
fn a_store_that_lost_its_end_takes_nothing_and_says_so() {
    let mut cluster = two_groups();
    cluster.stop_agent();
    cluster.stop_receiver();
    let (segment, _) = find(&cluster.store, &random(4, BLOCK)[..512]);
    let file = fs::File::options().write(true).open(&segment).unwrap();
    file.set_len(file.metadata().unwrap().len() - 1024).unwrap();
    cluster.start_receiver();
    cluster.start_agent();
    let damaged = cluster.wait_state("damaged");
    assert!(damaged["why"].as_str().is_some_and(|why| why.contains("promised")), "{damaged}");
    assert!(cluster.read("mark:after", AT, 16384).unwrap().unwrap() == random(3, BLOCK), "what is there is served");
    assert_other_goes_on(&cluster);
    mend(&cluster);
    assert_goes_on(&mut cluster);
}
