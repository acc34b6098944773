//! An agent of many volumes: where each is served, and that all of them arrive.

#![allow(clippy::unwrap_used, reason = "a test ends where it is surprised")]

mod common;

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use common::cluster::{Cluster, assert_equal, random};
use common::process::{Process, call, words};
use common::{skip, wait_for};
use oracle::Client;
use serde_json::Value;

const SIZE: usize = 1 << 20;

/// Runs `agent` with this config file, and returns what it says once it is ready.
fn start(cluster: &mut Cluster, config: &str) -> Value {
    let file = cluster.path("agent.toml");
    fs::write(&file, config).unwrap();
    let args = words(&["agent".as_ref(), "--config".as_ref(), file.as_os_str()]);
    let agent = cluster.agent.insert(Process::start(&cluster.path("agent.log"), &args));
    agent.event()
}

/// A volume in a config file; its source is made.
fn volume(cluster: &Cluster, name: &str, seed: u64, nbd: Option<&str>) -> String {
    let path = cluster.path(&format!("{name}.img"));
    fs::write(&path, random(seed, SIZE)).unwrap();
    let mut text = format!("[[group.volume]]\nname = '{name}'\npath = '{}'\ntracker = 'tap'\n", path.display());
    if let Some(nbd) = nbd {
        writeln!(text, "nbd = '{nbd}'").unwrap();
    }
    text
}

/// Exports that a client finds at an address.
fn exports(socket: &Path) -> Option<Vec<String>> {
    let uri = format!("nbd+unix:///?socket={}", socket.display());
    let listed = Command::new("nbdinfo").args(["--json", "--list", &uri]).output().ok()?;
    assert!(listed.status.success(), "{listed:?}");
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    let names = listed["exports"].as_array().unwrap().iter().map(|export| export["export-name"].as_str().unwrap());
    let mut names: Vec<String> = names.map(str::to_owned).collect();
    names.sort();
    Some(names)
}

#[test]
fn each_volume_has_its_own_address_and_some_share_one() {
    let mut cluster = Cluster::new();
    cluster.start_receiver();
    cluster.join();
    let address = |name: &str| format!("unix:{}", cluster.path(name).display());
    let (shared, own) = (address("shared.sock"), address("own.sock"));
    let config = format!(
        "[agent]\nstate = '{}'\n[[group]]\nname = 'one'\n{}{}[[group]]\nname = 'two'\n{}{}",
        cluster.state.display(),
        volume(&cluster, "a", 1, Some(&shared)),
        volume(&cluster, "b", 2, Some(&own)),
        volume(&cluster, "c", 3, Some(&shared)),
        volume(&cluster, "d", 4, None),
    );
    let ready = start(&mut cluster, &config);
    let default = format!("unix:{}", cluster.state.join("d.sock").display());
    let expect = [("one", "a", &shared), ("one", "b", &own), ("two", "c", &shared), ("two", "d", &default)];
    let served = ready["volumes"].as_array().unwrap().iter();
    let served: Vec<_> = served.map(|it| (it["group"].as_str(), it["volume"].as_str(), it["nbd"].as_str())).collect();
    assert_eq!(served, expect.map(|(group, volume, nbd)| (Some(group), Some(volume), Some(nbd.as_str()))));
    // Each is found where it should be, and nowhere else.
    for (offset, (_, volume, nbd)) in expect.into_iter().enumerate() {
        Client::connect(nbd, volume).unwrap().write(offset as u64 * 4096, &random(9, 4096), true).unwrap();
        let written = fs::read(cluster.path(&format!("{volume}.img"))).unwrap();
        assert_eq!(written[offset * 4096..][..4096], random(9, 4096));
    }
    assert!(Client::connect(&own, "a").is_err() && Client::connect(&shared, "b").is_err());
    // One alone also answers to the empty name.
    assert!(Client::connect(&own, "").is_ok() && Client::connect(&shared, "").is_err());
    match [exports(&cluster.path("shared.sock")), exports(&cluster.path("own.sock"))] {
        [Some(shared), Some(own)] => {
            assert_eq!(shared, ["a", "c"]);
            assert_eq!(own, ["b"]);
        }
        _ => skip("nbdinfo is not installed"),
    }
    for group in ["one", "two"] {
        wait_for("live", || (cluster.state_of(group)? == "live").then_some(()), || cluster.words());
    }
    cluster.stop_agent();
    for socket in ["shared.sock", "own.sock", "state/d.sock"] {
        assert!(!cluster.path(socket).exists(), "{socket} is left behind");
    }
}

#[test]
fn what_cannot_be_told_apart_at_an_address_is_refused() {
    let mut cluster = Cluster::new();
    cluster.start_receiver();
    cluster.join();
    let config = format!(
        "[agent]\nstate = '{}'\n[[group]]\nname = 'one'\n{}[[group]]\nname = 'two'\n{}",
        cluster.state.display(),
        volume(&cluster, "data", 1, None),
        volume(&cluster, "other", 2, None).replace("name = 'other'", "name = 'data'"),
    );
    let file = cluster.path("agent.toml");
    fs::write(&file, config).unwrap();
    let refused = call(&words(&["agent".as_ref(), "--config".as_ref(), file.as_os_str()]));
    refused.refused(2, "two volumes are called data");
    assert!(!cluster.state.join("data.sock").exists() && !cluster.state.join("agent.sock").exists());
}

#[test]
fn forty_groups_of_one_agent_are_live_and_each_comes_back() {
    let mut cluster = Cluster::new();
    cluster.start_receiver();
    cluster.join();
    let tap = cluster.tap();
    let names: Vec<String> = (1..=40).map(|number| format!("v{number}")).collect();
    let mut config = format!("[agent]\nstate = '{}'\n", cluster.state.display());
    for (seed, name) in (1..).zip(&names) {
        let volume = volume(&cluster, name, seed, Some(&tap));
        write!(config, "[[group]]\nname = '{name}'\n{volume}").unwrap();
    }
    let ready = start(&mut cluster, &config);
    assert_eq!(ready["volumes"].as_array().map(Vec::len), Some(40));
    // Each has something of its own that no first copy saw.
    for (seed, name) in (1001..).zip(&names) {
        cluster.write_to(name, 8192, &random(seed, 65536));
    }
    for name in &names {
        wait_for("live", || (cluster.state_of(name)? == "live").then_some(()), || cluster.words());
        cluster.mark_of(name, "now");
        let restored = cluster.path("restored.img");
        cluster.ask(&["restore", name, "--at", "mark:now", "--to", restored.to_str().unwrap()]).document();
        assert_equal(&fs::read(&restored).unwrap(), &fs::read(cluster.path(&format!("{name}.img"))).unwrap());
        fs::remove_file(restored).unwrap();
    }
    cluster.assert_runs();
    cluster.stop_agent();
}
