//! A link that is slower than the writes: what `status` says of the exposure is held against what the clients were answered.

use std::fs;

use oracle::Kind;
use serde_json::Value;

use crate::common::cluster::{Cluster, random, window};
use crate::common::process::{call, words};
use crate::common::proxy::Weather;
use crate::common::wait_for;
use crate::story::{Plan, Story, between, now};

/// By so much a status may be late: a report counts for that long.
const LATE: f64 = 1.0;

#[test]
fn on_a_link_that_is_too_slow_the_host_does_not_wait_and_is_told_how_far_behind_it_is() {
    let mut story = Story::begin(Plan::default());
    story.judge();
    // A fifth of what is written.
    story.proxy.change(|weather| weather.bytes_per_second = Some(200 << 10));
    let (mut looks, mut oldest) = (0, 0.0);
    let begun = || story.load.history().ops().len();
    let until = begun() + 2000 * usize::try_from(crate::rounds()).unwrap();
    while begun() < until {
        story.load.assert_runs();
        oldest = exposed(&story).map_or(oldest, |age| age.max(oldest));
        looks += 1;
    }
    println!("{looks} looks, up to {oldest:.1} s exposed");
    let behind = || {
        let status = story.cluster.look()?;
        let named = matches!(status["state"].as_str(), Some("behind" | "spooling"));
        (named && status["rpo_seconds"].as_f64() > Some(1.0)).then_some(())
    };
    wait_for("behind", behind, || story.cluster.words());
    story.proxy.change(|weather| weather.bytes_per_second = None);
    story.judge();
    story.end();
}

/// While a first copy is not whole nothing is a point, so nothing can be named; whoever asks is told so, and when to ask again.
#[test]
fn while_there_are_no_points_a_mark_is_refused() {
    let mut cluster = Cluster::new();
    fs::write(&cluster.source, random(1, 4 << 20)).unwrap();
    let proxy = between(&mut cluster, crate::seed());
    cluster.join();
    proxy.set_both(Weather { bytes_per_second: Some(100 << 10), ..Weather::default() });
    cluster.start_agent();
    let status = cluster.wait_state("seeding");
    assert!(window(&status).is_none(), "{status}");
    let agent = cluster.state.join("agent.sock");
    let by_agent = words(&["mark".as_ref(), "db".as_ref(), "early".as_ref(), "--socket".as_ref(), agent.as_os_str()]);
    for asked in [cluster.ask(&["mark", "db", "early"]), call(&cluster.args(&by_agent))] {
        asked.refused(13, "db has no points now: the first copy is not whole");
        let error: Value = serde_json::from_str(asked.stderr.lines().last().unwrap()).unwrap();
        assert!(error["try"].as_str().unwrap().contains("once backspool status db says live"), "{error}");
    }
    proxy.set_both(Weather::default());
    cluster.settle();
    cluster.ask(&["mark", "db", "late"]).document();
    assert_eq!(cluster.image("mark:late"), fs::read(&cluster.source).unwrap());
    assert!(cluster.read("mark:early", 0, 512).unwrap().is_err());
    cluster.stop_agent();
    cluster.stop_receiver();
}

/// How long the first change after the newest point has been answered, in seconds, and that the status owns up to it.
#[track_caller]
fn exposed(story: &Story) -> Option<f64> {
    let asked = now();
    let status = story.cluster.look()?;
    let (_, to) = window(&status)?;
    let history = story.load.history();
    let after = history.ops().iter().filter(|op| op.kind != Kind::Flush && op.submitted.0 > to);
    let acked = after.filter_map(|op| op.acked).map(|acked| acked.0).min().filter(|acked| *acked < asked)?;
    let age = seconds(asked - acked);
    let rpo = status["rpo_seconds"].as_f64();
    // Without a session it says so.
    assert!(rpo.is_none_or(|rpo| rpo + LATE >= age), "{age} s are exposed: {status}");
    Some(age)
}

fn seconds(micros: u64) -> f64 {
    std::time::Duration::from_micros(micros).as_secs_f64()
}
