//! The base of a run: what reads it, and how it gets to the receiver, as `sender::base` and `sender::compare` do.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex};

use agent::base::{Answer, BaseReader, BaseSpec, BaseVolume, Hashes, Known, Reads};
use agent::run::rungs::again;
use agent::sender::compare::{of_blocks, of_pages};
use agent::sender::window::{Facts as BaseFacts, Step, Window};
use journal::codec::{Body, Sealed};
use journal::disk::sim::Rng;
use journal::error::{Error, ErrorKind, Result};
use journal::frame::Frame;
use journal::store::View;
use journal::types::{Extent, Hash, ResyncId, Seq, VolumeNo};
use receiver::session::compare::{hashes, pages};

use crate::agent::{Agent, Host, Stage};
use crate::layout::Window as Place;
use crate::source::SimReads;
use crate::time::entropy;

const BLOCK_BYTES: u64 = agent::base::BLOCK_BYTES;

/// A base that is being read.
pub(crate) struct Base {
    pub(crate) volumes: Vec<BaseVolume>,
    pub(crate) resync: ResyncId,
    pub(crate) reader: BaseReader,
    pub(crate) view: Theirs,
    /// All was read, and this is to be sealed.
    pub(crate) read: Option<Sealed>,
    pub(crate) window: Window,
    pub(crate) compared_with: Option<Seq>,
}

/// The view that a base is compared with: the receiver's, while there is a session.
type Theirs = Arc<Mutex<Option<Arc<View>>>>;

/// Asks only where anybody ever writes.
struct Asked(Theirs, Vec<Place>);

impl fmt::Debug for Base {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Base").field("resync", &self.resync).field("read", &self.read).finish_non_exhaustive()
    }
}

impl Asked {
    /// A session ends or not between questions; in between the view is what it is.
    fn view(&self) -> Result<Arc<View>> {
        self.0.lock().unwrap().clone().ok_or_else(|| Error::unavailable("no session"))
    }
}

impl Hashes for Asked {
    fn blocks(&mut self, volume: VolumeNo, extent: Extent) -> Result<Answer<Vec<Option<Hash>>>> {
        let (first, blocks) = (extent.byte() / BLOCK_BYTES, extent.bytes().div_ceil(BLOCK_BYTES));
        let view = self.view()?;
        let mut all = Vec::new();
        for block in first..first + blocks {
            let (from, to) = (block * BLOCK_BYTES, (block + 1) * BLOCK_BYTES);
            let is_used = |place: &Place| place.volume == volume && place.at < to && from < place.at + place.bytes;
            if !self.1.iter().any(is_used) {
                all.push(None);
                continue;
            }
            let found = hashes(&view, volume, block, 1).map_err(Error::from)?;
            let bytes = (extent.byte() + extent.bytes()).min(to) - from;
            all.extend(of_blocks(Extent::of_bytes(from, bytes).unwrap(), &found));
        }
        Ok(Box::new(move || Ok(all)))
    }

    fn pages(&mut self, volume: VolumeNo, blocks: &[Extent]) -> Result<Answer<Option<Vec<Option<Hash>>>>> {
        let numbers: Vec<_> = blocks.iter().map(|block| block.byte() / BLOCK_BYTES).collect();
        let found = pages(&*self.view()?, volume, &numbers).map_err(Error::from)?;
        let blocks = blocks.to_vec();
        Ok(Box::new(move || Ok(Some(of_pages(&blocks, &found)))))
    }
}

impl Agent {
    /// `Group::base`: a base begins to be read if one is wanted.
    pub(crate) fn begin_base(&mut self, host: &Host, rng: &mut Rng) -> Option<ResyncId> {
        let run = &mut self.run;
        let Stage::Wanted(volumes) = &mut run.stage else { return None };
        let volumes = std::mem::take(volumes);
        let resync = ResyncId::new(entropy()).unwrap();
        let spec = BaseSpec { group: host.state.id, epoch: run.epoch, boot: host.boot, resync };
        let view = Theirs::default();
        let (sources, client, seed) = (host.sources.clone(), Arc::clone(&host.client), rng.u64());
        let open = move |volume: &BaseVolume| {
            let client = Arc::clone(&client);
            Ok(Box::new(SimReads {
                source: Arc::clone(&sources[volume.number.0 as usize]),
                under_way: VecDeque::new(),
                rng: Rng::new(seed),
                meanwhile: Arc::new(move || client.lock().unwrap().meanwhile()),
            }) as Box<dyn Reads>)
        };
        let asked = Box::new(Asked(Arc::clone(&view), host.layout.windows.clone()));
        let capture = Arc::clone(&run.capture);
        let reader = BaseReader::through(Box::new(open), spec, volumes.clone(), capture, asked, rng.chance(1, 2));
        let (read, window, compared_with) = (None, Window::default(), run.compared_with);
        run.stage = Stage::Sending(Box::new(Base { volumes, resync, reader, view, read, window, compared_with }));
        Some(resync)
    }

