//! The link is cut: for a moment, for long, in one direction, in every step of a session's beginning.

use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::common::http::request;
use crate::common::judged::assert_holds;
use crate::common::proxy::Way;
use crate::common::wait_for;
use crate::story::{Plan, Story, now};

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
        thread::sleep(Duration::from_secs(3));
        story.proxy.heal();
        story.judge();
    }
    story.end();
}

#[test]
fn a_mark_that_is_asked_for_while_the_link_is_cut_is_there_or_was_refused() {
    let mut story = Story::begin(Plan::default());
    story.judge();
    let mut made = 0;
    for round in 0..4 * crate::rounds() {
        let (name, floor) = (format!("m{round}"), now());
        let (socket, body) =
            (story.cluster.store.join("control.sock"), json!({"group": "db", "name": name}).to_string());
        let asking = thread::spawn(move || request(&socket, "POST", "/v1/mark", &body).unwrap());
        thread::sleep(Duration::from_micros(story.rng.below(4000)));
        story.proxy.cut();
        // Every other time until it cannot be answered any more.
        if round % 2 == 0 {
            story.pause(300);
        } else {
            story.wait_stopped();
        }
        story.proxy.heal();
        let (status, answer) = asking.join().unwrap();
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        story.judge();
        if status == 200 {
            assert_holds(&story.cluster, &format!("mark:{name}"), floor, || story.load.history());
            made += 1;
        } else {
            assert_eq!(answer["exit"], 16, "{answer}");
        }
    }
    println!("{made} marks were made");
    story.end();
}

/// By the agent's own words.
fn is_connected(story: &Story) -> bool {
    !story.cluster.agent_status()["rpo_seconds"].is_null()
}
