//! Round trips, and every single flipped bit refused.
#![expect(clippy::indexing_slicing, reason = "tests")]

use super::*;
use crate::types::*;

fn header() -> FrameHeader {
    FrameHeader {
        kind: FrameKind::Live { first: Seq::new(7).unwrap() },
        group: GroupId([1; 16]),
        epoch: EpochId([2; 16]),
        number: FrameNo::new(3).unwrap(),
        records: 2,
        units: 1,
        crcs: 2,
        notes_bytes: 5,
        payload_bytes: 8192,
        durable: Seq::new(6),
        wall: WallTime(10),
        boottime: WallTime(9),
        boot: BootId([4; 16]),
        tables_hash: Hash([5; 32]),
        payload_hash: Hash([6; 32]),
        prev: ChainHead(Hash([7; 32])),
    }
}

#[track_caller]
fn check_flips<const N: usize, T: PartialEq + std::fmt::Debug>(
    value: T,
    bytes: [u8; N],
    decode: impl Fn(&[u8; N]) -> Result<T, Malformed>,
) {
    assert_eq!(decode(&bytes), Ok(value));
    for bit in 0..N * 8 {
        let mut flipped = bytes;
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(decode(&flipped).is_err(), "bit {bit} flipped and not noticed");
    }
}

#[test]
fn frame_headers_come_back_and_no_flip_passes() {
    check_flips(header(), header().encode(), FrameHeader::decode);
    let base = FrameHeader { kind: FrameKind::Base { resync: ResyncId([8; 16]), as_of: None }, ..header() };
    check_flips(base, base.encode(), FrameHeader::decode);
}

#[test]
fn envelopes_come_back_and_no_flip_passes() {
    let envelope = Envelope {
        salt: Salt([1; 16]),
        offset: 4096,
        frame_bytes: 300,
        session: SessionId(3),
        received: WallTime(5),
        durable: 9,
    };
    check_flips(envelope, envelope.encode().try_into().unwrap(), Envelope::decode);
}

#[test]
fn segment_headers_come_back_and_no_flip_passes() {
    for kind in [SegmentKind::Live { first: Seq::FIRST }, SegmentKind::Base { resync: ResyncId([3; 16]) }] {
        let header = SegmentHeader {
            group: GroupId([1; 16]),
            epoch: EpochId([2; 16]),
            salt: Salt([3; 16]),
            number: SegmentNo(4),
            kind,
            chain_in: ChainHead(Hash([5; 32])),
            first_frame: FrameNo::FIRST,
            created: WallTime(6),
            replaces: None,
        };
        check_flips(header, header.encode().try_into().unwrap(), SegmentHeader::decode);
        let end = Seq::new(9).filter(|_| matches!(kind, SegmentKind::Live { .. }));
        let (last_frame, chain_out) = (FrameNo::new(7).unwrap(), ChainHead(Hash([8; 32])));
        let replaces = Some(Replaces { place: SegmentNo(2), end, chain_out, last_frame });
        let header = SegmentHeader { replaces, ..header };
        check_flips(header, header.encode().try_into().unwrap(), SegmentHeader::decode);
        assert_eq!(header.place(), SegmentNo(2));
    }
}

#[test]
fn manifest_lines_come_back_and_no_flip_passes() {
    let entries = [
        ManifestEntry::Header { salt: Salt([1; 16]) },
        ManifestEntry::Created(SegmentCreated {
            number: SegmentNo(2),
            salt: Salt([3; 16]),
            resync: None,
            first: Seq::new(4),
            place: SegmentNo(2),
        }),
        ManifestEntry::Sealed(SegmentSealed {
            number: SegmentNo(2),
            file_bytes: 5,
            end: Seq::new(6),
            head: ChainHead(Hash([7; 32])),
            last_frame: FrameNo::new(8).unwrap(),
            times: (WallTime(9), WallTime(10)),
        }),
        ManifestEntry::Dropped(SegmentNo(11)),
        ManifestEntry::Stopped(Stopped { seq: None, head: ChainHead::START, wall: WallTime(12) }),
        ManifestEntry::Replaced(Replaced {
            created: SegmentCreated {
                number: SegmentNo(13),
                salt: Salt([3; 16]),
                resync: ResyncId::new([14; 16]),
                first: None,
                place: SegmentNo(2),
            },
            sealed: SegmentSealed {
                number: SegmentNo(13),
                file_bytes: 5,
                end: None,
                head: ChainHead(Hash([7; 32])),
                last_frame: FrameNo::new(8).unwrap(),
                times: (WallTime(9), WallTime(10)),
            },
            numbers: std::array::from_fn(|i| SegmentNo(if i < 3 { 2 + i as u64 } else { 0 })),
        }),
        ManifestEntry::Thinned(Thinned { list: SegmentNo(15), upto: Seq::FIRST }),
    ];
    for (number, entry) in (0..).zip(entries) {
        let line = ManifestLine { number, group: GroupId([9; 16]), entry };
        check_flips(line, line.encode().try_into().unwrap(), ManifestLine::decode);
    }
}

