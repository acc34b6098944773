//! Beginning anew at the receiver's head, interrupted anywhere.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use super::story::{Story, copy, restore};
use crate::common::cluster::Cluster;

/// The directory of the only group in the agent's state.
fn group(cluster: &Cluster) -> PathBuf {
    fs::read_dir(cluster.state.join("groups")).unwrap().next().unwrap().unwrap().path()
}

/// What an earlier run put aside.
fn aside(cluster: &Cluster) -> usize {
    let names = fs::read_dir(group(cluster)).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("spool.old-")).count()
}

#[test]
fn an_agent_killed_at_any_moment_of_it_gets_there() {
    let small = |cluster: &mut Cluster| cluster.protect = ["--spool-size", "8MiB"].map(Into::into).to_vec();
    let mut story = Story::begin(20, small, 400);
    let (backup, store) = (story.cluster.path("backup"), story.cluster.store.clone());
    story.cluster.stop_receiver();
    copy(&store, &backup);
    story.cluster.start_receiver();
    for round in 0..8 {
        // Set back so far that the agent has to begin anew.
        story.load.wait_for(500);
        story.cluster.settle();
        story.cluster.kill_receiver();
        restore(&backup, &store);
        story.cluster.start_receiver();
        std::thread::sleep(Duration::from_millis(30 * round));
        story.cluster.kill_agent();
        story.cluster.start_agent();
        story.judge();
    }
    // What was put aside does not stay.
    story.cluster.stop_agent();
    story.cluster.start_agent();
    crate::common::wait_for("swept", || (aside(&story.cluster) == 0).then_some(()), || story.cluster.words());
    story.end();
}

/// The steps of `rebase`, each as a crash after it leaves the agent's files.
#[test]
fn what_a_crash_between_two_steps_leaves_is_gone_on_from() {
    let mut story = Story::live(21);
    type Step = fn(&Cluster);
    let steps: [(&str, Step); 3] = [
        ("the old spool was put aside", |cluster| {
            fs::rename(group(cluster).join("spool"), group(cluster).join("spool.old-0123456789abcdef")).unwrap();
        }),
        ("and an empty one was made", |cluster| {
            fs::rename(group(cluster).join("spool"), group(cluster).join("spool.old-0123456789abcdee")).unwrap();
            fs::create_dir(group(cluster).join("spool")).unwrap();
        }),
        ("and an old one was half removed", |cluster| {
            fs::create_dir(group(cluster).join("spool.old-0123456789abcded")).unwrap();
            fs::write(group(cluster).join("spool.old-0123456789abcded/half"), "").unwrap();
        }),
    ];
    for (step, leave) in steps {
        println!("{step}");
        story.load.wait_for(50);
        story.cluster.kill_agent();
        leave(&story.cluster);
        story.cluster.start_agent();
        story.judge();
        crate::common::wait_for("swept", || (aside(&story.cluster) == 0).then_some(()), || story.cluster.words());
    }
    story.end();
}
