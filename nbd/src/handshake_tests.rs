use super::{Advert, Negotiation, NotAHandshake, OPTION_HEADER_BYTES, Step, greeting, parse_option_header};
use crate::export::Capabilities;
use crate::wire::{Fields, Put};

const GO: u32 = 7;
const ACK: u32 = 1;
const ERR_UNSUP: u32 = 1 << 31 | 1;
const ERR_POLICY: u32 = 1 << 31 | 2;
const ERR_INVALID: u32 = 1 << 31 | 3;
const ERR_UNKNOWN: u32 = 1 << 31 | 6;

fn negotiation(names: &[&str], flags: u8) -> Negotiation {
    let advert = |name: &&str| Advert {
        name: (*name).to_owned(),
        size_bytes: 1 << 20,
        min_block_bytes: 512,
        capabilities: Capabilities::ALL,
        closed: (*name == "shut").then(|| "a rollback is under way".to_owned()),
    };
    Negotiation::new(names.iter().map(advert).collect(), [0, 0, 0, flags]).unwrap()
}

/// Sends an option: its step, and the kinds and data of its replies.
fn send(negotiation: &mut Negotiation, option: u32, data: &[u8]) -> (Step, Vec<(u32, Vec<u8>)>) {
    let mut out = Vec::new();
    let step = negotiation.option(option, data, &mut out);
    let mut fields = Fields(&out);
    let mut replies = Vec::new();
    while !fields.is_empty() {
        assert_eq!(fields.u64(), Some(0x0003_e889_0455_65a9));
        assert_eq!(fields.u32(), Some(option));
        replies.push((fields.u32().unwrap(), fields.string().unwrap().to_vec()));
    }
    (step, replies)
}

#[track_caller]
fn refused(negotiation: &mut Negotiation, option: u32, data: &[u8], why: u32) {
    assert_eq!(send(negotiation, option, data), (Step::Continue, vec![(why, vec![])]));
}

fn name_and(name: &str, rest: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    out.put_u32(u32::try_from(name.len()).unwrap());
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(rest);
    out
}

fn queries(name: &str, queries: &[&str]) -> Vec<u8> {
    let mut rest = Vec::new();
    rest.put_u32(u32::try_from(queries.len()).unwrap());
    queries.iter().for_each(|query| rest.extend(name_and(query, &[])));
    name_and(name, &rest)
}

#[test]
fn bytes_of_the_greeting_and_of_option_headers() {
    assert_eq!(greeting(), *b"NBDMAGICIHAVEOPT\0\x03");
    let mut header: [u8; OPTION_HEADER_BYTES] = *b"IHAVEOPT\0\0\0\x07\0\0\0\x09";
    assert_eq!(parse_option_header(&header), Ok((7, 9)));
    header[0] = b'J';
    assert_eq!(parse_option_header(&header), Err(NotAHandshake));
}

#[test]
fn client_flags_that_do_not_exist_end_it() {
    for flags in [[0, 0, 0, 4], [0, 0, 1, 3], [0x80, 0, 0, 0], [b'G', b'E', b'T', b' ']] {
        assert_eq!(Negotiation::new(Vec::new(), flags).err(), Some(NotAHandshake));
    }
}

#[test]
fn a_closed_export_says_why_and_lets_nobody_in() {
    let mut client = negotiation(&["disk", "shut"], 3);
    let why = b"a rollback is under way".to_vec();
    assert_eq!(send(&mut client, GO, &name_and("shut", &[0, 0])), (Step::Continue, vec![(ERR_POLICY, why)]));
    let (step, replies) = send(&mut client, 6, &name_and("shut", &[0, 0]));
    assert!(step == Step::Continue && replies.last() == Some(&(ACK, vec![])), "it may be asked about");
    let mut out = Vec::new();
    assert_eq!((client.option(1, b"shut", &mut out), out.len()), (Step::Close, 0), "the oldest way has no words");
    assert!(matches!(send(&mut client, GO, &name_and("disk", &[0, 0])).0, Step::Serve { export: 0, .. }));
}

#[test]
fn go_says_what_the_export_is() {
    let mut client = negotiation(&["disk"], 3);
    let (step, replies) = send(&mut client, GO, &name_and("disk", &[0, 1, 0, 3]));
    assert!(matches!(step, Step::Serve { export: 0, session } if session.size_bytes == 1 << 20 && !session.structured));
    let export = (3, vec![0, 0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0x01, 0x6d]);
    let blocks = (3, vec![0, 3, 0, 0, 2, 0, 0, 0, 0x10, 0, 2, 0, 0, 0]);
    assert_eq!(replies, [export.clone(), blocks.clone(), (ACK, vec![])]);
    // INFO says the same, and the name, and does not end the handshake; the empty name is that of the only export.
    let (step, replies) = send(&mut client, 6, &name_and("", &[0, 1, 0, 1]));
    assert_eq!((step, replies), (Step::Continue, vec![export, blocks, (3, b"\0\x01disk".to_vec()), (ACK, vec![])]));
}