    /// The reader's thread: reads on, if what it compares with can be asked for. What it read.
    pub(crate) fn read_base(&mut self, theirs: impl FnOnce(Seq) -> Option<Arc<View>>) -> Option<String> {
        let durable = self.durable.map(|head| head.seq);
        let Stage::Sending(base) = &mut self.run.stage else { return None };
        if base.read.is_some() || base.window.is_full() {
            return None;
        }
        let is_compared = |volume: &BaseVolume| matches!(volume.known, Known::Compare | Known::AllBut(_));
        if base.volumes.iter().any(is_compared) {
            let at = base.compared_with?;
            if durable < Some(at) {
                return None;
            }
            *base.view.lock().unwrap() = Some(theirs(at)?);
        }
        Some(match base.reader.next_frame() {
            Ok(Some(frame)) => {
                let told = format!("base frame {} {:?}", frame.header().number, frame.header().kind);
                base.window.push(frame);
                told
            }
            Ok(None) => {
                base.read = Some(base.reader.sealed());
                "all is read".to_owned()
            }
            // As `Group::base_ended`: another base begins.
            Err(error) if error.kind() == ErrorKind::Io => {
                let volumes = std::mem::take(&mut base.volumes);
                self.run.stage = Stage::Wanted(again(volumes));
                format!("the source cannot be read: {error}")
            }
            Err(error) => panic!("a base ends: {error}"),
        })
    }

    /// What comes next of the base that is on its way.
    pub(crate) fn base_step(&mut self) -> Option<(ResyncId, Step)> {
        let durable = self.durable.map(|head| head.seq);
        let is_recording = !self.run.capture.is_tracking();
        let Stage::Sending(base) = &self.run.stage else { return None };
        let session = self.session.as_ref().filter(|session| session.is_open)?;
        let is_open = session.base == Some((base.resync, true));
        let step = base.window.next(BaseFacts { is_open, is_over: false, read: base.read, is_recording });
        let waits = session.base.is_some_and(|(resync, opened)| resync == base.resync && !opened);
        // What an earlier run sealed has to be there first.
        let is_early = base.compared_with.is_some_and(|at| durable < Some(at));
        (step != Step::Open || !(waits || is_early)).then_some((base.resync, step))
    }

    /// The next frame of the base, which is sent now.
    pub(crate) fn base_frame(&mut self) -> Option<Frame> {
        let Stage::Sending(base) = &mut self.run.stage else { return None };
        let frame = base.window.unsent().cloned();
        if frame.is_some() {
            base.window.frame_sent();
        }
        frame
    }

    /// The receiver says where the base is; false: it starts over.
    pub(crate) fn on_base_opened(&mut self, head: Option<journal::wire::BaseHead>) -> bool {
        let Some((resync, opened)) = self.session.as_mut().and_then(|session| session.base.as_mut()) else {
            return true;
        };
        let Stage::Sending(base) = &mut self.run.stage else { return true };
        if base.resync != *resync {
            return true;
        }
        if base.window.opened(head) {
            *opened = true;
            return true;
        }
        let volumes = std::mem::take(&mut base.volumes);
        self.run.stage = Stage::Wanted(again(volumes));
        false
    }

    pub(crate) fn on_base_durable(&mut self, head: journal::wire::BaseHead) {
        let opened = self.session.as_ref().and_then(|session| session.base);
        if let Stage::Sending(base) = &mut self.run.stage
            && opened == Some((base.resync, true))
        {
            base.window.acknowledged(head).unwrap();
        }
    }

    /// `Group::base_ended`, of one that is whole.
    pub(crate) fn seal(&mut self) -> Option<Seq> {
        let Stage::Sending(base) = &self.run.stage else { return None };
        let sealed = base.window.whole(base.read)?;
        let seq = self.run.capture.record_at_once(Body::Sealed(sealed))?;
        self.run.stage = Stage::Sealed;
        Some(seq)
    }
}
