//! Flushes that wait for a receiver: as long as was agreed, then not any more until it has caught up.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use journal::types::Seq;

/// Whether all that clients were told is written is in the order: otherwise its being durable at a receiver says nothing of the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cover {
    /// It is.
    Whole,
    /// Some is only on the sources, until a base of them is sealed.
    Lacking,
    /// It is with the record that says that the base is sealed.
    WholeFrom(Seq),
}

/// What a receiver has durably, and who waits for it.
#[derive(Debug)]
pub(super) struct Acks {
    /// How long a flush waits; `None`: no flush does.
    patience: Option<Duration>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    durable: Option<Seq>,
    /// Flushes do not wait until a receiver has this, and why.
    fallen: Option<(Seq, String)>,
    /// All is over.
    ended: bool,
}

impl Acks {
    pub(super) fn new(durable: Option<Seq>, patience: Option<Duration>) -> Self {
        Self { patience, state: Mutex::new(State { durable, ..State::default() }), changed: Condvar::new() }
    }

    /// Whether flushes are to wait at all.
    pub(super) fn are_wanted(&self) -> bool {
        self.patience.is_some()
    }

    /// All up to `seq` is durable at a receiver.
    pub(super) fn advance(&self, seq: Seq) {
        if self.patience.is_none() {
            return;
        }
        let mut state = self.lock();
        state.durable = state.durable.max(Some(seq));
        if state.fallen.take_if(|(until, _)| *until <= seq).is_some() {
            tracing::info!("the receiver has caught up: flushes wait for it again");
        }
        self.changed.notify_all();
    }

    /// Waits for `seq` to be durable; after `patience` it gives up, and nobody waits until the receiver has caught up. What was not
    /// recorded cannot be waited for: then until something is that comes after `last`.
    pub(super) fn wait(&self, seq: Option<Seq>, last: impl Fn() -> Option<Seq>) {
        let Some(patience) = self.patience else { return };
        let mut state = self.lock();
        let Some(seq) = seq else {
            drop(state);
            let next = Seq::following(last());
            return self.lock().fall(next, "nothing is recorded now".to_owned());
        };
        if state.fallen.is_some() {
            return;
        }
        let lacks = |state: &mut State| state.durable < Some(seq) && !state.ended && state.fallen.is_none();
        let waited = self.changed.wait_timeout_while(state, patience, lacks);
        state = waited.unwrap_or_else(PoisonError::into_inner).0;
        if lacks(&mut state) {
            state.fall(seq, format!("no receiver had record {seq} after {} s", patience.as_secs_f64()));
        }
        // Who waits for less need not wait out his own patience.
        self.changed.notify_all();
    }

    /// Why flushes do not wait, if they should.
    pub(super) fn fallen(&self) -> Option<String> {
        self.patience?;
        self.lock().fallen.as_ref().map(|(_, why)| why.clone())
    }

    /// Whether a receiver that has all of the order up to where it is has all that was written.
    pub(super) fn suffice(&self, cover: Cover) -> bool {
        match cover {
            Cover::Whole => true,
            Cover::Lacking => false,
            Cover::WholeFrom(sealed) => self.lock().durable >= Some(sealed),
        }
    }

    /// Nobody waits any more.
    pub(super) fn end(&self) {
        self.lock().ended = true;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn fall(&mut self, until: Seq, why: String) {
        if self.fallen.is_none() {
            tracing::error!(why, "flushes do not wait for the receiver any more");
        }
        self.fallen = Some((until, why));
    }
}
