//! Messages come back as they were; nothing that is cut or flipped panics, and golden bytes hold code and document together.

#![expect(clippy::indexing_slicing, reason = "a test that indexes wrongly fails")]

use bytes::Bytes;

use super::*;
use crate::codec::Malformed;
use crate::error::ErrorKind;
use crate::limits::{FRAME_BYTES, GROUP_VOLUMES, ROLLBACK_ZERO_BYTES};
use crate::types::*;

fn seq(number: u64) -> Seq {
    Seq::new(number).unwrap()
}

fn head() -> Head {
    let chain = ChainHead(Hash([9; 32]));
    Head { epoch: EpochId([2; 16]), seq: seq(77), frame: FrameNo::new(5).unwrap(), chain }
}

fn hello() -> Hello {
    let offer = Offer { version_min: 1, version_max: 2, required: 4, optional: 8 };
    Hello { offer, software: "backspool/0.1".into() }
}

fn report() -> Report {
    Report {
        time: WallTime(1_000_000),
        state: AgentState::Resync,
        captured: Some(seq(100)),
        sent: Some(seq(90)),
        oldest: Some(Micros(100_000)),
        lag: LagReport { p50: Micros(2_000), p99: Micros(30_000), max: Micros(1_000_000) },
        spool_bytes: 4096,
        spool_limit_bytes: 8 << 30,
        progress: Progress { done_bytes: 1, total_bytes: 2 },
        limit_bytes_per_second: Some(400 << 20),
        rpo_warn: Some(Micros(5_000_000)),
        rpo_error: None,
        why: "the agent did not stop cleanly".into(),
        volumes: vec![
            VolumeReport { volume: VolumeNo(0), tracker: TrackerKind::Tap },
            VolumeReport { volume: VolumeNo(7), tracker: TrackerKind::Watch },
        ],
    }
}

fn messages() -> Vec<Message> {
    let group = GroupId([1; 16]);
    let base = BaseHead { frame: FrameNo::new(3).unwrap(), chain: ChainHead(Hash([8; 32])) };
    vec![
        Message::Hello(hello()),
        Message::Welcome(Welcome {
            agreed: Agreed { version: 1, features: 4 },
            session: SessionId(12),
            receiver: ReceiverId(Pin([6; 32])),
        }),
        Message::Refused(Refusal::new(RefusalCode::Sibling, "two of you")),
        Message::OpenGroup { group, name: "db".into() },
        Message::Opened(None),
        Message::Opened(Some(head())),
        Message::Frame(Bytes::from(vec![0x5a; 256])),
        Message::Report { group, report: report() },
        Message::MarkDone { request: 3, seq: seq(4) },
        Message::MarkFailed { request: 3, reason: NoMark::NoPoints, text: "a gap is open".into() },
        Message::Bye,
        Message::Durable(head()),
        Message::MarkRequest { request: 1, locked_until: Some(WallTime(5)), name: "before".into() },
        Message::MarkRequest { request: 1, locked_until: None, name: "b".into() },
        Message::OpenBase { group, resync: ResyncId([4; 16]) },
        Message::BaseOpened(None),
        Message::BaseOpened(Some(base)),
        Message::BaseDurable(base),
        Message::OpenCompare { group, at: seq(9) },
        Message::CompareReady,
        Message::CompareRange { volume: VolumeNo(1), first_block: 16, blocks: 1024 },
        Message::BlockHashes { first_block: 16, hashes: vec![Hash([1; 32]), Hash([2; 32])] },
        Message::ComparePages { volume: VolumeNo(1), blocks: vec![16, 18, (1 << 47) - 1] },
        Message::PageHashes { first_block: 16, hashes: vec![Hash([1; 32]), Hash([2; 32])] },
        Message::OpenChanged { group, after: Some(seq(5)), at: seq(9) },
        Message::ChangedReady(WallTime(1_000_001)),
        Message::ChangedFrom { volume: VolumeNo(1), first: 4096 },
        Message::ChangedExtents(Changed {
            size: Sectors::new(1 << 30),
            next: Some(8192),
            runs: vec![ExtentRun { first: 4096, count: 1 }, ExtentRun { first: 4100, count: 50 }],
        }),
        Message::OpenRollback(RollbackOpening {
            group,
            target: seq(9),
            looks_only: false,
            even_if_attached: true,
            goes_on: false,
            locked_until: Some(WallTime(5)),
            mark: "before-rollback-1".into(),
        }),
        Message::RollbackReady { seq: seq(10), clients: 2 },
        Message::RollbackBegin { blocks: 3, bytes: 12_288 },
        Message::RollbackBegun { seq: seq(11) },
        Message::RollbackBlocks(RollbackBlocks::data(VolumeNo(1), 4096, Bytes::from(vec![0x5a; 512]))),
        Message::RollbackBlocks(RollbackBlocks::zeroes(VolumeNo(1), 8192, 1 << 20)),
        Message::RollbackDone { bytes: 4096 },
        Message::RollbackEnd { messages: 2, bytes: 4096 },
        Message::RollbackSealed { seq: seq(20) },
        Message::RollbackRefused { reason: NoRollback::NotAllowed, text: "say allow".into() },
    ]
}

