//! Reads a whole journal and checks all that can be checked of it without the source.

use std::ops::ControlFlow;

use super::indexes::{Index, Indexed};
use crate::codec::{Codec, SegmentKind};
use crate::error::Result;
use crate::frame::Frame;
use crate::index::Tally;
use crate::log::{Finding, Head, Segment};
use crate::types::{ChainHead, FrameNo};

/// What a verification found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Bytes that were read and checked.
    pub bytes: u64,
    /// What is not as it should be.
    pub findings: Vec<Finding>,
}

impl super::Version {
    /// Reads every segment: envelopes, headers, chain, tables, payload hashes, each unit decoded, and the index compared with one made anew.
    /// Stops early when `progress`, called with the bytes done so far, breaks.
    pub fn verify(&self, mut progress: impl FnMut(u64) -> ControlFlow<()>) -> Result<Verified> {
        let mut found = Verified::default();
        let tail = self.tail.as_ref().map(|(segment, _)| segment);
        for segment in self.live.iter().chain(self.bases.iter().map(|(segment, _)| segment)).chain(tail) {
            match verify_segment(segment, self.head, &mut found, &mut progress) {
                Ok(flow) if flow.is_break() => break,
                Ok(_) => {}
                Err(error) => {
                    found.findings.push(Finding::damage(segment.header.number.file_name(), format!("{error}")));
                }
            }
        }
        self.verify_runs(&mut found, &mut progress);
        Ok(found)
    }

    /// Compares each merged run with the indexes of its segments. One that is not right is dropped, and made again.
    fn verify_runs(&self, found: &mut Verified, progress: &mut impl FnMut(u64) -> ControlFlow<()>) {
        for place in self.indexes.places() {
            let Index::Run(run, sources) = &place.index else { continue };
            let why = match run.tallies() {
                Ok(tallies) => {
                    let mut pairs = sources.iter().zip(tallies);
                    // What is wrong with an index is found where its segment is looked at.
                    let differs = |(known, tally): (&Option<Indexed>, Tally)| {
                        let footer = known.as_ref().and_then(|known| known.segment.footer().ok());
                        footer.is_some_and(|footer| Tally::of_footer(&footer).is_ok_and(|own| own != tally))
                    };
                    let differs = pairs.any(|pair| progress(found.bytes).is_continue() && differs(pair));
                    differs.then(|| "it does not say what the indexes of its segments say".to_owned())
                }
                Err(error) => Some(format!("it cannot be read: {error}")),
            };
            if let Some(why) = why {
                run.spoil();
                let what = format!("{why}; it is dropped, and made again from the indexes of its segments");
                found.findings.push(Finding::mended(run.number().file_name(), what));
            }
        }
    }

    /// Looks into no merged run any more: all of them are dropped, and made again from the indexes of their segments.
    pub fn distrust_runs(&self) {
        self.indexes.runs().for_each(|run| run.spoil());
    }
}

fn verify_segment(
    segment: &Segment,
    durable: Option<Head>,
    found: &mut Verified,
    progress: &mut impl FnMut(u64) -> ControlFlow<()>,
) -> Result<ControlFlow<()>> {
    let name = segment.header.number.file_name();
    let mut report = |what: String| found.findings.push(Finding::damage(&name, what));
    if !segment.header_holds() {
        report("its header is not what it was".into());
    }
    let (mut last, mut flow) = (None::<(FrameNo, ChainHead)>, ControlFlow::Continue(()));
    let (mut problems, mut bytes) = (Vec::new(), 0);
    let stopped = segment.walk(durable.map(|head| head.seq), |at, frame| {
        problems.extend(problem(&frame).map(|what| format!("byte {at}: {what}")));
        bytes += frame.bytes().len() as u64;
        last = Some((frame.header().number, frame.head()));
        flow = progress(found.bytes + bytes);
        flow
    })?;
    problems.into_iter().for_each(&mut report);
    let complete = match (&segment.sealed, segment.header.kind) {
        (Some(sealed), _) => last == Some((sealed.last_frame, sealed.head)),
        (None, SegmentKind::Live { .. }) => last.map(|(number, _)| number) >= durable.map(|head| head.frame),
        (None, SegmentKind::Base { .. }) => true,
    };
    if flow.is_continue() && !complete {
        let (at, why) = stopped.unwrap_or_else(|| (0, "frames are missing".into()));
        report(format!("byte {at}: {why}; nothing behind it is readable"));
    } else if let (Some(sealed), true) = (&segment.sealed, flow.is_continue()) {
        match segment.stored_footer() {
            Ok(stored) if stored == segment.rebuild()? => {}
            Ok(_) => report("the index does not say what the frames say".into()),
            Err(error) => report(format!("the index cannot be read: {error}")),
        }
        bytes = bytes.max(sealed.file_bytes);
    }
    found.bytes += bytes;
    Ok(flow)
}

/// What is wrong with a frame whose checksums hold.
fn problem(frame: &Frame) -> Option<String> {
    if !frame.payload_intact() {
        return Some("the payload does not match its hash".into());
    }
    for unit in frame.units().filter(|unit| unit.entry.codec == Codec::Lz4) {
        let (at, len) = (usize::try_from(unit.entry.offset).ok()?, usize::try_from(unit.entry.stored).ok()?);
        let decoded = usize::try_from(unit.entry.decoded).ok()?;
        let stored = frame.payload().get(at..at + len).unwrap_or_default();
        if lz4_flex::block::decompress(stored, decoded).map_or(true, |bytes| bytes.len() != decoded) {
            return Some(format!("the unit at {at} does not decode"));
        }
    }
    None
}
