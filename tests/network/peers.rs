//! Who is at the other end: sessions that take the place of others, and the link cut in every step of a session.

use std::thread;

use crate::common::cluster::{Cluster, random};
use crate::common::wait_for;
use crate::story::{Plan, Story, between};

const SIZE: usize = 1 << 20;
/// Clusters at once: they mostly wait.
const LANES: u64 = 8;
/// Places to cut, of those that there are.
const PLACES: u64 = 16;

#[test]
fn a_new_session_takes_the_place_of_one_that_nobody_can_end() {
    let mut story = Story::begin(Plan::default());
    story.judge();
    for _ in 0..3 {
        // Whatever the old one sends or should hear is lost, its end as well: the receiver believes in it.
        story.proxy.strand();
        story.crash_agent();
        story.judge();
    }
    story.end();
}

#[test]
fn cut_in_every_step_of_a_first_copy_it_is_begun_again() {
    cut_everywhere(Session::FirstCopy);
}

#[test]
fn cut_in_every_step_of_a_comparison_it_is_begun_again() {
    cut_everywhere(Session::Comparison);
}

/// What a session begins with.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Session {
    FirstCopy,
    /// After a crash of the agent, and a write that it did not see.
    Comparison,
}

fn cut_everywhere(session: Session) {
    let seed = crate::seed();
    println!("seed {seed}");
    // How many datagrams there are from the first one to the seal.
    let steps = step(session, seed, None);
    let places = PLACES * u64::from(crate::rounds());
    let lanes: Vec<_> = (0..LANES)
        .map(|lane| {
            let mine = (lane..places).step_by(usize::try_from(LANES).unwrap());
            thread::spawn(move || {
                for place in mine {
                    step(session, seed, Some(1 + place * steps / places));
                }
            })
        })
        .collect();
    lanes.into_iter().for_each(|lane| lane.join().unwrap());
    println!("cut at {places} of about {steps} datagrams");
}

/// One session from its beginning until it is live, and a write meanwhile; cut at that datagram, and healed when both have given
/// up. How many datagrams there were.
fn step(session: Session, seed: u64, cut_at: Option<u64>) -> u64 {
    let mut cluster = Cluster::new();
    std::fs::write(&cluster.source, random(seed, SIZE)).unwrap();
    let proxy = between(&mut cluster, seed);
    cluster.join();
    if session == Session::Comparison {
        cluster.start_agent();
        cluster.settle();
        cluster.kill_agent();
        cluster.write_behind(262_144, &random(seed + 4, 65_536));
        cluster.wait_state("stopped");
    }
    let before = proxy.entered();
    if let Some(number) = cut_at {
        proxy.cut_at(before + number);
    }
    cluster.spawn_agent();
    let tap = cluster.path("tap.sock");
    wait_for("ready to be written to", || std::os::unix::net::UnixStream::connect(&tap).ok(), || cluster.words());
    cluster.write(4096, &random(seed + 1, 8192));
    if cut_at.is_some() {
        // There may be fewer than there were without a cut: they depend on when the kernel wakes whom.
        let cut = || proxy.is_cut().then_some(()).or_else(|| is_live(&cluster).then_some(()));
        wait_for("cut", cut, || cluster.words());
        proxy.cut();
        cluster.write(65_536, &random(seed + 2, 512));
        let given_up = || cluster.look().is_none_or(|status| status["state"] == "stopped").then_some(());
        wait_for("given up", given_up, || cluster.words());
        proxy.heal();
    }
    cluster.settle();
    let steps = proxy.entered() - before;
    cluster.write(131_072, &random(seed + 3, 4096));
    cluster.settle();
    cluster.assert_same();
    let gaps = 1 + usize::from(session == Session::Comparison);
    assert_eq!(cluster.gaps().len(), gaps, "a cut is no gap");
    cluster.stop_agent();
    cluster.stop_receiver();
    steps
}

fn is_live(cluster: &Cluster) -> bool {
    cluster.look().is_some_and(|status| status["state"] == "live")
}