fn decode(bytes: &[u8]) -> Result<Message, Malformed> {
    let (first, body) = bytes.split_first_chunk().ok_or(Malformed("short"))?;
    let header = MessageHeader::decode(first)?;
    if header.body_len() != body.len() {
        return Err(Malformed("cut"));
    }
    Message::decode(header.tag, Bytes::copy_from_slice(body))
}

#[test]
fn messages_come_back() {
    for message in messages() {
        assert_eq!(decode(&message.encode()), Ok(message));
    }
    for tag in Tag::ALL {
        assert!(messages().iter().any(|message| message.tag() == *tag), "{tag:?} is not tested");
    }
}

#[test]
fn every_cut_is_refused_and_no_flipped_bit_panics() {
    for message in messages() {
        let good = message.encode();
        for len in 0..good.len() {
            assert!(decode(&good[..len]).is_err(), "{message:?} cut to {len}");
            // The same with a length that agrees with the cut.
            if let Some(body) = good.get(8..len) {
                let shorter = Message::decode(message.tag(), Bytes::copy_from_slice(body));
                let is_list = match message.tag() {
                    Tag::BlockHashes | Tag::PageHashes => body.len() % 32 == 8,
                    Tag::ComparePages | Tag::ChangedExtents => body.len() % 8 == 0,
                    _ => false,
                };
                assert!(shorter.is_err() || is_list, "{message:?} cut to {len}");
            }
        }
        let mut longer = good[8..].to_vec();
        longer.push(0);
        assert!(Message::decode(message.tag(), longer.into()).is_err() || message.tag() == Tag::Frame, "{message:?}");
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            if let Ok(other) = decode(&bad) {
                assert_ne!(other, message, "bit {bit} of {message:?} says nothing");
                assert_eq!(decode(&other.encode()), Ok(other));
            }
        }
    }
}

/// Bytes that start as a message and go on as anything: `SEED=n` repeats one.
#[test]
fn no_bytes_panic() {
    let seeds = match std::env::var("SEED") {
        Ok(seed) => seed.parse().map(|seed: u64| seed..seed + 1).unwrap(),
        Err(_) => 1..20_001,
    };
    for seed in seeds {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut random = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state >> 20).unwrap()
        };
        let all = messages();
        let mut bytes = all[random() % all.len()].encode();
        for _ in 0..1 + random() % 4 {
            let at = random() % bytes.len();
            bytes[at] = random().low_byte();
        }
        bytes.truncate(1 + random() % (2 * bytes.len()));
        if let Ok(message) = decode(&bytes) {
            assert_eq!(decode(&message.encode()), Ok(message), "SEED={seed}");
        }
        let mut join = JoinRequest { secret: JoinSecret([5; 16]) }.encode();
        join[random() % 256] = random().low_byte();
        let _ = JoinRequest::decode(&join);
        let _ = JoinReply::decode(&join);
    }
}

trait LowByte {
    fn low_byte(self) -> u8;
}

impl LowByte for usize {
    fn low_byte(self) -> u8 {
        u8::try_from(self & 0xff).unwrap()
    }
}

