//! The same with the kernel's own network in between: two namespaces, a pair of interfaces, and `nft` that drops and doubles.

use std::net::Ipv4Addr;
use std::process;
use std::sync::atomic::{AtomicU8, Ordering};

use oracle::{Rng, Volume, fill_initial};
use rustix::process::geteuid;

use crate::common::cluster::Cluster;
use crate::common::judged::judge_window;
use crate::common::process::{Process, words};
use crate::common::tools::{run, status};
use crate::common::watch::Watch;
use crate::common::{skip, wait_for};
use crate::story;

/// An agent's network and a receiver's, and the cable.
struct Spaces {
    agent: Space,
    receiver: Space,
}

/// Dropped, it is gone, with its interface and rules.
struct Space {
    name: String,
    interface: String,
    address: Ipv4Addr,
}

static MADE: AtomicU8 = AtomicU8::new(0);

impl Spaces {
    /// None where that is not possible, which is then said.
    fn make() -> Option<Self> {
        let missing = |tool: &&&str| process::Command::new(tool).arg("-V").output().is_err();
        if !geteuid().is_root() {
            skip("not root");
            return None;
        }
        if let Some(tool) = ["ip", "nft"].iter().find(missing) {
            skip(&format!("no {tool}"));
            return None;
        }
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let pid = process::id();
        let space = |side: &str, last: u8| {
            let (name, interface) = (format!("bs-{pid}-{number}{side}"), format!("bs{pid}{number}{side}"));
            run(&["ip", "netns", "add", &name]);
            Space { name, interface, address: Ipv4Addr::new(198, 18, number, last) }
        };
        let (agent, receiver) = (space("a", 1), space("r", 2));
        run(&["ip", "link", "add", &agent.interface, "type", "veth", "peer", "name", &receiver.interface]);
        for side in [&agent, &receiver] {
            run(&["ip", "link", "set", &side.interface, "netns", &side.name]);
            side.run("ip", &format!("addr add {}/30 dev {}", side.address, side.interface));
            side.run("ip", &format!("link set {} up", side.interface));
            side.run("nft", "add table ip faults");
            side.run("nft", "add chain ip faults in { type filter hook input priority 0 ; }");
            side.run("nft", "add chain ip faults out { type filter hook postrouting priority 0 ; }");
        }
        Some(Self { agent, receiver })
    }
}

impl Space {
    #[track_caller]
    fn run(&self, tool: &str, words: &str) {
        run(&[&["ip", "netns", "exec", &self.name, tool], &words.split(' ').collect::<Vec<_>>()[..]].concat());
    }

    /// Of what comes in, so many of 100 are lost: the other side is told nothing.
    fn lose(&self, percent: u8) {
        // `nft` knows no comparison that always holds.
        let chosen = if percent < 100 { format!("numgen random mod 100 < {percent} ") } else { String::new() };
        self.run("nft", &format!("add rule ip faults in meta l4proto udp {chosen}counter drop"));
    }

    /// Of what goes out, so many of 100 arrive twice.
    fn repeat(&self, percent: u8, to: &Self) {
        let (address, interface) = (to.address, &self.interface);
        self.run(
            "nft",
            &format!(
                "add rule ip faults out meta l4proto udp numgen random mod 100 < {percent} counter dup to {address} device {interface}"
            ),
        );
    }

    fn fair(&self) {
        self.run("nft", "flush table ip faults");
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        _ = status(&["ip", "netns", "delete", &self.name]);
    }
}

fn start_receiver(cluster: &mut Cluster, spaces: &Spaces, listen: &str) -> String {
    let serve = ["serve", cluster.store.to_str().unwrap(), "--listen", listen];
    let process =
        Process::start_in(&spaces.receiver.name, &cluster.path("receiver.log"), &cluster.args(&words(&serve)));
    let ready = cluster.receiver.insert(process).event();
    ready["listen"].as_str().unwrap().to_owned()
}

fn start_agent(cluster: &mut Cluster, spaces: &Spaces) {
    let (volume, state) = (format!("db={}", cluster.source.display()), cluster.state.to_str().unwrap());
    let protect = ["protect", "--tracker", "tap", "--nbd", &cluster.tap(), &volume, "--state", state];
    let process = Process::start_in(&spaces.agent.name, &cluster.path("agent.log"), &cluster.args(&words(&protect)));
    assert_eq!(cluster.agent.insert(process).event()["event"], "ready");
}

#[test]
fn namespaces_lose_repeat_fall_silent_and_come_back() {
    let Some(spaces) = Spaces::make() else { return };
    let seed = crate::seed();
    println!("seed {seed}");
    let mut cluster = Cluster::new();
    let volume = Volume::new(seed, 4 << 20);
    fill_initial(&cluster.source, &volume).unwrap();
    let listen = start_receiver(&mut cluster, &spaces, &format!("{}:0", spaces.receiver.address));
    cluster.address = Some(listen.clone());
    // Enrolling needs the network too, but a verb that ends is not started in there.
    let join = words(&["join", &cluster.invitation("host", &[]), "--state", cluster.state.to_str().unwrap()]);
    let mut joining = Process::start_in(&spaces.agent.name, &cluster.path("join.log"), &cluster.args(&join));
    assert_eq!(joining.event()["agent"], "host");
    drop(joining);
    let watch = Watch::start(cluster.store.join("control.sock"));
    spaces.receiver.lose(20);
    spaces.agent.lose(20);
    start_agent(&mut cluster, &spaces);
    let load = story::load(&cluster, volume, 200);
    let mut rng = Rng::new(seed);
    let mut judged = 0;
    let mut judge = |cluster: &mut Cluster| {
        cluster.settle();
        judged += judge_window(cluster, &watch, &mut rng, 3, || load.history());
    };
    judge(&mut cluster);
    for side in [&spaces.receiver, &spaces.agent] {
        side.fair();
    }
    spaces.agent.repeat(50, &spaces.receiver);
    spaces.receiver.repeat(50, &spaces.agent);
    cluster.kill_agent();
    start_agent(&mut cluster, &spaces);
    judge(&mut cluster);
    for side in [&spaces.receiver, &spaces.agent] {
        side.fair();
    }
    // One direction, then the other, then the cable.
    for side in [&spaces.receiver, &spaces.agent] {
        side.lose(100);
        cluster.wait_state("stopped");
        load.wait_for(20);
        side.fair();
        judge(&mut cluster);
    }
    spaces.agent.run("ip", &format!("link set {} down", spaces.agent.interface));
    let silent = || cluster.agent_status()["rpo_seconds"].is_null().then_some(());
    wait_for("noticed by the agent", silent, || cluster.words());
    cluster.wait_state("stopped");
    cluster.kill_receiver();
    assert_eq!(start_receiver(&mut cluster, &spaces, &listen), listen);
    spaces.agent.run("ip", &format!("link set {} up", spaces.agent.interface));
    judge(&mut cluster);
    let said = story::quiet(&mut cluster, load, &watch);
    println!("{said}, {judged} instants judged");
}
