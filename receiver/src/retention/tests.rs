//! Retention of a receiver whose clocks do what they like.

use std::sync::{Arc, Mutex};

use journal::types::WallTime;

use super::*;
use crate::catalog::{Catalog, Name, StoreDir, StoreId};
use crate::testing::GROUP;

const HOUR: u64 = 3600 * 1_000_000;

/// A receiver with one group, and clocks that are set from outside.
struct Machine {
    dir: tempfile::TempDir,
    reading: Arc<Mutex<Reading>>,
}

impl Machine {
    fn new() -> Self {
        let reading = Reading { wall: WallTime(1000 * HOUR), boottime: HOUR, boot: "a".to_owned() };
        Self { dir: tempfile::tempdir().unwrap(), reading: Arc::new(Mutex::new(reading)) }
    }

    fn start(&self) -> (Retention, Group) {
        let dir = StoreDir::open(&self.dir.path().join("store"), StoreId([1; 16])).unwrap();
        let groups = Arc::new(Groups::open(Catalog::open(dir).unwrap(), false).unwrap());
        let group = groups.claim(&Name::parse("web").unwrap(), GROUP, "db").unwrap();
        let reading = Arc::clone(&self.reading);
        let clocks = Box::new(move || Ok(reading.lock().unwrap().clone()));
        let config = Wanted { every_write_seconds: Some(60), ..Wanted::default() };
        (Retention::new(groups, config, clocks).unwrap(), group)
    }

    /// So many hours pass, by the wall clock and since the machine booted.
    fn pass(&self, wall: u64, boot: u64) {
        let mut reading = self.reading.lock().unwrap();
        reading.wall = WallTime(reading.wall.0 + wall * HOUR);
        reading.boottime += boot * HOUR;
    }
}

fn why(retention: &Retention, group: &Group) -> Option<String> {
    retention.step();
    group.snapshot().cleaned.why
}

#[test]
fn a_clock_that_jumps_expires_nothing_until_somebody_says_that_it_is_right() {
    let machine = Machine::new();
    let (retention, group) = machine.start();
    assert_eq!(why(&retention, &group), None);
    machine.pass(5, 5);
    assert_eq!(why(&retention, &group), None, "time passes");
    machine.pass(26, 1);
    let said = why(&retention, &group).unwrap();
    assert!(said.contains("25.0 h ahead") && said.contains("backspool retention GROUP --trust-clock"), "{said}");
    assert_eq!(retention.now().unwrap().unwrap_err(), said);
    machine.pass(3, 3);
    assert!(why(&retention, &group).is_some(), "nor later by itself");
    retention.trust_clock().unwrap();
    assert_eq!(why(&retention, &group), None);
    // It is not forgotten by a restart, and a jump in the meantime is seen.
    drop((retention, group));
    machine.pass(2, 2);
    let (retention, group) = machine.start();
    assert_eq!(why(&retention, &group), None);
    drop((retention, group));
    {
        let mut reading = machine.reading.lock().unwrap();
        (reading.boot, reading.boottime) = ("b".to_owned(), 0);
    }
    machine.pass(48, 0);
    let (retention, group) = machine.start();
    assert!(why(&retention, &group).unwrap().contains("ahead"), "two days switched off");
    machine.reading.lock().unwrap().wall = WallTime(900 * HOUR);
    assert!(why(&retention, &group).unwrap().contains("behind"));
}

#[test]
fn a_damaged_note_of_the_time_stops_expiry_and_nothing_else() {
    let machine = Machine::new();
    let (retention, group) = machine.start();
    assert_eq!(why(&retention, &group), None);
    drop((retention, group));
    let path = machine.dir.path().join("store/clock.json");
    let mut file = std::fs::read(&path).unwrap();
    *file.last_mut().unwrap() ^= 1;
    std::fs::write(&path, &file).unwrap();
    for hours in [0, 2] {
        machine.pass(hours, hours);
        let (retention, group) = machine.start();
        let said = why(&retention, &group).unwrap();
        assert!(said.contains("backspool retention GROUP --trust-clock"), "{said}");
        assert_eq!(std::fs::read(&path).unwrap(), file, "not even a restart makes it believed");
        drop((retention, group));
    }
    let (retention, group) = machine.start();
    retention.trust_clock().unwrap();
    assert_eq!(why(&retention, &group), None);
    drop((retention, group));
    let (retention, group) = machine.start();
    assert_eq!(why(&retention, &group), None);
}

#[test]
fn what_is_said_for_a_group_goes_before_the_config_and_stays() {
    let machine = Machine::new();
    let (retention, group) = machine.start();
    let set = Wanted { hourly_seconds: Some(0), ..Wanted::default() };
    let expect = retention.resolved_with(&group, &set).unwrap();
    assert_eq!(expect.values[..3], [(60, Origin::Config), (604_800, Origin::Default), (0, Origin::Group)]);
    retention.groups.catalog().set_retention(group.id(), &set).unwrap();
    drop((retention, group));
    let (retention, group) = machine.start();
    assert_eq!(retention.resolved(&group), Some(expect));
}