#[test]
fn lengths_are_refused_before_there_is_memory_for_them() {
    for tag in Tag::ALL {
        let header = |len: usize| {
            let mut bytes = [0; 8];
            bytes[..2].copy_from_slice(&tag.number().to_le_bytes());
            bytes[4..].copy_from_slice(&u32::try_from(len).unwrap().to_le_bytes());
            MessageHeader::decode(&bytes)
        };
        let (min, max) = tag.body_bytes().into_inner();
        assert!(header(min).is_ok() && header(max).is_ok());
        assert!(max <= FRAME_BYTES && header(max + 1).is_err() && header(u32::MAX as usize).is_err());
        assert!(min == 0 || header(min - 1).is_err());
    }
    // Unknown and reserved tags, and the reserved half of the header.
    for bytes in [[0; 8], [0x49, 0, 0, 0, 0, 0, 0, 0], [0x50, 0, 0, 0, 0, 0, 0, 0], [0x16, 0, 1, 0, 0, 0, 0, 0]] {
        assert!(MessageHeader::decode(&bytes).is_err());
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    let check = |tag: Tag, body: &[u8]| {
        assert!(Message::decode(tag, Bytes::copy_from_slice(body)).is_err(), "{tag:?} {body:?}");
    };
    let with_name = |name: &str| {
        let mut body = [1; 16].to_vec();
        body.extend(u16::try_from(name.len()).unwrap().to_le_bytes());
        body.extend(name.as_bytes());
        body
    };
    assert!(Message::decode(Tag::OpenGroup, with_name("a.b-c_9").into()).is_ok());
    for name in ["..", ".a", "A", "a/b", "a b", "ä", "-a", "a\0"] {
        check(Tag::OpenGroup, &with_name(name));
    }
    check(Tag::OpenGroup, &[&[0; 16][..], &[1, 0, b'a']].concat());
    check(Tag::Durable, &[0; 64]);
    check(Tag::BaseDurable, &[0; 40]);
    check(Tag::MarkDone, &[0; 16]);
    check(Tag::MarkFailed, &[0; 12]);
    check(Tag::MarkFailed, &[&[0; 8][..], &[1, 1], &[0; 2]].concat());
    check(Tag::OpenCompare, &[&[1; 16][..], &[0; 8]].concat());
    check(Tag::CompareRange, &[0; 16]);
    check(Tag::CompareRange, &[&[0; 4][..], &1025u32.to_le_bytes(), &[0; 8]].concat());
    check(Tag::CompareRange, &[&[0; 4][..], &1u32.to_le_bytes(), &u64::MAX.to_le_bytes()].concat());
    let pages =
        |blocks: &[u64]| blocks.iter().fold(vec![0; 8], |body, block| [&body[..], &block.to_le_bytes()].concat());
    for blocks in [&[][..], &[2, 1], &[1, 1], &[1 << 47], &[0; 129]] {
        check(Tag::ComparePages, &pages(blocks));
    }
    check(Tag::ComparePages, &[&pages(&[1])[..], &[0; 4]].concat());
    check(Tag::OpenChanged, &[&[1; 16][..], &[0; 16]].concat());
    let pages = |next: u32, runs: &[(u32, u32)]| {
        let mut body = [&[0; 8][..], &next.to_le_bytes(), &[0; 4]].concat();
        runs.iter().for_each(|(first, count)| body.extend([first.to_le_bytes(), count.to_le_bytes()].concat()));
        body
    };
    assert!(Message::decode(Tag::ChangedExtents, pages(9, &[(0, 2), (3, 6)]).into()).is_ok());
    for runs in [&[(3, 0)][..], &[(3, 2), (5, 1)], &[(5, 1), (3, 1)], &[(5, 1), (5, 1)], &[(u32::MAX, 1)]] {
        check(Tag::ChangedExtents, &pages(0, runs));
    }
    check(Tag::ChangedExtents, &pages(8, &[(0, 9)]));
    let blocks = |length: u32, offset: u64, data: &[u8]| {
        [&[0; 4][..], &length.to_le_bytes(), &offset.to_le_bytes(), &[7; 32], data].concat()
    };
    assert!(Message::decode(Tag::RollbackBlocks, blocks(512, 4096, &[0; 512]).into()).is_ok());
    for (length, offset, data) in [(0, 0, 0), (512, 1, 512), (500, 0, 500), (512, 0, 1024), (1024, 0, 512)] {
        check(Tag::RollbackBlocks, &blocks(length, offset, &vec![0; data]));
    }
    let mut zeroes = blocks(ROLLBACK_ZERO_BYTES, 0, &[]);
    zeroes[16..48].fill(0);
    assert!(Message::decode(Tag::RollbackBlocks, zeroes.clone().into()).is_ok());
    zeroes[4..8].copy_from_slice(&(ROLLBACK_ZERO_BYTES + 512).to_le_bytes());
    check(Tag::RollbackBlocks, &zeroes);
    check(Tag::RollbackBlocks, &blocks(512, u64::MAX - 511, &[0; 512]));
    // Zeroes with a hash, data without one.
    check(Tag::RollbackBlocks, &blocks(512, 0, &[]));
    let opening = |flags: u32, name: &[u8]| {
        let (flags, length) = (flags.to_le_bytes(), u16::try_from(name.len()).unwrap().to_le_bytes());
        [&[1; 24][..], &flags, &[0; 12], &length, name].concat()
    };
    assert!(Message::decode(Tag::OpenRollback, opening(2, b"m").into()).is_ok());
    assert!(Message::decode(Tag::OpenRollback, opening(4, b"").into()).is_ok());
    for (flags, name) in [(8, &b"m"[..]), (0, b""), (4, b"m"), (1, b"m"), (0, b"\x1b")] {
        check(Tag::OpenRollback, &opening(flags, name));
    }
    let mut half = [0; 64];
    half[63] = 1; // a chain head without a Seq
    check(Tag::Opened, &half);
    check(Tag::BaseOpened, &half[24..]);
    let empty = Report { volumes: vec![], why: String::new(), ..report() };
    let mut volumes = Message::Report { group: GroupId([1; 16]), report: empty }.encode();
    volumes[8 + 136..8 + 138].copy_from_slice(&u16::try_from(GROUP_VOLUMES + 1).unwrap().to_le_bytes());
    check(Tag::Report, &volumes[8..]);
}

#[test]
fn texts_for_people_are_cut_and_may_not_move_the_cursor() {
    let long = "ä".repeat(400);
    let message = Message::Refused(Refusal::new(RefusalCode::Busy, long.clone()));
    let Ok(Message::Refused(refusal)) = decode(&message.encode()) else { panic!("refused") };
    assert_eq!(refusal.text, long[..512]);
    let escape = Message::MarkFailed { request: 1, reason: NoMark::Other, text: "\x1b[2J".into() };
    assert!(decode(&escape.encode()).is_err());
}

#[test]
fn golden_bytes() {
    let mut expect = vec![0x01, 0, 0, 0, 39, 0, 0, 0]; // tag, reserved, length
    expect.extend([1, 0, 2, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 13, 0]);
    expect.extend(b"backspool/0.1");
    assert_eq!(Message::Hello(hello()).encode(), expect);

    let mut expect = b"BSPLJOIN\x01\0\0\0\0\0\0\0".to_vec();
    expect.extend([5; 16]);
    expect.resize(256, 0);
    assert_eq!(JoinRequest { secret: JoinSecret([5; 16]) }.encode().to_vec(), expect);

    let mut expect = b"BSPLJRPL\x01\0\0\0\x04\0\0\0db-1".to_vec();
    expect.resize(256, 0);
    assert_eq!(JoinReply(JoinOutcome::Joined("db-1".into())).encode().to_vec(), expect);

    // All messages at once: whoever changes a layout changes the protocol's version and this line.
    let all: Vec<u8> = messages().iter().flat_map(Message::encode).collect();
    assert_eq!(Hash::of(&all).to_string(), "cd8b923f9b8c2cfdb4323512490c49271a13d14503eaa1b57ef0cb8db0661177");
}

#[test]
fn the_document_has_the_same_numbers() {
    let document = include_str!("../../../docs/PROTOCOL.md");
    for tag in Tag::ALL {
        let body = match tag.body_bytes().into_inner() {
            (min, FRAME_BYTES) => format!("{min}..=`FRAME_BYTES`"),
            (min, max) if min == max => max.to_string(),
            (min, max) => format!("{min}..={max}"),
        };
        let line = format!("\n| {:#06x} | {tag:?} | {body} |", tag.number());
        assert!(document.contains(&line), "not in PROTOCOL.md: {line}");
    }
    assert_eq!(document.matches("\n| 0x").count(), Tag::ALL.len() + 2);
    let codes = document.split_once("| code | refusal |").and_then(|(_, rest)| rest.split_once("\n\n")).unwrap().0;
    assert_eq!(codes.matches("\n| ").count(), RefusalCode::ALL.len());
}

#[test]
fn join_messages_come_back_and_no_byte_of_them_is_ignored() {
    let request = JoinRequest { secret: JoinSecret([5; 16]) };
    assert_eq!(JoinRequest::decode(&request.encode()), Ok(request));
    assert!(!format!("{request:?}").contains('5'));
    let outcomes = [
        JoinOutcome::Joined("a".repeat(64)),
        JoinOutcome::Unknown,
        JoinOutcome::Expired,
        JoinOutcome::Used,
        JoinOutcome::Version,
        JoinOutcome::Internal,
        JoinOutcome::OtherName,
    ];
    for reply in outcomes.map(JoinReply) {
        let good = reply.encode();
        assert_eq!(JoinReply::decode(&good), Ok(reply.clone()));
        for bit in 0..256 * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(JoinReply::decode(&bad), Ok(reply.clone()), "bit {bit}");
        }
    }
    let good = request.encode();
    for bit in 0..256 * 8 {
        let mut bad = good;
        bad[bit / 8] ^= 1 << (bit % 8);
        assert_ne!(JoinRequest::decode(&bad), Ok(request), "bit {bit}");
    }
    let mut newer = good;
    newer[8] = 2;
    assert_eq!(JoinRequest::decode(&newer), Err(JoinRefused::Version));
}

