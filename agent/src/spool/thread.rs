//! The thread of a spool: takes what was captured, lets the spooler deal with it, rests.

use std::sync::Arc;
use std::thread::{Builder, JoinHandle, sleep};
use std::time::Duration;

use super::spooler::{Spooler, Then};
use crate::Result;
use crate::capture::Capture;
use crate::priority;

/// How long nothing is recorded before a report says that nothing happened: it extends what is covered.
const IDLE: Duration = Duration::from_secs(1);
/// How long it rests after a frame that was not full.
const REST: Duration = Duration::from_millis(2);

/// Steps until capture is closed and all of it is spooled.
pub(super) fn start(mut spooler: Spooler, capture: Arc<Capture>) -> Result<JoinHandle<()>> {
    let run = move || {
        // Writes wait for it when it does not keep up.
        priority::first();
        loop {
            match spooler.step(capture.take(IDLE)) {
                Then::Take => {}
                Then::Rest => sleep(REST),
                Then::End => return,
            }
        }
    };
    Ok(Builder::new().name("spool".to_owned()).spawn(run)?)
}
