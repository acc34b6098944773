//! Links that are slow, lose, repeat and shuffle: in the first copy, live, with marks asked for, and in the compare after a crash.

use std::time::Duration;

use crate::common::judged::assert_holds;
use crate::common::proxy::Weather;
use crate::story::{Plan, Story, now};

/// All that an agent does, in this weather.
fn all_of_it(plan: Plan) {
    let mut story = Story::begin(plan);
    story.judge();
    for round in 0..2 * crate::rounds() {
        mark(&mut story, &format!("before{round}"));
        story.crash_agent();
        // While it compares nothing can be named: who asks is told so, or waited long enough.
        let meanwhile = story.cluster.ask(&["mark", "db", &format!("meanwhile{round}")]);
        assert!([0, 13, 16].contains(&meanwhile.exit), "{meanwhile:?}");
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