#[test]
fn versions_and_features_are_agreed_or_refused() {
    let offer = |version_min, version_max, required, optional| Offer { version_min, version_max, required, optional };
    let check = |theirs: Offer, ours: Offer, expect: Result<(u16, u64), RefusalCode>| {
        let hello = Hello { offer: theirs, software: String::new() };
        let got = hello.answer(&ours);
        assert_eq!(got.clone().map(|a| (a.version, a.features)).map_err(|refusal| refusal.code), expect);
        if let Ok(agreed) = got {
            let welcome = Welcome { agreed, session: SessionId(1), receiver: ReceiverId(Pin([0; 32])) };
            assert_eq!(welcome.check(&hello), Ok(agreed));
        }
    };
    check(Offer::OURS, Offer::OURS, Ok((1, FEATURES)));
    check(offer(1, 1, 0, 0), Offer::OURS, Ok((1, 0)));
    check(offer(1, 1, 1, 0), Offer::OURS, Ok((1, 1)));
    check(offer(1, 3, 0, 0), offer(2, 5, 0, 0), Ok((3, 0)));
    check(offer(1, 1, 0, 0), offer(2, 3, 0, 0), Err(RefusalCode::Version));
    check(offer(4, 5, 0, 0), offer(2, 3, 0, 0), Err(RefusalCode::Version));
    check(offer(1, 1, 8, 0), Offer::OURS, Err(RefusalCode::Feature));
    check(offer(1, 1, 1, 6), offer(1, 1, 2, 1), Ok((1, 3)));
    check(offer(1, 1, 0, 5), offer(1, 1, 2, 4), Err(RefusalCode::Feature));
    check(offer(1, 1, 0, u64::MAX), Offer::OURS, Ok((1, FEATURES)));
}

