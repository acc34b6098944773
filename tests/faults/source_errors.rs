//! A source that returns errors: its client is told, what is left on it is what is recorded, and what nobody can read ends capture.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use oracle::Client;
use serde_json::Value;

use crate::common::cluster::{Cluster, assert_equal, at, random};
use crate::common::tools::{Fuse, Loop, missing};
use crate::common::wait_for;

const SIZE: usize = 4 << 20;
const BLOCK: usize = 64 << 10;
/// Where what fails begins.
const HALF: u64 = 2 << 20;

/// A protected file whose requests fail at will: FUSE on an NBD server on the file below.
struct Faulty {
    cluster: Cluster,
    nbdkit: Child,
    looped: Option<Loop>,
    fuse: Option<Fuse>,
    below: PathBuf,
    switch: PathBuf,
}

impl Faulty {
    /// `fails`: what fails in the second half once it is told to, as nbdkit names it. `None` without the tools for it.
    fn new(fails: &[&str]) -> Option<Self> {
        Self::start(fails, false)
    }

    /// The same below a loop device, so that what fails is the kernel's write-back.
    fn below_a_device(fails: &[&str]) -> Option<Self> {
        Self::start(fails, true)
    }

    fn start(fails: &[&str], is_device: bool) -> Option<Self> {
        if missing(&["nbdkit"]) {
            return None;
        }
        let cluster = Cluster::new();
        let (below, switch) = (cluster.path("below.img"), cluster.path("fail"));
        fs::write(&below, random(1, SIZE)).unwrap();
        let (socket, pid) = (cluster.path("nbdkit.sock"), cluster.path("nbdkit.pid"));
        let (file, on) = (below.display(), switch.display());
        let calls = [
            ("get_size", format!("stat -c %s {file}")),
            ("pread", format!("dd if={file} iflag=skip_bytes,count_bytes skip=$4 count=$3 status=none")),
            ("pwrite", format!("dd of={file} oflag=seek_bytes conv=notrunc seek=$4 status=none")),
            ("flush", "true".to_owned()),
        ];
        let calls = calls.map(|(call, works)| match fails.contains(&call) {
            true => format!(
                "{call}=if [ -e {on} ] && [ ${{4:-{HALF}}} -ge {HALF} ]; then echo EIO >&2; exit 1; fi; {works}"
            ),
            false => format!("{call}={works}"),
        });
        let mut nbdkit = Command::new("nbdkit");
        nbdkit.args(["-f", "-U"]).arg(&socket).arg("-P").arg(&pid).arg("eval").args(calls);
        let nbdkit = nbdkit.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let mut faulty = Self { cluster, nbdkit, looped: None, fuse: None, below, switch };
        wait_for("served", || pid.exists().then_some(()), String::new);
        let uri = format!("nbd+unix:///?socket={}", socket.display());
        let fuse = Fuse::mount(&uri, &faulty.cluster.path("fuse"), &faulty.cluster.path("fuse.pid"));
        faulty.cluster.source = fuse.file.clone();
        if is_device {
            let looped = Loop::on(&fuse.file)?;
            faulty.cluster.source.clone_from(&looped.device);
            faulty.looped = Some(looped);
        }
        faulty.fuse = Some(fuse);
        faulty.cluster.begin();
        faulty.cluster.settle();
        Some(faulty)
    }

    fn client(&self) -> Client {
        Client::connect(&self.cluster.tap(), "db").unwrap()
    }

    fn fail(&self) {
        fs::write(&self.switch, "").unwrap();
    }

    fn heal(&self) {
        fs::remove_file(&self.switch).unwrap();
    }

    /// What was missed is read again and again, in vain, and that is said.
    #[track_caller]
    fn assert_unread(&self) {
        let says =
            |status: &Value| status["why"].as_str().is_some_and(|why| why.contains("cannot read all of the source"));
        let unread = || self.cluster.look().filter(|status| status["state"] == "resync" && says(status));
        wait_for("a source that cannot be read", unread, || self.cluster.words());
    }

    /// The newest point is what the source really holds.
    #[track_caller]
    fn assert_same(&self) {
        assert_equal(&self.cluster.image("latest"), &fs::read(&self.below).unwrap());
    }
}

impl Drop for Faulty {
    fn drop(&mut self) {
        // From the top.
        self.cluster.agent = None;
        self.looped = None;
        self.fuse = None;
        _ = self.nbdkit.kill();
        _ = self.nbdkit.wait();
    }
}

