//! Volumes that grow and shrink: older points keep the size they had.

use std::fs;
use std::path::Path;

use crate::common::cluster::{Cluster, assert_equal, at, random};
use crate::common::wait_for;

const SIZE: usize = 4 << 20;

fn resize(path: &Path, bytes: usize) {
    fs::File::options().write(true).open(path).unwrap().set_len(u64::try_from(bytes).unwrap()).unwrap();
}

/// Until the receiver shows this size and all is durable.
#[track_caller]
fn settle_at(cluster: &mut Cluster, bytes: usize) {
    let sized = || (cluster.look()?["volumes"][0]["size_bytes"] == bytes).then_some(());
    wait_for("resized", sized, || cluster.words());
    cluster.settle();
}

/// Until the replica image is the source.
#[track_caller]
fn wait_image(cluster: &Cluster, expect: &[u8]) {
    let image = cluster.status()["volumes"][0]["image"].as_str().unwrap().to_owned();
    let same = || (fs::read(&image).ok()? == expect).then_some(());
    wait_for("the replica image", same, || cluster.words());
}

#[test]
fn a_volume_that_shrank_and_grew_while_nobody_watched_keeps_its_past() {
    let first = random(1, SIZE);
    let mut cluster = Cluster::live(&first);
    cluster.mark("large");
    let mut images = vec![("large", first.clone())];
    for (name, bytes, clean) in
        [("small", SIZE / 4, true), ("grown", SIZE / 2, true), ("smaller", SIZE / 8, false), ("huge", 2 * SIZE, false)]
    {
        match clean {
            true => cluster.stop_agent(),
            false => cluster.kill_agent(),
        }
        resize(&cluster.source, bytes);
        cluster.start_agent();
        settle_at(&mut cluster, bytes);
        cluster.write(4096, &random(u64::try_from(bytes).unwrap(), 4096));
        cluster.mark(name);
        let now = fs::read(&cluster.source).unwrap();
        assert_eq!(now.len(), bytes);
        wait_image(&cluster, &now);
        images.push((name, now));
    }
    // What was cut off did not come back when it grew again, and each point has its own size.
    for (name, image) in &images {
        assert_equal(&cluster.image(&format!("mark:{name}")), image);
        let to = cluster.path(&format!("{name}.img"));
        cluster.restore(&format!("mark:{name}"), &to, &[]).document();
        assert_equal(&fs::read(&to).unwrap(), image);
    }
    let resizes = cluster.ask(&["points", "db"]).document()["resizes"].clone();
    let sizes: Vec<u64> = resizes.as_array().unwrap().iter().map(|one| one["to_bytes"].as_u64().unwrap()).collect();
    assert_eq!(sizes, [SIZE / 4, SIZE / 2, SIZE / 8, 2 * SIZE].map(|bytes| u64::try_from(bytes).unwrap()));
    // Rollback over all of it, and back.
    let image = cluster.status()["volumes"][0]["image"].as_str().unwrap().to_owned();
    for (name, expect) in &images {
        let rolled = cluster.ask(&["rollback", "db", "--at", &format!("mark:{name}"), "--yes"]);
        rolled.document();
        assert_equal(&fs::read(&image).unwrap(), expect);
    }
    for (_, expect) in images.iter().rev().skip(1) {
        cluster.ask(&["rollback", "db", "--undo", "--yes"]).document();
        assert_equal(&fs::read(&image).unwrap(), expect);
    }
    cluster.ask(&["rollback", "db", "--undo", "--yes"]).document();
    wait_image(&cluster, &images.last().unwrap().1);
    let verified = cluster.ask(&["verify", "db"]).document();
    assert_eq!(verified["ok"], true, "{verified}");
}

#[test]
fn a_volume_may_grow_while_it_is_written_to() {
    let first = random(2, SIZE);
    let mut cluster = Cluster::live(&first);
    cluster.mark("small");
    cluster.write(8192, &random(3, 4096));
    // With something in the new part, and with nothing in it.
    resize(&cluster.source, SIZE + (1 << 20));
    cluster.write_behind(u64::try_from(SIZE + 70_000).unwrap(), &[7; 3000]);
    settle_at(&mut cluster, SIZE + (1 << 20));
    resize(&cluster.source, 3 * SIZE);
    settle_at(&mut cluster, 3 * SIZE);
    // A client that connects now sees all of it.
    cluster.write(u64::try_from(3 * SIZE - 4096).unwrap(), &random(4, 4096));
    cluster.settle();
    cluster.assert_same();
    assert_eq!(cluster.gaps().len(), 1, "it is an event, not a gap");
    assert_equal(&cluster.image("mark:small"), &first);
    // A clean stop remembers the new size.
    cluster.stop_agent();
    cluster.start_agent();
    cluster.settle();
    assert_eq!(cluster.gaps().len(), 1);
    cluster.assert_same();
}

#[test]
fn a_volume_that_is_cut_while_it_runs_is_compared_and_goes_on() {
    let first = random(5, SIZE);
    let mut cluster = Cluster::live(&first);
    cluster.mark("large");
    let mut client = oracle::Client::connect(&cluster.tap(), "db").unwrap();
    client.write(0, &random(6, 4096), true).unwrap();
    resize(&cluster.source, SIZE / 2);
    settle_at(&mut cluster, SIZE / 2);
    // A client of before still thinks that there is more: it is told, and the source does not grow by it.
    assert!(client.write(u64::try_from(SIZE - 4096).unwrap(), &[1; 4096], true).is_err());
    client.write(4096, &random(7, 4096), true).unwrap();
    cluster.settle();
    assert_eq!(fs::metadata(&cluster.source).unwrap().len(), u64::try_from(SIZE / 2).unwrap());
    cluster.assert_same();
    cluster.assert_runs();
    let gaps = cluster.gaps();
    assert_eq!(gaps.len(), 2, "{gaps:?}");
    assert!(gaps[1].to.is_some());
    assert_equal(&cluster.image("mark:large"), &first);
    assert_equal(&cluster.image(&at(gaps[1].to.unwrap())), &{
        let mut then = cluster.image("latest");
        then[4096..8192].copy_from_slice(&first[4096..8192]);
        then
    });
    // And it may be given back what it had.
    resize(&cluster.source, SIZE);
    settle_at(&mut cluster, SIZE);
    cluster.assert_same();
    cluster.stop_agent();
    cluster.start_agent();
    cluster.settle();
    cluster.assert_same();
}