#[test]
fn an_agent_does_not_take_what_it_did_not_offer() {
    let welcome = |version, features| Welcome {
        agreed: Agreed { version, features },
        session: SessionId(1),
        receiver: ReceiverId(Pin([0; 32])),
    };
    let check = |version, features| welcome(version, features).check(&hello()).map_err(|refusal| refusal.code);
    assert!(check(2, 4).is_ok() && check(1, 12).is_ok());
    assert_eq!(check(3, 4), Err(RefusalCode::Version));
    assert_eq!(check(1, 0), Err(RefusalCode::Feature));
    assert_eq!(check(1, 4 | 16), Err(RefusalCode::Feature));
}

#[test]
fn refusals_keep_their_numbers_and_say_what_to_do() {
    let numbers: Vec<u16> = RefusalCode::ALL.iter().map(|code| code.number()).collect();
    assert_eq!(numbers, (1..=15).collect::<Vec<_>>());
    assert!(RefusalCode::ALL.iter().all(|code| RefusalCode::from_number(code.number().into()) == *code));
    assert_eq!(RefusalCode::from_number(999), RefusalCode::Internal);
    let error = crate::error::Error::from(Refusal::new(RefusalCode::Sibling, "at 7"));
    assert_eq!(error.kind(), ErrorKind::Fenced);
    assert_eq!(error.to_string(), "refused: another history has taken this place: at 7");
}

#[test]
fn pins_are_read_as_they_are_written() {
    let pin = Pin::of_spki(b"key");
    assert_eq!(Pin::parse(&pin.to_string()), Some(pin));
    let text = pin.to_string();
    for bad in [&text[1..], &format!("{text}0"), &text.replace(&text[..1], "g"), "", &"ä".repeat(32)] {
        assert_eq!(Pin::parse(bad), None, "{bad}");
    }
}