#[test]
fn lists_of_points_come_back_and_no_flip_passes() {
    let header = PointsHeader {
        group: GroupId([1; 16]),
        number: SegmentNo(2),
        upto: Seq::new(3).unwrap(),
        upto_time: WallTime(4),
        count: 5,
        crc: 6,
    };
    check_flips(header, header.encode().try_into().unwrap(), PointsHeader::decode);
    let many = PointsHeader { count: crate::limits::KEPT_POINTS + 1, ..header };
    assert!(PointsHeader::decode(&many.encode().try_into().unwrap()).is_err());
    let point = KeptPoint { seq: Seq::new(7).unwrap(), time: WallTime(8), class: PointClass::Quiet };
    let mut w = Writer::default();
    point.encode(&mut w);
    let bytes = w.finish();
    assert_eq!((bytes.len(), KeptPoint::decode(&mut Reader::new(&bytes))), (KEPT_POINT_BYTES, Ok(point)));
}

#[test]
fn trailers_come_back_and_no_flip_passes() {
    let trailer = Trailer {
        salt: Salt([1; 16]),
        footer_at: 8192,
        sections: [(56, 1), (8, 2), (40, 3), (77, 4)].map(|(bytes, crc)| Section { bytes, crc }),
        end: Seq::new(5),
        head: ChainHead(Hash([6; 32])),
        last_frame: FrameNo::FIRST,
    };
    check_flips(trailer, trailer.encode().try_into().unwrap(), Trailer::decode);
}

fn bodies() -> Vec<Body> {
    let volume = VolumeNo(3);
    let extent = Extent::new(Sector::new(8).unwrap(), Sectors::new(16).unwrap()).unwrap();
    let size = Sectors::new(1_000_003).unwrap();
    let target = Seq::new(42).unwrap();
    vec![
        Body::Write { volume, extent, place: UnitPlace { unit: 0, offset: 512 } },
        Body::Pattern { volume, extent, fill: [1, 2, 3, 4, 5, 6, 7, 8] },
        Body::Discard { volume, extent },
        Body::Flush,
        Body::Mark(Mark { locked_until: Some(WallTime(5)), name: "vor dem Umbau".into() }),
        Body::Point(PointClass::Frozen),
        Body::Gap(Gap { reason: GapReason::SpoolFull, text: "no room".into() }),
        Body::Resize { volume, size },
        Body::VolumeAdd { volume, size, add: VolumeAdd { uuid: VolumeUuid([5; 16]), name: "db".into() } },
        Body::VolumeRemove { volume },
        Body::Sealed(Sealed { resync: ResyncId([4; 16]), head: ChainHead::START, frames: 0 }),
        Body::RollbackBegin { target },
        Body::RollbackSealed { target },
        Body::Clock(ClockKind::Report),
        Body::Clock(ClockKind::Step),
        Body::EpochBegin(EpochBegin::FIRST),
        Body::Ignored,
    ]
}

#[test]
fn records_come_back() {
    let (mut w, mut notes) = (Writer::default(), Vec::new());
    let records: Vec<Record> = (0..).zip(bodies()).map(|(i, body)| Record { time: WallTime(i), body }).collect();
    for record in &records {
        record.encode(&mut w, &mut notes);
    }
    let bytes = w.finish();
    assert_eq!(bytes.len(), records.len() * RECORD_BYTES);
    let mut r = Reader::new(&bytes);
    for record in &records {
        assert_eq!(Record::decode(&mut r, &notes).as_ref(), Ok(record));
    }
}

#[test]
fn reserved_fields_and_impossible_records_are_refused() {
    // (offset in the record, value): each turns a good write into one that must not pass.
    for (at, value) in [(2, 1), (32, 0), (36, 1), (40, 1), (16, 129), (0, 14), (0, 99)] {
        let (mut w, mut notes) = (Writer::default(), Vec::new());
        Record { time: WallTime(1), body: bodies().swap_remove(0) }.encode(&mut w, &mut notes);
        let mut bytes = w.finish();
        bytes[at] = value;
        assert!(Record::decode(&mut Reader::new(&bytes), &[]).is_err(), "byte {at} = {value}");
    }
}

#[test]
fn units_hold_what_their_codec_can() {
    let check = |stored, decoded, codec: u8, crcs, good: bool| {
        let mut w = Writer::default();
        w.u32(0).u32(stored).u32(decoded).u8(codec).u8(0).u16(crcs);
        assert_eq!(UnitEntry::decode(&mut Reader::new(&w.finish())).is_ok(), good, "{stored} {decoded} {codec} {crcs}");
    };
    check(4096, 4096, 0, 1, true);
    check(4608, 4608, 0, 2, true);
    check(4096, 4096, 0, 2, false);
    check(100, 4096, 1, 1, true);
    check(4096, 4096, 1, 1, false); // LZ4 that saves nothing
    check(0, 4096, 1, 1, false);
    check(100, 65536 + 512, 1, 1, false); // a bomb
    check(100, 100, 0, 1, false);
    check(100, 4096, 2, 1, false);
}
