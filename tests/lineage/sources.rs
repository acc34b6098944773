//! Another file under the volume's name.

use std::fs;

use crate::common::cluster::{Cluster, assert_equal, at, random};
use crate::common::wait_for;

const SIZE: usize = 1 << 20;

#[test]
fn another_source_is_refused_until_a_person_says_so() {
    let first = random(1, SIZE);
    let mut cluster = Cluster::live(&first);
    for clean in [true, false] {
        match clean {
            true => cluster.stop_agent(),
            false => cluster.kill_agent(),
        }
        let before = cluster.image("latest");
        // Of the same size, under the same name, even with the same content at first.
        let new = cluster.path("new.img");
        fs::write(&new, &before).unwrap();
        fs::rename(&new, &cluster.source).unwrap();
        cluster.agent_fails().refused(2, "--replaced");
        assert_equal(&cluster.image("latest"), &before);
        cluster.write_behind(4096, &random(2 + u64::from(clean), 4096));
        let gaps = cluster.gaps().len();
        cluster.protect = vec!["--replaced".into()];
        cluster.start_agent();
        cluster.protect.clear();
        cluster.settle();
        cluster.assert_same();
        assert_eq!(cluster.gaps().len(), gaps + 1);
        assert_equal(&cluster.image(&at(cluster.gaps().last().unwrap().from)), &before);
        // From then on it is the volume's source.
        cluster.stop_agent();
        cluster.start_agent();
        cluster.settle();
        assert_eq!(cluster.gaps().len(), gaps + 1);
    }
    // A source that moved is still the one.
    cluster.stop_agent();
    let moved = cluster.path("moved.img");
    fs::rename(&cluster.source, &moved).unwrap();
    cluster.source = moved;
    let gaps = cluster.gaps().len();
    cluster.start_agent();
    cluster.write(0, &random(9, 4096));
    cluster.settle();
    cluster.assert_same();
    assert!(cluster.gaps().len() <= gaps + 1);
}

#[test]
fn a_source_that_is_replaced_while_it_runs_is_said_loudly_and_the_open_one_stays_captured() {
    let mut cluster = Cluster::live(&random(3, SIZE));
    let (kept, new) = (cluster.path("kept.img"), cluster.path("new.img"));
    fs::hard_link(&cluster.source, &kept).unwrap();
    fs::write(&new, random(4, SIZE)).unwrap();
    fs::rename(&new, &cluster.source).unwrap();
    let why = |cluster: &Cluster| cluster.look()?["why"].as_str().map(str::to_owned);
    let told = || why(&cluster).filter(|why| why.contains("another file"));
    wait_for("told", told, || cluster.words());
    cluster.write(8192, &random(5, 4096));
    cluster.settle();
    assert_equal(&cluster.image("latest"), &fs::read(&kept).unwrap());
    cluster.assert_runs();
    // Its name is given back to it.
    fs::rename(&kept, &cluster.source).unwrap();
    wait_for("quiet", || why(&cluster).is_none().then_some(()), || cluster.words());
    cluster.settle();
    cluster.assert_same();
    // Removed, it goes on as well; and a start finds nothing.
    fs::remove_file(&cluster.source).unwrap();
    wait_for("told", || why(&cluster).filter(|why| why.contains("no longer")), || cluster.words());
    cluster.write(0, &random(6, 4096));
    cluster.settle();
    cluster.assert_runs();
    cluster.stop_agent();
    cluster.agent_fails().refused(1, "cannot find the source");
}

#[test]
fn what_is_punched_behind_our_back_while_stopped_is_found() {
    let mut cluster = Cluster::live(&random(7, SIZE));
    let before = cluster.image("latest");
    cluster.stop_agent();
    let file = fs::File::options().write(true).open(&cluster.source).unwrap();
    let flags = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(&file, flags, 65536, 131_072).unwrap();
    drop(file);
    cluster.start_agent();
    cluster.settle();
    cluster.assert_same();
    let gaps = cluster.gaps();
    assert_eq!(gaps.len(), 2);
    assert_equal(&cluster.image(&at(gaps[1].from)), &before);
}
