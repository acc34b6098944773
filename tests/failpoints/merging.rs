//! Steps of a merge: the receiver ends at each, or the step fails. It merges again by itself, and views are what they were.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use journal::codec::{Body, EpochBegin, FrameKind};
use journal::disk::FileDisk;
use journal::frame::{FrameBuilder, FrameSeal};
use journal::store::{FAN_IN, Store};
use journal::types::{BootId, EpochId, Extent, FrameNo, GroupId, SessionId, WallTime};

use crate::common::cluster::{Cluster, random};
use crate::common::wait_for;

const VOLUME_BYTES: usize = 1 << 20;
/// Content of a segment: each frame fills one.
const SEGMENT_BYTES: u64 = 16 * 1024;
const BLOCK: usize = 16 * 1024;

/// A receiver with enough small segments for a merge, and nobody who sends more.
pub(crate) struct Merges {
    cluster: Cluster,
    group: PathBuf,
    /// What it has to serve.
    image: Vec<u8>,
}

impl Merges {
    pub(crate) fn begin() -> Self {
        let mut image = random(77, VOLUME_BYTES);
        let mut cluster = Cluster::live(&image);
        cluster.stop_agent();
        cluster.stop_receiver();
        let group = fs::read_dir(cluster.store.join("groups")).unwrap().next().unwrap().unwrap().path();
        write_more(&group, &mut image);
        Self { cluster, group, image }
    }

    /// A receiver that has to merge all anew comes to `failpoint`, with `reach`, and ends there or goes on; the next one merges.
    pub(crate) fn go(&mut self, failpoint: &str, reach: impl FnOnce(&mut Cluster)) {
        for name in self.runs() {
            fs::remove_file(self.group.join(name)).unwrap();
        }
        // As a crash may have left it.
        fs::write(self.group.join("0000000000000777.run"), "half of a run").unwrap();
        self.cluster.failpoints.0 = Some(failpoint.to_owned());
        reach(&mut self.cluster);
        if self.cluster.receiver.is_some() {
            assert!(self.cluster.image("latest") == self.image, "after {failpoint}");
            self.cluster.stop_receiver();
        }
        self.cluster.start_receiver();
        let merged = || (self.runs().len() == 1).then_some(());
        wait_for("a merge", merged, || format!("{:?}\n{}", self.runs(), self.cluster.words()));
        assert!(self.cluster.image("latest") == self.image, "after {failpoint}, merged");
        let verified = self.cluster.ask(&["verify", "db", "--json"]).document();
        assert_eq!(verified["ok"], true, "after {failpoint}: {verified}");
        self.cluster.stop_receiver();
    }

    fn runs(&self) -> Vec<String> {
        let names = fs::read_dir(&self.group).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.contains(".run")).collect()
    }
}

/// As an agent would, but faster: a segment for each frame.
fn write_more(group: &Path, image: &mut [u8]) {
    let id = GroupId::parse(group.file_name().unwrap().to_str().unwrap()).unwrap();
    let disk = Arc::new(FileDisk::open(group).unwrap());
    let (mut store, _) = Store::open(disk, id, SEGMENT_BYTES, || [7; 16]).unwrap();
    let head = store.head().unwrap();
    let volume = store.library().now().timeline().volumes(head.seq)[0].number;
    let now = || WallTime(u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros()).unwrap());
    let (mut seq, mut number, mut prev) = (head.seq, head.frame, head.chain);
    for n in 0..FAN_IN + 4 {
        let mut builder = FrameBuilder::new();
        if n == 0 {
            let begin = EpochBegin { parent: Some(head.epoch), seq: Some(head.seq), head: head.chain, continues: true };
            builder.push(now(), Body::EpochBegin(begin));
        }
        let (at, data) = (n * BLOCK, random(n as u64, BLOCK));
        builder.write(now(), volume, Extent::of_bytes(at as u64, BLOCK as u64).unwrap(), &data);
        image[at..at + BLOCK].copy_from_slice(&data);
        let frame = builder.finish(&FrameSeal {
            kind: FrameKind::Live { first: seq.after(1) },
            group: id,
            epoch: EpochId([0x11; 16]),
            number: FrameNo::following(Some(number)),
            prev,
            durable: None,
            wall: now(),
            boottime: WallTime(1),
            boot: BootId([1; 16]),
            compress: false,
        });
        (seq, number, prev) = (seq.after(u64::from(frame.header().records)), frame.header().number, frame.head());
        store.append(&[frame], SessionId(1), now()).unwrap();
        store.sync().unwrap();
    }
    store.stop(now()).unwrap();
}
