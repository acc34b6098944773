//! What the tests with real processes share.

#![allow(dead_code, reason = "each test uses a part")]

pub(crate) mod back;
pub(crate) mod clock;
pub(crate) mod cluster;
pub(crate) mod http;
pub(crate) mod judged;
pub(crate) mod power;
pub(crate) mod process;
pub(crate) mod proxy;
pub(crate) mod tools;
pub(crate) mod watch;

use std::time::{Duration, Instant};

/// Longer than anything takes that works.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Asks until there is an answer; `state` says what there is instead, once it takes too long.
#[track_caller]
pub(crate) fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>, state: impl Fn() -> String) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(start.elapsed() < PATIENCE, "never {what}: {}", state());
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Says why a test does not run; where nothing may be skipped, that is a failure.
#[track_caller]
pub(crate) fn skip(why: &str) {
    assert!(std::env::var_os("BACKSPOOL_NO_SKIP").is_none_or(|value| value != "1"), "not skipped: {why}");
    println!("skipped: {why}");
}
