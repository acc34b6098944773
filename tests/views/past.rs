//! A group with some instants to go back to.

use oracle::Micros;
use serde_json::Value;

use crate::common::cluster::{Cluster, at, random};
use crate::common::process::Process;

pub(crate) const BYTES: usize = 8 << 20;

/// A volume that was changed a few times; what it held at each instant is known.
pub(crate) struct Past {
    pub(crate) cluster: Cluster,
    /// Each as the control API takes it, with the content.
    pub(crate) instants: Vec<(String, Vec<u8>)>,
}

impl Past {
    pub(crate) fn new() -> Self {
        let mut content = random(1, BYTES);
        // So that there is a hole.
        content[BYTES / 2..BYTES / 4 * 3].fill(0);
        let mut cluster = Cluster::live(&content);
        let mut instants = vec![(at(Micros::now().0), content.clone())];
        for round in 0..4_usize {
            let offset = (round * 1_000_003) / 512 * 512;
            let data = random(100 + round as u64, 70 * 512);
            cluster.write(offset as u64, &data);
            content[offset..offset + data.len()].copy_from_slice(&data);
            instants.push((at(Micros::now().0), content.clone()));
        }
        cluster.settle();
        Self { cluster, instants }
    }

    /// An export of that instant; its URI.
    pub(crate) fn export(&self, instant: usize, name: &str, more: &[&str]) -> (Process, String) {
        let nbd = self.address(name);
        let mut export =
            self.cluster.serve(&[&["export", "db", "--at", &self.instants[instant].0, "--nbd", &nbd], more].concat());
        let ready = export.event();
        assert_eq!(ready["event"], "ready", "{ready}");
        assert_eq!(ready["size_bytes"], BYTES);
        let uri = ready["uri"].as_str().unwrap().to_owned();
        (export, uri)
    }

    pub(crate) fn address(&self, name: &str) -> String {
        format!("unix:{}", self.cluster.path(name).display())
    }

    /// What the receiver says is served.
    pub(crate) fn exports(&self) -> Vec<Value> {
        self.cluster.status()["exports"].as_array().unwrap().clone()
    }
}
