//! A database on writable views of its past: it recovers, and holds exactly the transactions before.

use std::fs::File;
use std::time::{Duration, Instant};

use oracle::Micros;

use crate::common::cluster::{Cluster, at};
use crate::common::tools::{Fuse, Loop, Mounted, missing, run};
use crate::database::{self, Database};

const LOAD: Duration = Duration::from_secs(2);

#[test]
fn a_database_on_a_writable_view_has_what_was_committed_by_then_and_goes_on() {
    if missing(&["sqlite3"]) {
        return;
    }
    let mut cluster = Cluster::new();
    File::create(&cluster.source).unwrap().set_len(96 << 20).unwrap();
    cluster.begin();
    cluster.settle();
    let uri = format!("nbd+unix:///?socket={}", cluster.path("tap.sock").display());
    let fuse = Fuse::mount(&uri, &cluster.path("fuse"), &cluster.path("fuse.pid"));
    let device = Loop::on(&fuse.file).expect("a loop device");
    let mounted = Mounted::ext4(&device.device, cluster.path("mounted"));
    let mut database = Database::create(&mounted.dir.join(database::NAME));
    let (start, mut transactions) = (Instant::now(), Vec::new());
    while start.elapsed() < LOAD {
        transactions.push(database.transaction(transactions.len() + 1));
    }
    let after = Micros::now().0;
    cluster.wait_durable();
    // All at once, while it goes on being written to.
    let (early, late) = (transactions[transactions.len() / 3], transactions[transactions.len() * 2 / 3]);
    for (round, instant) in
        [early.committed, late.begun + (late.committed - late.begun) / 2, after].into_iter().enumerate()
    {
        let socket = cluster.path(&format!("{round}.sock"));
        let nbd = format!("unix:{}", socket.display());
        let mut export = cluster.serve(&["export", "db", "--at", &at(instant), "--nbd", &nbd, "--writable"]);
        let uri = export.event()["uri"].as_str().unwrap().to_owned();
        let pid = cluster.path(&format!("{round}.pid"));
        let fuse = Fuse::mount(&uri, &cluster.path(&format!("fuse{round}")), &pid);
        let device = Loop::on(&fuse.file).unwrap();
        let then = Mounted::of("ext4", &device.device, cluster.path(&format!("then{round}")));
        let path = then.dir.join(database::NAME);
        let count = database::check(&path).unwrap_or_else(|why| panic!("at {instant}: {why}"));
        let committed = transactions.iter().filter(|done| done.committed <= instant).count();
        let begun = transactions.iter().filter(|done| done.begun <= instant).count();
        assert!((committed..=begun).contains(&count), "at {instant}: {count}, of {committed} to {begun}");
        let add = "UPDATE counter SET n = n + 1; SELECT n FROM counter;";
        assert_eq!(run(&["sqlite3", path.to_str().unwrap(), add]), (count + 1).to_string());
        transactions.push(database.transaction(transactions.len() + 1));
        drop(then);
        run(&["e2fsck", "-fn", device.device.to_str().unwrap()]);
        drop((device, fuse));
        export.stop();
    }
    drop(database);
    drop(mounted);
    drop((device, fuse));
    cluster.settle();
    cluster.assert_same();
}
