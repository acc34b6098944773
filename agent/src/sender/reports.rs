//! What the groups say of themselves, on the session's control stream. It goes before all frames: what is said of them must not wait
//! behind them.

use std::convert::Infallible;
use std::sync::Arc;

use journal::error::Result;
use journal::wire::Message;
use link::MessageWriter;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use super::state::REPORT_EVERY;
use crate::run::Group;

/// Before the live streams.
const PRIORITY: i32 = 1;
/// Groups that may wait to speak. One that finds no room speaks a little later, with all others.
const WAITING: usize = 64;

/// Where a group says that there is something to be told at once.
#[derive(Clone, Debug)]
pub(super) struct News(mpsc::Sender<Arc<Group>>);

impl News {
    /// The group is different from what was told last.
    pub(super) fn of(&self, group: &Arc<Group>) {
        let _ = self.0.try_send(Arc::clone(group));
    }
}

/// A way to [`run`].
pub(super) fn news() -> (News, mpsc::Receiver<Arc<Group>>) {
    let (sender, receiver) = mpsc::channel(WAITING);
    (News(sender), receiver)
}

/// Reports on each group that is open, again and again, and at once on one with news.
pub(super) async fn run(
    writer: &mut MessageWriter,
    groups: &[Arc<Group>],
    mut news: mpsc::Receiver<Arc<Group>>,
) -> Result<Infallible> {
    writer.set_priority(PRIORITY);
    let mut due = interval(REPORT_EVERY);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = due.tick() => for group in groups {
                report(writer, group).await?;
            },
            Some(group) = news.recv() => report(writer, &group).await?,
        }
    }
}

async fn report(writer: &mut MessageWriter, group: &Group) -> Result<()> {
    // Of one that is not open the receiver wants to hear nothing.
    if !group.link().borrow().connected {
        return Ok(());
    }
    writer.send(&Message::Report { group: group.id(), report: group.report() }).await
}
