//! Links that are slow, lose, repeat and shuffle: in the first copy, live, with marks asked for, and in the compare after a crash.

use std::time::Duration;

use crate::common::judged::assert_holds;
use crate::common::proxy::Weather;
use crate::common::wait_for;
use crate::story::{Plan, Story, now};

/// All that an agent does, in this weather.
fn all_of_it(plan: Plan) {
    let mut story = Story::begin(plan);
    story.judge();
    for round in 0..2 * crate::rounds() {
        mark(&mut story, &format!("before{round}"));
        story.crash_agent();
        // What is marked while it compares may be no point, but must not be in the way.
        story.cluster.mark(&format!("meanwhile{round}"));
        story.judge();
        mark(&mut story, &format!("after{round}"));
    }
    story.end();
}

/// A mark holds all that was acknowledged before it was asked for.
fn mark(story: &mut Story, name: &str) {
    let floor = now();
    story.cluster.mark(name);
    assert_holds(&story.cluster, &format!("mark:{name}"), floor, || story.load.history());
}

#[test]
fn a_fifth_is_lost() {
    all_of_it(Plan { weather: Weather { loss_percent: 20, ..Weather::default() }, ..Plan::default() });
}

#[test]
fn half_of_it_comes_twice() {
    all_of_it(Plan { weather: Weather { twice_percent: 50, ..Weather::default() }, ..Plan::default() });
}

#[test]
fn a_third_is_overtaken() {
    all_of_it(Plan { weather: Weather { late_percent: 33, ..Weather::default() }, ..Plan::default() });
}

#[test]
fn all_of_that_at_once_on_a_slow_far_link() {
    let weather = Weather {
        loss_percent: 20,
        twice_percent: 20,
        late_percent: 20,
        delay: Duration::from_millis(10),
        bytes_per_second: Some(2 << 20),
        datagram_bytes_max: Some(1400),
        cut: false,
    };
    all_of_it(Plan { weather, volume_bytes: 1 << 20, rate: 4, ..Plan::default() });
}

#[test]
fn on_a_link_that_is_too_slow_the_host_does_not_wait_and_is_told_that_it_is_behind() {
    let mut story = Story::begin(Plan::default());
    story.judge();
    // A fifth of what is written.
    story.proxy.change(|weather| weather.bytes_per_second = Some(200 << 10));
    let behind = || {
        let status = story.cluster.look()?;
        let named = matches!(status["state"].as_str(), Some("behind" | "spooling"));
        (named && status["rpo_seconds"].as_f64() > Some(1.0)).then_some(status)
    };
    for _ in 0..3 {
        let status = wait_for("behind", behind, || story.cluster.words());
        println!("{} s behind", status["rpo_seconds"]);
        story.load.wait_for(200);
    }
    story.proxy.change(|weather| weather.bytes_per_second = None);
    story.judge();
    story.end();
}
