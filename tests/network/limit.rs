//! A group's limit, and what a base gets beside live writes: counted where the datagrams pass.

use std::fs;
use std::time::{Duration, Instant};

use oracle::Client;

use crate::common::cluster::{Cluster, random};
use crate::common::proxy::{Proxy, Way, Weather};
use crate::common::wait_for;
use crate::story::between;

const LIMIT: u64 = 2 << 20;
const SIZE: usize = 16 << 20;
const BLOCK: usize = 256 << 10;
/// What a bucket lets go at once, and what is no frame: handshakes, reports, acknowledgements and probes for the MTU.
const BURST: u64 = 512 << 10;

/// In the header of a segment: which kind it is, and the number of bases.
const KIND_AT: usize = 14;
const BASE: u8 = 2;

/// A receiver, the relay in front of it, and an agent that is not started yet.
fn joined(more: &[&str]) -> (Cluster, Proxy) {
    let mut cluster = Cluster::new();
    fs::write(&cluster.source, random(1, SIZE)).unwrap();
    let proxy = between(&mut cluster, crate::seed());
    cluster.protect = more.iter().map(Into::into).collect();
    cluster.join();
    (cluster, proxy)
}

/// How much of the first copy was dealt with.
fn copied(cluster: &Cluster) -> u64 {
    cluster.agent_status()["progress"]["done_bytes"].as_u64().unwrap()
}

/// The end of what the receiver has.
fn durable(cluster: &Cluster) -> u64 {
    cluster.agent_status()["receivers"][0]["durable"].as_u64().unwrap_or(0)
}

/// Writes of random data, one after the other, until `enough`.
fn write_until(cluster: &Cluster, mut enough: impl FnMut() -> bool) {
    let mut client = Client::connect(&cluster.tap(), "db").unwrap();
    let mut written = 0;
    while !enough() {
        client.write(written % SIZE as u64, &random(2 + written, BLOCK), false).unwrap();
        written += BLOCK as u64;
    }
}

/// The bound is measured against the time that really passed: a machine that is slow sends less, never more.
#[test]
fn a_limit_holds_for_the_first_copy_and_for_writes_together() {
    let (mut cluster, proxy) = joined(&["--limit", "2MiB/s", "--spool-size", "1GiB"]);
    let (before, begun) = (proxy.counts(Way::There).bytes, Instant::now());
    cluster.start_agent();
    let within = || {
        let sent = proxy.counts(Way::There).bytes - before;
        let most = u64::try_from(u128::from(LIMIT) * begun.elapsed().as_micros() / 1_000_000).unwrap() + BURST;
        assert!(sent <= most, "{sent} bytes were sent, {most} are allowed");
        sent
    };
    write_until(&cluster, || {
        within();
        std::thread::sleep(Duration::from_millis(100));
        begun.elapsed() > Duration::from_secs(2)
    });
    for status in [cluster.agent_status(), cluster.status()] {
        assert_eq!(status["limit_bytes_per_second"].as_u64(), Some(LIMIT), "{status}");
    }
    let settled = || {
        within();
        (cluster.look()?["state"] == "live").then_some(())
    };
    wait_for("live", settled, || cluster.words());
    let sent = within();
    assert!(sent > SIZE as u64, "what the bound is about was sent");
    println!("{sent} bytes in {:.1} s", begun.elapsed().as_secs_f64());
    cluster.assert_same();
    cluster.stop_agent();
    cluster.stop_receiver();
}

/// Live writes want all there is, and a backlog of them is there; the base goes on all the same, and so do they.
#[track_caller]
fn goes_on(mut cluster: Cluster, proxy: &Proxy) {
    cluster.start_agent();
    wait_for("a base", || (copied(&cluster) > 0).then_some(()), || cluster.words());
    let (mut reached, begun) = (None, Instant::now());
    write_until(&cluster, || {
        assert!(begun.elapsed() < crate::common::PATIENCE, "one of them stands still: {}", cluster.words());
        let status = cluster.agent_status();
        let backlog = status["spool"]["bytes"].as_u64().unwrap();
        // No more than that: it is only to be there.
        if backlog < 24 << 20 && reached.is_none() {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
        let (base, live) = *reached.get_or_insert_with(|| (base_bytes(&cluster), durable(&cluster)));
        assert!(backlog > 2 << 20, "live writes do not want all of it: {status}");
        base_bytes(&cluster) >= base + (2 << 20) && durable(&cluster) > live
    });
    println!("after {:.1} s: {proxy}", begun.elapsed().as_secs_f64());
    proxy.set_both(Weather::default());
    cluster.stop_agent();
    cluster.stop_receiver();
}

/// What the receiver keeps of bases: what arrived, not what was read.
fn base_bytes(cluster: &Cluster) -> u64 {
    // There is nothing before the group is known.
    let groups = fs::read_dir(cluster.store.join("groups")).into_iter().flatten();
    let files = groups.flat_map(|group| fs::read_dir(group.unwrap().path()).unwrap()).map(|file| file.unwrap().path());
    let segments = files.filter(|path| path.extension().is_some_and(|end| end == "seg"));
    let bases = segments.filter_map(|path| fs::read(path).ok()).filter(|file| file.get(KIND_AT) == Some(&BASE));
    bases.map(|file| file.len() as u64).sum()
}

#[test]
fn a_base_goes_on_while_live_writes_take_all_of_a_limit() {
    let (cluster, proxy) = joined(&["--limit", "4MiB/s", "--spool-size", "2GiB"]);
    goes_on(cluster, &proxy);
}

#[test]
fn a_base_goes_on_while_live_writes_take_all_of_the_link() {
    let (cluster, proxy) = joined(&["--spool-size", "2GiB"]);
    proxy.change(|weather| weather.bytes_per_second = Some(8 << 20));
    goes_on(cluster, &proxy);
}

/// Beside a first copy that takes all of the limit a write waits for what was on its way, not for the copy.
#[test]
fn live_writes_do_not_wait_for_a_base() {
    let (mut cluster, _proxy) = joined(&["--limit", "2MiB/s"]);
    cluster.start_agent();
    wait_for("a base", || (base_bytes(&cluster) > 0).then_some(()), || cluster.words());
    let mut client = Client::connect(&cluster.tap(), "db").unwrap();
    let (mut most, mut rounds) = (0, 0);
    for round in 0..20 {
        let before = base_bytes(&cluster);
        client.write(round << 12, &random(round, 4096), false).unwrap();
        let captured = cluster.agent_status()["captured"].as_u64().unwrap();
        wait_for("durable", || (durable(&cluster) >= captured).then_some(()), || cluster.words());
        let after = base_bytes(&cluster);
        if cluster.state() != "seeding" {
            break;
        }
        (most, rounds) = (most.max(after - before), rounds + 1);
    }
    println!("at most {most} bytes of the base beside one of {rounds} writes");
    assert!(rounds >= 5 && most <= 3 << 20, "a write waited for {most} bytes of the base, {rounds} rounds");
    cluster.settle();
    cluster.assert_same();
    cluster.stop_agent();
    cluster.stop_receiver();
}
