//! A protected volume as a disk of this machine: tap, FUSE, loop device, ext4.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::cluster::{Cluster, at};
use crate::common::judged::is_in_gap;
use crate::common::tools::{Fuse, Loop, Mounted, run};
use crate::common::wait_for;

const VOLUME_BYTES: u64 = 96 << 20;

/// All that is in use is taken back in the order of the fields.
pub(crate) struct Disk {
    mounted: Option<Mounted>,
    device: Option<Loop>,
    fuse: Option<Fuse>,
    cluster: Cluster,
}

impl Disk {
    /// A new ext4, protected from before it was made. It writes its journal every second.
    pub(crate) fn new() -> Self {
        let mut cluster = Cluster::new();
        fs::File::create(&cluster.source).unwrap().set_len(VOLUME_BYTES).unwrap();
        cluster.begin();
        cluster.settle();
        let mut disk = Self { mounted: None, device: None, fuse: None, cluster };
        run(&["mkfs.ext4", "-q", disk.attach().to_str().unwrap()]);
        disk.put_in_use();
        disk
    }

    /// The tap as a block device.
    fn attach(&mut self) -> PathBuf {
        let uri = format!("nbd+unix:///?socket={}", self.cluster.path("tap.sock").display());
        let fuse = Fuse::mount(&uri, &self.cluster.path("fuse"), &self.cluster.path("fuse.pid"));
        let device = self.device.insert(Loop::on(&fuse.file).expect("a loop device")).device.clone();
        self.fuse = Some(fuse);
        device
    }

    fn put_in_use(&mut self) {
        let device = &self.device.as_ref().unwrap().device;
        self.mounted = Some(Mounted::new(device, self.cluster.path("mounted"), "commit=1"));
    }

    /// Unmounted and detached, the source goes back to that instant by itself, or as these words say; then it is in use again.
    #[track_caller]
    pub(crate) fn go_back(&mut self, how: &[&str]) {
        self.cluster.allow();
        let refused = self.cluster.go_back(how);
        refused.refused(11, "attached to the tap");
        (self.mounted, self.device, self.fuse) = (None, None, None);
        let gone = || (self.cluster.agent_status()["clients"] == 0).then_some(());
        wait_for("detached", gone, || self.cluster.words());
        self.cluster.go_back(how).document();
        self.attach();
        self.put_in_use();
    }

    pub(crate) fn mounted(&self) -> &Mounted {
        self.mounted.as_ref().unwrap()
    }

    /// All up to now is durable, and every instant from `begun` to `ended` is covered.
    #[track_caller]
    pub(crate) fn settle(&mut self, begun: u64, ended: u64) {
        self.cluster.settle();
        let (from, to) = self.cluster.window();
        assert!(from <= begun && ended <= to, "{begun} to {ended}, but covered is {from} to {to}");
        let gaps = self.cluster.gaps();
        assert!(gaps.iter().all(|gap| gap.to.is_some_and(|to| to <= begun)), "{gaps:?}");
        assert!(!is_in_gap(begun, &gaps));
    }

    /// The volume as of that instant, instead of the one before.
    #[track_caller]
    pub(crate) fn restore(&self, instant: u64) -> PathBuf {
        let image = self.cluster.path("restored.img");
        if image.exists() {
            fs::remove_file(&image).unwrap();
        }
        self.cluster.restore(&at(instant), &image, &[]).document();
        image
    }

    /// Mounts what was restored; that replays its journal.
    #[track_caller]
    pub(crate) fn mount(&self, image: &Path) -> Mounted {
        Mounted::new(image, self.cluster.path("restored"), "loop")
    }

    /// Out of use, the source is a file system without a fault, and the newest point is the same.
    pub(crate) fn end(mut self) {
        (self.mounted, self.device, self.fuse) = (None, None, None);
        self.cluster.settle();
        self.cluster.assert_same();
        run(&["e2fsck", "-fn", self.cluster.source.to_str().unwrap()]);
        self.cluster.assert_runs();
        self.cluster.stop_agent();
        self.cluster.stop_receiver();
    }
}
