//! Agent and receiver in one process, over real sockets: what is written through the tap can be read at the receiver, whoever
//! restarts in between.
#![allow(clippy::unwrap_used, reason = "a test ends where it is surprised")]

#[path = "common/http.rs"]
mod http;
mod replicate {
    pub(crate) mod pair;
}

use std::time::Duration;

use oracle::Rng;
use replicate::pair::{Pair, SIZE};

/// Writes `count` random blocks through the tap, and into `expect`.
fn write_some(pair: &Pair, expect: &mut [u8], rng: &mut Rng, count: usize) {
    let mut client = pair.client();
    for _ in 0..count {
        let length = 512 * (1 + usize::try_from(rng.below(255)).unwrap());
        let offset = 512 * usize::try_from(rng.below(u64::try_from((expect.len() - length) / 512).unwrap())).unwrap();
        let byte = u8::try_from(rng.below(256)).unwrap();
        let data: Vec<u8> = (0..length).map(|at| byte.wrapping_add(u8::try_from(at / 512 % 256).unwrap())).collect();
        client.write(u64::try_from(offset).unwrap(), &data, false).unwrap();
        expect[offset..offset + length].copy_from_slice(&data);
    }
    client.flush().unwrap();
}

#[track_caller]
fn check(pair: &Pair, expect: &[u8]) {
    let found = pair.read("latest");
    assert_eq!(found.len(), expect.len());
    let differs = found.chunks(512).zip(expect.chunks(512)).position(|(found, expect)| found != expect);
    if let Some(at) = differs {
        let part = |image: &[u8]| image[512 * at..512 * at + 8].to_vec();
        panic!("sector {at} is {:?}, not {:?}", part(&found), part(expect));
    }
}

#[test]
fn what_a_volume_held_and_what_is_written_arrives() {
    let mut rng = Rng::new(1);
    let mut pair = Pair::new();
    let mut expect = pair.fill_source(&mut rng);
    pair.start_receiver();
    pair.join("host");
    pair.start_agent();
    write_some(&pair, &mut expect, &mut rng, 200);
    pair.wait_durable();
    pair.wait_live();
    check(&pair, &expect);
    // A mark names what was there then.
    pair.mark("then");
    let then = expect.clone();
    write_some(&pair, &mut expect, &mut rng, 100);
    pair.wait_durable();
    check(&pair, &expect);
    assert!(pair.read("mark:then") == then, "the mark's image");
    pair.stop_agent();
    pair.stop_receiver();
}

#[test]
fn a_receiver_that_restarts_gets_what_it_missed() {
    let mut rng = Rng::new(2);
    let mut pair = Pair::new();
    let mut expect = pair.fill_source(&mut rng);
    pair.start_receiver();
    pair.join("host");
    pair.start_agent();
    pair.wait_live();
    for _ in 0..3 {
        pair.stop_receiver();
        write_some(&pair, &mut expect, &mut rng, 100);
        pair.start_receiver();
        write_some(&pair, &mut expect, &mut rng, 10);
        pair.wait_durable();
        check(&pair, &expect);
    }
}

#[test]
fn an_agent_that_stopped_cleanly_goes_on_without_comparing() {
    let mut rng = Rng::new(3);
    let mut pair = Pair::new();
    let mut expect = pair.fill_source(&mut rng);
    pair.start_receiver();
    pair.join("host");
    pair.start_agent();
    write_some(&pair, &mut expect, &mut rng, 50);
    pair.wait_live();
    pair.stop_agent();
    check(&pair, &expect);
    let gaps = pair.gaps();
    pair.start_agent();
    write_some(&pair, &mut expect, &mut rng, 50);
    pair.wait_durable();
    pair.wait_live();
    assert_eq!(pair.gaps(), gaps, "a clean stop opens no gap");
    pair.stop_agent();
    check(&pair, &expect);
}

#[test]
fn what_changed_while_the_agent_was_stopped_is_found_and_nothing_else_is_sent() {
    let mut rng = Rng::new(4);
    let mut pair = Pair::new();
    let mut expect = pair.fill_source(&mut rng);
    pair.start_receiver();
    pair.join("host");
    pair.start_agent();
    pair.wait_live();
    pair.stop_agent();
    let (gaps, stored) = (pair.gaps(), pair.store_bytes());
    pair.change_source(1_000_001, &[!expect[1_000_001]]);
    expect[1_000_001] = !expect[1_000_001];
    // Data that became zeroes, in a block that holds some.
    let block = expect.chunks(65536).position(|block| block.iter().any(|byte| *byte != 0)).unwrap() * 65536;
    pair.change_source(block, &[0; 65536]);
    expect[block..block + 65536].fill(0);
    pair.start_agent();
    pair.wait_durable();
    pair.wait_live();
    check(&pair, &expect);
    assert_eq!(pair.gaps(), gaps + 1);
    let sent = pair.store_bytes() - stored;
    assert!(sent < 1_000_000, "{sent} bytes for one block and some zeroes");
}