#[test]
fn a_write_that_the_source_refuses_is_the_clients_to_know_and_the_source_is_recorded_as_it_is() {
    let Some(mut faulty) = Faulty::new(&["pwrite"]) else { return };
    let mut client = faulty.client();
    client.write(0, &random(2, BLOCK), false).unwrap();
    faulty.fail();
    assert!(client.write(HALF + 8192, &random(3, BLOCK), false).is_err());
    faulty.heal();
    client.write(1 << 20, &random(4, BLOCK), true).unwrap();
    faulty.cluster.settle();
    faulty.assert_same();
    assert_eq!(faulty.cluster.gaps().len(), 1, "what is on it could be read");
    faulty.cluster.stop_agent();
}

#[test]
fn after_a_flush_that_failed_a_clean_stop_is_not_believed() {
    let Some(mut faulty) = Faulty::new(&["flush"]) else { return };
    let mut client = faulty.client();
    client.write(0, &random(2, BLOCK), false).unwrap();
    faulty.fail();
    assert!(client.flush().is_err());
    faulty.heal();
    client.write(4096, &random(3, BLOCK), true).unwrap();
    drop(client);
    faulty.cluster.settle();
    faulty.assert_same();
    assert_eq!(faulty.cluster.gaps().len(), 2, "all of it was read again");
    faulty.cluster.stop_agent();
    faulty.cluster.start_agent();
    faulty.cluster.settle();
    assert_eq!(faulty.cluster.gaps().len(), 3, "it was compared");
    faulty.assert_same();
    faulty.cluster.stop_agent();
}

/// The kernel keeps a page that it could not write back, and calls it clean. What was lost must not get to the disk later, with another
/// part of that page: nobody would know.
#[test]
fn what_a_failed_write_back_lost_does_not_come_back_with_the_rest_of_its_page() {
    let Some(mut faulty) = Faulty::below_a_device(&["pwrite"]) else { return };
    let mut client = faulty.client();
    faulty.fail();
    client.write(HALF, &random(2, BLOCK), false).unwrap();
    assert!(client.flush().is_err(), "the client hears of it");
    faulty.heal();
    faulty.cluster.settle();
    client.write(HALF, &random(3, 512), true).unwrap();
    drop(client);
    faulty.cluster.settle();
    faulty.assert_same();
    faulty.cluster.stop_agent();
}

#[test]
fn a_source_that_cannot_be_read_after_a_failed_write_is_read_again_until_it_can_be() {
    let Some(mut faulty) = Faulty::new(&["pwrite", "pread"]) else { return };
    let mut client = faulty.client();
    client.write(0, &random(2, BLOCK), true).unwrap();
    faulty.cluster.wait_durable();
    let (then, before) = (faulty.cluster.window().1, fs::read(&faulty.below).unwrap());
    faulty.fail();
    assert!(client.write(HALF + 8192, &random(3, BLOCK), false).is_err());
    faulty.assert_unread();
    let gap = wait_for("a gap", || faulty.cluster.gaps().get(1).copied(), || faulty.cluster.words());
    assert_eq!(gap.to, None);
    assert_equal(&faulty.cluster.image("latest"), &before);
    faulty.heal();
    client.write(1 << 20, &random(4, BLOCK), true).unwrap();
    drop(client);
    faulty.cluster.settle();
    assert_eq!(faulty.cluster.gaps().len(), 2);
    faulty.assert_same();
    assert_equal(&faulty.cluster.image(&at(then)), &before);
    faulty.cluster.stop_agent();
}

#[test]
fn a_comparison_that_cannot_read_the_source_is_tried_until_it_can() {
    let Some(mut faulty) = Faulty::new(&["pread"]) else { return };
    let before = fs::read(&faulty.below).unwrap();
    faulty.client().write(0, &random(2, BLOCK), true).unwrap();
    faulty.cluster.wait_durable();
    let then = faulty.cluster.window().1;
    faulty.cluster.kill_agent();
    faulty.fail();
    faulty.cluster.start_agent();
    faulty.assert_unread();
    faulty.heal();
    let past = faulty.cluster.image(&at(then));
    assert_equal(&past[BLOCK..], &before[BLOCK..]);
    faulty.cluster.settle();
    faulty.assert_same();
    assert_equal(&faulty.cluster.image(&at(then)), &past);
    faulty.cluster.stop_agent();
}
