//! Instants that are not covered, and places that an image cannot go to.

use std::fs;

use serde_json::Value;

use crate::common::cluster::{Cluster, at, random};

const SIZE: usize = 1 << 20;

/// Two covered stretches with a gap between them.
fn with_a_gap() -> Cluster {
    let mut cluster = Cluster::live(&random(1, SIZE));
    cluster.write(0, &random(2, 4096));
    cluster.kill_agent();
    cluster.start_agent();
    cluster.settle();
    cluster.write(4096, &random(3, 4096));
    cluster.settle();
    cluster
}

#[test]
fn an_instant_that_is_not_covered_is_refused_with_its_neighbours() {
    let cluster = with_a_gap();
    let (from, to) = cluster.window();
    let gap = cluster.gaps()[1];
    let (last, next) = (gap.from, gap.to.unwrap());
    // (the instant, whether there is a point before and after it)
    for (instant, before, after) in [
        (at(from - 1), false, true),
        (at(last + 1), true, true),
        (at(next - 1), true, true),
        (at(to + 3_600_000_000), true, false),
        ("seq:1".to_owned(), false, true),
        ("seq:999999999".to_owned(), true, false),
        ("mark:nobody".to_owned(), false, false),
    ] {
        let target = cluster.path("out.img");
        let call = cluster.restore(&instant, &target, &[]);
        call.refused(13, "no recovery point");
        let error: Value = serde_json::from_str(call.stderr.lines().last().unwrap()).unwrap();
        let covered = &error["covered"];
        assert_eq!((!covered["before"].is_null(), !covered["after"].is_null()), (before, after), "{instant}: {error}");
        assert!(!target.exists(), "nothing is left of it");
        let nearest = cluster.restore(&instant, &target, &["--nearest"]);
        if before || after {
            let neighbour = if before { &covered["before"] } else { &covered["after"] };
            assert_eq!(nearest.document()["point"]["seq"], neighbour["seq"], "{instant}");
            fs::remove_file(&target).unwrap();
        } else {
            nearest.refused(13, "no recovery point");
        }
    }
    for instant in [from, last, next, to] {
        assert_eq!(cluster.image(&at(instant)).len(), SIZE, "both ends of a stretch are covered");
    }
    for nonsense in ["yesterday-ish", "@", "seq:0", "2026-13-01", ""] {
        assert_eq!(cluster.restore(nonsense, &cluster.path("out.img"), &[]).exit, 2, "{nonsense:?}");
    }
}

#[test]
fn an_image_goes_only_where_nothing_is_lost() {
    let cluster = with_a_gap();
    let target = cluster.path("out.img");
    fs::write(&target, "mine").unwrap();
    cluster.restore("latest", &target, &[]).refused(15, "exists");
    assert_eq!(fs::read(&target).unwrap(), b"mine");
    cluster.restore("latest", &target, &["--force"]).document();
    assert!(fs::read(&target).unwrap() == cluster.image("latest"));
    // The source is locked by its agent.
    cluster.restore("latest", &cluster.source, &[]).refused(15, "exists");
    cluster.restore("latest", &cluster.source, &["--force"]).refused(11, "in use");
    cluster.restore("latest", &cluster.store.join("out.img"), &[]).refused(2, "inside the store");
    cluster.restore("latest", &cluster.path("no/where.img"), &[]).failure();
    let directory = cluster.path("directory");
    fs::create_dir(&directory).unwrap();
    assert_ne!(cluster.restore("latest", &directory, &["--force"]).exit, 0);
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 0);
    cluster.ask(&["restore", "other", "--at", "latest", "--to", "x.img"]).refused(10, "no group other");
    cluster.ask(&["restore", "db/other", "--at", "latest", "--to", "x.img"]).refused(10, "other");
    let left: Vec<_> = fs::read_dir(cluster.path(".")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().ends_with(".part")), "{left:?}");
}