#[test]
fn exports_are_found_by_name() {
    let mut two = negotiation(&["a", "b"], 3);
    refused(&mut two, GO, &name_and("", &[0, 0]), ERR_UNKNOWN);
    refused(&mut two, GO, &name_and("c", &[0, 0]), ERR_UNKNOWN);
    refused(&mut two, GO, &name_and(&"c".repeat(4097), &[0, 0]), ERR_INVALID);
    assert!(matches!(send(&mut two, GO, &name_and("b", &[0, 0])).0, Step::Serve { export: 1, .. }));
    let mut with_default = negotiation(&["a", ""], 3);
    assert!(matches!(send(&mut with_default, GO, &name_and("", &[0, 0])).0, Step::Serve { export: 1, .. }));
    refused(&mut negotiation(&[], 3), GO, &name_and("", &[0, 0]), ERR_UNKNOWN);
    let listed = vec![(2, name_and("a", &[])), (2, name_and("b", &[])), (ACK, vec![])];
    assert_eq!(send(&mut two, 3, &[]), (Step::Continue, listed));
}

#[test]
fn the_oldest_way_to_choose() {
    let mut out = Vec::new();
    assert!(matches!(negotiation(&["disk"], 3).option(1, b"disk", &mut out), Step::Serve { export: 0, .. }));
    assert_eq!(out, [0, 0, 0, 0, 0, 0x10, 0, 0, 0x01, 0x6d]);
    out.clear();
    assert!(matches!(negotiation(&["disk"], 1).option(1, b"", &mut out), Step::Serve { export: 0, .. }));
    assert_eq!(out.len(), 10 + 124);
    out.clear();
    assert_eq!(negotiation(&["disk"], 3).option(1, b"other", &mut out), Step::Close);
    assert!(out.is_empty());
}

#[test]
fn options_that_make_no_sense() {
    let mut client = negotiation(&["disk"], 3);
    for data in [&[][..], &[0, 0, 0], &name_and("disk", &[]), &name_and("disk", &[0, 1]), &name_and("disk", &[0, 0, 0])]
    {
        refused(&mut client, GO, data, ERR_INVALID);
    }
    refused(&mut client, GO, &[0xff; 6], ERR_INVALID);
    refused(&mut client, 3, &[0], ERR_INVALID);
    refused(&mut client, 8, &[0], ERR_INVALID);
    for option in [0, 4, 5, 11, 12, u32::MAX] {
        refused(&mut client, option, &[], ERR_UNSUP);
    }
    assert_eq!(send(&mut client, 2, &[]), (Step::Close, vec![(ACK, vec![])]));
}

#[test]
fn contexts_need_structured_replies() {
    let mut client = negotiation(&["disk", "other"], 3);
    let wanted = queries("disk", &["base:allocation", "x:y"]);
    refused(&mut client, 10, &wanted, ERR_INVALID);
    assert_eq!(send(&mut client, 8, &[]), (Step::Continue, vec![(ACK, vec![])]));
    let context = |id| (4, [&[0, 0, 0, id], &b"base:allocation"[..]].concat());
    assert_eq!(send(&mut client, 10, &wanted).1, [context(1), (ACK, vec![])]);
    let served = |client: &mut Negotiation, name| match send(client, GO, &name_and(name, &[0, 0])).0 {
        Step::Serve { session, .. } => (session.structured, session.allocation),
        step => panic!("{step:?}"),
    };
    assert_eq!(served(&mut client, "disk"), (true, true));
    assert_eq!(served(&mut client, "other"), (true, false), "selected for another export");

    // To list: no query means all, a namespace all in it.
    for listed in [&[][..], &["base:"], &["base:allocation"]] {
        assert_eq!(send(&mut client, 9, &queries("disk", listed)).1, [context(0), (ACK, vec![])]);
    }
    for nothing in [&[][..], &["base:"], &["qemu:dirty-bitmap:x"]] {
        refused(&mut client, 10, &queries("disk", nothing), ACK);
        assert_eq!(served(&mut client, "disk"), (true, false), "the last selection counts");
    }
    refused(&mut client, 9, &queries("disk", &["qemu:"]), ACK);
    refused(&mut client, 10, &queries("nobody", &["base:allocation"]), ERR_UNKNOWN);
    refused(&mut client, 10, &[], ERR_INVALID);
    refused(&mut client, 10, &name_and("disk", &[]), ERR_INVALID);
    refused(&mut client, 10, &name_and("disk", &[0xff; 4]), ERR_INVALID);
    refused(&mut client, 10, &[queries("disk", &["base:allocation"]), vec![0]].concat(), ERR_INVALID);
}