#[test]
fn an_agent_that_vanished_compares_and_loses_nothing() {
    let mut rng = Rng::new(5);
    let mut pair = Pair::new();
    let mut expect = pair.fill_source(&mut rng);
    pair.start_receiver();
    pair.join("host");
    for _ in 0..3 {
        pair.start_agent();
        write_some(&pair, &mut expect, &mut rng, 100);
        // Zeroes over data: they have to arrive as such.
        let zeroed = 512 * usize::try_from(rng.below(1000)).unwrap();
        pair.client().write_zeroes(u64::try_from(zeroed).unwrap(), 65536).unwrap();
        expect[zeroed..zeroed + 65536].fill(0);
        pair.kill_agent();
        let at = usize::try_from(rng.below(u64::try_from(SIZE).unwrap())).unwrap();
        pair.change_source(at, &[7]);
        expect[at] = 7;
    }
    pair.start_agent();
    pair.wait_durable();
    pair.wait_live();
    check(&pair, &expect);
}

/// The agent's machine lost power: its spool and its state are those of an earlier day, the receiver has more.
#[test]
fn an_agent_that_knows_less_than_the_receiver_begins_anew_there() {
    let mut rng = Rng::new(6);
    let mut pair = Pair::new();
    let mut expect = pair.fill_source(&mut rng);
    pair.start_receiver();
    pair.join("host");
    pair.start_agent();
    write_some(&pair, &mut expect, &mut rng, 50);
    pair.wait_durable();
    pair.wait_live();
    pair.keep_state();
    write_some(&pair, &mut expect, &mut rng, 50);
    pair.wait_durable();
    let gaps = pair.gaps();
    pair.kill_agent();
    pair.set_state_back();
    pair.start_agent();
    write_some(&pair, &mut expect, &mut rng, 50);
    pair.wait_durable();
    pair.wait_live();
    check(&pair, &expect);
    assert_eq!(pair.gaps(), gaps + 1);
}

/// The receiver's disk was replaced by an older copy of itself.
#[test]
fn a_receiver_that_lost_what_it_had_gets_it_again() {
    let mut rng = Rng::new(7);
    let mut pair = Pair::new();
    let mut expect = pair.fill_source(&mut rng);
    pair.start_receiver();
    pair.join("host");
    pair.start_agent();
    pair.wait_live();
    pair.stop_receiver();
    pair.keep_store();
    pair.start_receiver();
    write_some(&pair, &mut expect, &mut rng, 50);
    pair.wait_durable();
    pair.stop_receiver();
    pair.restore_store();
    pair.start_receiver();
    write_some(&pair, &mut expect, &mut rng, 50);
    pair.wait_durable();
    pair.wait_live();
    check(&pair, &expect);
}

/// Both lost something: the receiver is behind what the agent still holds.
#[test]
fn a_receiver_that_lacks_what_nobody_holds_any_more_is_compared_with() {
    let mut rng = Rng::new(11);
    let mut pair = Pair::new();
    let mut expect = pair.fill_source(&mut rng);
    pair.start_receiver();
    pair.join("host");
    pair.start_agent();
    pair.wait_live();
    pair.stop_receiver();
    pair.keep_store();
    pair.start_receiver();
    write_some(&pair, &mut expect, &mut rng, 50);
    pair.wait_durable();
    pair.stop_agent();
    pair.stop_receiver();
    pair.restore_store();
    pair.forget_spool();
    pair.start_receiver();
    let gaps = pair.gaps();
    pair.start_agent();
    write_some(&pair, &mut expect, &mut rng, 50);
    pair.wait_durable();
    pair.wait_live();
    check(&pair, &expect);
    assert_eq!(pair.gaps(), gaps + 1, "no point in between is true");
    // The same, with a receiver that has nothing at all left of the group.
    pair.stop_agent();
    pair.stop_receiver();
    pair.forget_journal();
    pair.forget_spool();
    pair.start_receiver();
    pair.start_agent();
    write_some(&pair, &mut expect, &mut rng, 50);
    pair.wait_durable();
    pair.wait_live();
    check(&pair, &expect);
}

#[test]
fn whoever_is_not_enrolled_gets_nothing_in() {
    let mut pair = Pair::new();
    pair.fill_source(&mut Rng::new(8));
    pair.start_receiver();
    pair.join("host");
    pair.forget_identity();
    let error = pair.agent_fails();
    assert!(error.to_string().contains("not enrolled"), "{error:?}");
}

#[test]
fn a_receiver_with_another_key_is_not_talked_to() {
    let mut pair = Pair::new();
    pair.fill_source(&mut Rng::new(9));
    pair.start_receiver();
    pair.join("host");
    pair.start_agent();
    pair.wait_live();
    pair.stop_receiver();
    pair.replace_receiver();
    pair.start_receiver();
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(pair.groups(), 0, "nothing was sent to it");
    // The host does not notice.
    pair.client().write(0, &[1; 4096], true).unwrap();
}

#[test]
fn a_group_belongs_to_the_first_agent() {
    let mut pair = Pair::new();
    pair.fill_source(&mut Rng::new(10));
    pair.start_receiver();
    pair.join("host");
    pair.start_agent();
    pair.wait_live();
    pair.stop_agent();
    pair.forget_state();
    pair.join("other");
    let error = pair.agent_fails();
    assert_eq!(error.kind(), agent::ErrorKind::Fenced, "{error:?}");
}
