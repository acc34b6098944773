//! The link is cut: for a moment, for long, in one direction, in every step of a session's beginning.

use std::time::Duration;

use crate::common::proxy::Way;
use crate::common::wait_for;
use crate::story::{Plan, Story};

/// Rounds in which the cut goes on until both sides have given up.
const LONG_EVERY: u32 = 7;

#[test]
fn cut_and_healed_at_any_moment_nothing_is_lost() {
    let mut story = Story::begin(Plan::default());
    for round in 1..=20 * crate::rounds() {
        story.pause(400);
        story.proxy.cut();
        if round % LONG_EVERY == 0 {
            story.wait_stopped();
            story.load.assert_runs();
        }
        story.pause(600);
        story.proxy.heal();
        if round % 5 == 0 {
            story.judge();
        }
    }
    story.end();
}

#[test]
fn with_one_direction_dead_both_ends_notice_and_it_comes_back() {
    let mut story = Story::begin(Plan::default());
    story.judge();
    for way in [Way::There, Way::Back] {
        story.proxy.change_one(way, |weather| weather.cut = true);
        let stopped = story.wait_stopped();
        assert!(stopped["rpo_seconds"].is_null(), "{stopped}");
        wait_for(
            "noticed by the agent",
            || (!is_connected(&story)).then_some(()),
            || format!("{}\n{}", story.cluster.agent_status(), story.cluster.words()),
        );
        story.load.wait_for(50);
        // For ever, not for a few times.
        std::thread::sleep(Duration::from_secs(3));
        story.proxy.heal();
        story.judge();
    }
    story.end();
}

/// By the agent's own words.
fn is_connected(story: &Story) -> bool {
    !story.cluster.agent_status()["rpo_seconds"].is_null()
}
