//! The power of the agent's machine goes: of source and state directory, which are on a file system of their own, only what is on the
//! disk is left, and the machine that comes up is in another boot. The receiver is elsewhere and has what was sent.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use rustix::process::Signal;

use crate::common::cluster::Cluster;
use crate::common::process::Process;
use crate::common::tools::{Loop, Mounted, missing, run, status};
use crate::common::wait_for;

const IMAGE_BYTES: u64 = 1 << 30;

/// What is lost with the power.
pub(crate) struct Machine {
    image: PathBuf,
    on: Option<(Mounted, Loop)>,
    boots: u32,
}

impl Machine {
    /// A cluster whose agent is on a machine of its own; none where that cannot be had.
    pub(crate) fn new() -> Option<(Cluster, Self)> {
        if missing(&["unshare", "xfs_io"]) {
            return None;
        }
        let mut cluster = Cluster::new();
        let image = cluster.path("machine.img");
        File::create_new(&image).unwrap().set_len(IMAGE_BYTES).unwrap();
        run(&["mkfs.ext4", "-q", "-F", image.to_str().unwrap()]);
        let mut machine = Self { image, on: None, boots: 0 };
        machine.on(&cluster);
        let dir = Self::dir(&cluster);
        (cluster.source, cluster.state) = (dir.join("source.img"), dir.join("state"));
        Some((cluster, machine))
    }

    fn dir(cluster: &Cluster) -> PathBuf {
        cluster.path("machine")
    }

    fn on(&mut self, cluster: &Cluster) {
        let device = Loop::on(&self.image).unwrap();
        let mounted = Mounted::new(&device.device, Self::dir(cluster), "defaults");
        self.on = Some((mounted, device));
    }

    /// Cuts the power of a running agent. Nothing runs on beside it: what is not on the disk does not get there any more, and what the
    /// agent was about to say it does not say.
    pub(crate) fn cut(&mut self, cluster: &mut Cluster) {
        cluster.agent.as_ref().unwrap().signal(Signal::STOP);
        run(&["xfs_io", "-x", "-c", "shutdown", Self::dir(cluster).to_str().unwrap()]);
        cluster.kill_agent();
        self.off(cluster);
    }

    /// All of it stops cleanly.
    pub(crate) fn end(mut self, mut cluster: Cluster) {
        cluster.stop_agent();
        cluster.stop_receiver();
        self.off(&cluster);
    }

    /// Files of an io_uring are closed some time after its process is gone.
    fn off(&mut self, cluster: &Cluster) {
        let dir = Self::dir(cluster);
        let unmounted = || (status(&["umount", dir.to_str().unwrap()]).0 == 0).then_some(());
        wait_for("unmounted", unmounted, || "it is busy".to_owned());
        // What is not mounted any more needs no unmounting.
        let (mounted, device) = self.on.take().unwrap();
        std::mem::forget(mounted);
        drop(device);
    }

    /// All that is on it now, as a snapshot below it would have it: while the agent stands still.
    pub(crate) fn snapshot(&self, cluster: &Cluster) -> PathBuf {
        let agent = cluster.agent.as_ref().unwrap();
        agent.signal(Signal::STOP);
        run(&["sync", "-f", Self::dir(cluster).to_str().unwrap()]);
        let copy = cluster.path("snapshot.img");
        run(&["cp", "--sparse=always", self.image.to_str().unwrap(), copy.to_str().unwrap()]);
        agent.signal(Signal::CONT);
        copy
    }

    /// Puts a snapshot in its place, while it is off.
    #[expect(clippy::disallowed_methods, reason = "no power is cut meanwhile")]
    pub(crate) fn set_back(&self, snapshot: &Path) {
        fs::rename(snapshot, &self.image).unwrap();
    }

    /// Switches it on again, and the agent with it.
    pub(crate) fn boot(&mut self, cluster: &mut Cluster) {
        // What was written before the cut was written before the boot.
        std::thread::sleep(std::time::Duration::from_millis(1100));
        self.on(cluster);
        self.boots += 1;
        let id = cluster.path("boot-id");
        fs::write(&id, format!("{:08x}-0000-4000-8000-000000000000\n", self.boots)).unwrap();
        cluster.start_agent_with(|log, args| Process::start_booted(&id, log, args));
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // The file system before its device.
        if let Some((mounted, device)) = self.on.take() {
            drop(mounted);
            drop(device);
        }
    }
}
