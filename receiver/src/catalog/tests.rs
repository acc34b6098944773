use std::path::Path;

use journal::disk::SimDisk;
use journal::disk::sim::{CrashMode, Rng};

use super::*;

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn open(path: &Path) -> Catalog {
    Catalog::open(StoreDir::open(path, StoreId([1; 16])).unwrap()).unwrap()
}

#[test]
fn a_group_belongs_to_the_first_agent_across_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let (web, other) = (name("web"), name("other"));
    let id = GroupId([1; 16]);
    open(dir.path()).claim(&web, id, &name("db")).unwrap();
    let catalog = open(dir.path());
    assert_eq!(catalog.claim(&web, id, &name("db")).unwrap().agent, web);
    let refused = [
        catalog.claim(&other, id, &name("db")),
        catalog.claim(&other, GroupId([2; 16]), &name("db")),
        catalog.claim(&web, GroupId([2; 16]), &name("db")),
        catalog.claim(&web, id, &name("renamed")),
    ];
    for result in refused {
        assert_eq!(result.unwrap_err().code(), Code::FENCED);
    }
    assert_eq!(catalog.groups().len(), 1);
    assert_eq!(catalog.group_dir(id), dir.path().join("groups").join("01".repeat(16)));
}

#[test]
fn a_change_that_fails_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = open(dir.path());
    let failed: Result<()> = catalog.change(|contents| {
        contents.agents.push(Agent { name: name("x"), pin: [1; 32] });
        Err(Error::usage("no"))
    });
    assert!(failed.is_err());
    assert_eq!(catalog.agent([1; 32]), None);
}

/// A power cut at any step of replacing it leaves the old catalog or the new one, whole.
#[test]
fn a_power_cut_leaves_the_old_one_or_the_new_one() {
    let contents = |count: u8| Contents {
        agents: (0..count).map(|i| Agent { name: name(&format!("agent-{i}")), pin: [i; 32] }).collect(),
        ..Contents::default()
    };
    let (old, new) = (contents(3), contents(40));
    let (mut saw_old, mut saw_new) = (0, 0);
    for stop in 0..8 {
        let disk = SimDisk::new(stop);
        replace_file(&disk, CATALOG_FILE, &old.encode()).unwrap();
        disk.stop_at(disk.ops() + 1 + stop);
        let done = replace_file(&disk, CATALOG_FILE, &new.encode()).is_ok();
        for seed in 0..50 {
            let after = read(&disk.crash(CrashMode::Random, &mut Rng::new(seed))).unwrap();
            assert!(after == new || (after == old && !done), "stop {stop}, seed {seed}");
            saw_new += usize::from(after == new);
            saw_old += usize::from(after == old);
        }
    }
    assert!(saw_old > 0 && saw_new > 0, "{saw_old} {saw_new}");
}
