//! Strings that let nobody in, and receivers that are not who they were.

use std::fs;
use std::time::Duration;

use crate::common::cluster::{Cluster, random};
use crate::common::wait_for;

const SIZE: usize = 1 << 20;
/// In this time an agent tries again several times.
const TRIES: Duration = Duration::from_secs(4);

#[test]
fn an_invitation_is_for_one_agent_once_and_for_a_while() {
    let mut cluster = Cluster::new();
    cluster.start_receiver();
    let join = |invitation: &str, state: &str| cluster.join_with(invitation, &cluster.path(state));
    let invitation = cluster.invitation("host", &[]);
    join(&invitation, "state").document();
    join(&invitation, "state").document();
    join(&invitation, "third").refused(12, "used already");
    let garbled = format!("{}{}", &invitation[..60], &invitation[61..]);
    for text in ["", "hello", "bsp1-", &invitation[..40], garbled.as_str()] {
        join(text, "third").refused(2, "invitation");
    }
    join(&invitation.replace("bsp1-", "bsp9-"), "third").refused(18, "newer version");
    let short = cluster.invitation("late", &["--ttl", "1s"]);
    std::thread::sleep(Duration::from_millis(1100));
    join(&short, "third").refused(12, "expired");
    // A newer one makes that of before void.
    let older = cluster.invitation("again", &[]);
    join(&cluster.invitation("again", &[]), "third").document();
    join(&older, "fourth").refused(12, "does not know the invitation");
    assert!(!cluster.path("fourth/receiver.json").exists());
    // A key has one name.
    join(&cluster.invitation("elsewhere", &[]), "state").refused(12, "under another name");
    let ttl = cluster.ask(&["invite", "host", "--ttl", "30d"]);
    assert_eq!(ttl.exit, 2, "{ttl:?}");
    cluster.ask(&["invite", "../host"]).refused(2, "host");
}

#[test]
fn a_string_of_another_receiver_is_not_taken() {
    let (mut cluster, mut other) = (Cluster::new(), Cluster::new());
    cluster.start_receiver();
    other.start_receiver();
    let foreign = other.invitation("host", &[]);
    other.stop_receiver();
    // Nobody is there, and then somebody else.
    cluster.join_with(&foreign, &cluster.state).refused(16, "");
    cluster.stop_receiver();
    fs::remove_dir_all(&other.store).unwrap();
    other.start_receiver();
    other.join_with(&foreign, &other.state).refused(12, "not the receiver that made it");
    assert!(!other.state.join("receiver.json").exists());
}

#[test]
fn a_receiver_with_another_key_gets_nothing() {
    let mut cluster = Cluster::live(&random(1, SIZE));
    cluster.stop_receiver();
    let other = cluster.path("other");
    let store = std::mem::replace(&mut cluster.store, other);
    cluster.start_receiver();
    // The host does not notice.
    cluster.write(0, &random(2, 4096));
    let why = |cluster: &Cluster| cluster.agent_status()["why"].as_str().unwrap_or_default().to_owned();
    let noticed = |cluster: &Cluster| {
        assert_eq!(cluster.agent_status()["state"], "stopped", "{}", cluster.words());
        let why = Some(why(cluster)).filter(|why| why.contains("as pinned"))?;
        // What to do about it is said as well, to whoever asks; in the log it stands once, however often it is tried.
        assert!(why.contains("backspool join"), "{why}");
        Some(())
    };
    let stopped = || Some(cluster.agent_status()).filter(|status| status["state"] == "stopped");
    wait_for("away", stopped, || cluster.words());
    wait_for("noticed", || noticed(&cluster), || cluster.words());
    let logged = |cluster: &Cluster| {
        std::thread::sleep(TRIES);
        let log = fs::read_to_string(cluster.path("agent.log")).unwrap();
        log.lines().filter(|line| line.contains("as pinned")).count()
    };
    assert_eq!(logged(&cluster), 1, "{}", cluster.words());
    assert!(cluster.look().is_none(), "nothing was sent to it");
    // Capture goes on, also of an agent that starts: anybody at that address could keep it from starting otherwise.
    cluster.write(8192, &random(4, 4096));
    cluster.stop_agent();
    cluster.start_agent();
    wait_for("noticed", || noticed(&cluster), || cluster.words());
    assert_eq!(logged(&cluster), 2, "once by each of the two: {}", cluster.words());
    cluster.assert_runs();
    assert!(cluster.look().is_none(), "nor by an agent that starts");
    // The right one comes back, and gets it all.
    cluster.stop_receiver();
    cluster.store = store;
    cluster.start_receiver();
    cluster.settle();
    cluster.assert_same();
    assert_eq!(why(&cluster), "");
}

#[test]
fn an_agent_that_nobody_invited_is_refused() {
    let mut cluster = Cluster::new();
    fs::write(&cluster.source, random(3, SIZE)).unwrap();
    cluster.agent_fails().refused(1, "joined no receiver");
    cluster.start_receiver();
    cluster.join();
    fs::remove_dir_all(cluster.state.join("identity")).unwrap();
    cluster.agent_fails().refused(12, "not enrolled");
    assert!(cluster.look().is_none());
}
