//! Paths that swallow large datagrams without a word: from the first one on, and all of a sudden.

use std::time::Duration;

use crate::common::proxy::{Way, Weather};
use crate::story::{Plan, Story};

/// What a tunnel over Ethernet carries, and the least that QUIC needs.
const SMALLER: [usize; 2] = [1400, 1200];

#[test]
fn a_path_for_small_datagrams_carries_all_of_it() {
    for max in SMALLER {
        let weather = Weather { datagram_bytes_max: Some(max), ..Weather::default() };
        let mut story = Story::begin(Plan { weather, ..Plan::default() });
        story.judge();
        story.crash_agent();
        story.judge();
        for way in [Way::There, Way::Back] {
            let counts = story.proxy.counts(way);
            assert!(counts.too_large > 0, "larger ones are tried: {counts}");
        }
        story.end();
    }
}

#[test]
fn a_path_that_narrows_while_it_is_used_is_noticed() {
    let mut story = Story::begin(Plan::default());
    story.judge();
    for max in SMALLER {
        // Wide enough again for a while, so that it is used again.
        story.proxy.change(|weather| weather.datagram_bytes_max = None);
        story.crash_agent();
        story.judge();
        assert!(story.proxy.counts(Way::There).largest > max);
        story.proxy.change(|weather| weather.datagram_bytes_max = Some(max));
        story.judge();
        story.load.wait_for(200);
        story.judge();
    }
    story.end();
}

#[test]
fn a_receiver_that_sees_its_agent_at_another_port_goes_on() {
    let mut story = Story::begin(Plan::default());
    story.judge();
    for _ in 0..3 {
        story.proxy.rebind();
        std::thread::sleep(Duration::from_millis(300));
        story.judge();
    }
    story.end();
}
