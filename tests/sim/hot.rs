//! The logs of what is hot, and what a receiver that is ahead is asked because of them: as `run::hot` and `sender::changed` do.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use agent::capture::{CaptureState, Clock};
use agent::hot::{Claim, Hot, Left, Now, Place, Subject, Testimony, left_by};
use agent::run::opening::Verdict;
use agent::sender::state::Stream as Sending;
use agent::source::Storage;
use journal::error::Result;
use journal::types::{EpochId, Head, Seq, VolumeNo};
use journal::wire::Message;

use crate::agent::{Agent, Host, Stage, uuid};
use crate::time::entropy;

/// The logs of one run, by volume.
pub(crate) type HotLogs = BTreeMap<VolumeNo, Arc<Hot>>;

/// What an unclean end left.
#[derive(Clone, Debug)]
pub(crate) struct Crash {
    pub(crate) durable: Option<Seq>,
    pub(crate) claims: Vec<Claim>,
    pub(crate) unbelieved: BTreeMap<VolumeNo, Verdict>,
}

/// A question that is on its way, and what was answered to those before.
#[derive(Debug)]
pub(crate) struct Asking {
    pub(crate) after: Option<Seq>,
    pub(crate) at: Option<Head>,
    pub(crate) stream: Sending,
    pub(crate) verdicts: BTreeMap<VolumeNo, Verdict>,
    claims: VecDeque<Claim>,
    first: u32,
}

impl Asking {
    /// What is asked; `Ok`: nothing, that is known.
    pub(crate) fn of(crash: &Crash, can_say: bool) -> std::result::Result<BTreeMap<VolumeNo, Verdict>, Box<Self>> {
        let mut verdicts = crash.unbelieved.clone();
        if !can_say {
            let doubted = crash.claims.iter().map(|claim| (claim.volume(), Err("an old receiver".to_owned())));
            verdicts.extend(doubted);
        }
        if !can_say || crash.claims.is_empty() {
            return Ok(verdicts);
        }
        let claims = crash.claims.iter().cloned().collect();
        let (after, stream) = (crash.durable, Sending::default());
        Err(Box::new(Self { after, at: None, stream, verdicts, claims, first: 0 }))
    }

    /// The stream that goes on once it is known, at this head of the receiver's.
    pub(crate) fn with(self, at: Head, stream: Sending) -> Self {
        Self { at: Some(at), stream, ..self }
    }

    /// An answer; what is asked next, if anything.
    pub(crate) fn heard(&mut self, message: &Message) -> Option<Message> {
        match message {
            Message::ChangedReady(time) => {
                let (late, timely): (VecDeque<_>, _) =
                    std::mem::take(&mut self.claims).into_iter().partition(|claim| claim.check_time(*time).is_err());
                self.verdicts.extend(late.iter().map(|claim| (claim.volume(), claim.check_time(*time))));
                self.claims = timely;
            }
            Message::ChangedExtents(said) => {
                let claim = self.claims.front()?;
                match claim.check(self.first, said) {
                    Ok(Some(next)) => self.first = next,
                    verdict => {
                        self.verdicts.insert(claim.volume(), verdict.map(drop));
                        self.claims.pop_front();
                        self.first = 0;
                    }
                }
            }
            other => panic!("{:?} out of place", other.tag()),
        }
        let volume = self.claims.front()?.volume();
        Some(Message::ChangedFrom { volume, first: self.first })
    }
}

impl Host {
    fn subject(&self, epoch: EpochId, number: VolumeNo) -> Subject {
        let (group, size) = (self.state.id, self.source(number).size());
        Subject { group, volume: uuid(number), epoch, size, dev: 1, inode: 10 + u64::from(number.0) }
    }

    /// `Logs::left`.
    pub(crate) fn testimony(&self, number: VolumeNo) -> Testimony {
        let all = |why: &str| Testimony { left: Left::All { why: why.to_owned() }, noted: None };
        let Some(machine) = &self.hot else { return all("it has no log") };
        let Some(last) = self.state.epochs.last() else { return all("no run of it is remembered") };
        let (subject, changed) = (self.subject(last.id, number), self.source(number).changed());
        let (wall, boottime) = (self.clocks.wall(), self.clocks.boottime());
        left_by(&*machine.disk(), &Now { subject, boot: self.boot, changed, wall, boottime })
    }

    /// `Logs::begin`.
    pub(crate) fn hot_log(&self, epoch: EpochId, number: VolumeNo, left: &Left) -> Option<Result<Arc<Hot>>> {
        let disk = self.hot.as_ref()?.disk();
        let clock: Arc<dyn Clock> = Arc::<crate::time::Clocks>::clone(&self.clocks);
        let place = Place { disk, boot: self.boot, clock, entropy };
        Some(Hot::begin(place, self.subject(epoch, number), left, self.source(number).changed()).map(Arc::new))
    }
}

impl Agent {
    /// `Group::tend_hot`: once a second.
    pub(crate) fn tend(&self, host: &Host) {
        let epoch = self.run.epoch;
        let durable = host.state.durable.filter(|head| head.epoch == epoch).map(|head| head.seq);
        for (number, hot) in &self.run.hot {
            let source = host.source(*number);
            let flush = || {
                let is_flushed = source.sync_aside();
                if is_flushed {
                    host.client.lock().unwrap().was_flushed(*number);
                }
                is_flushed
            };
            let is_whole = matches!(self.run.stage, Stage::Sealed) && self.run.capture.state() == CaptureState::Running;
            let captured = || is_whole.then(|| self.run.capture.last_seq()).flatten();
            hot.tend(source.changed(), flush, captured, durable);
        }
    }
}
