//! What the catalog remembers.

use journal::types::{GroupId, WallTime};
use serde::{Deserialize, Serialize};

use super::name::Name;
use crate::checked::Format;
use crate::error::Result;
use crate::retention::Wanted;

const FORMAT: Format = Format { name: "backspool-catalog", version: 1 };
/// More than ten thousand groups; a longer file is not ours.
pub(super) const CATALOG_BYTES: u64 = 16 * 1024 * 1024;

/// All of it. Small: it is written as a whole whenever something changes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Contents {
    pub(crate) agents: Vec<Agent>,
    pub(crate) invitations: Vec<Invited>,
    pub(crate) groups: Vec<GroupEntry>,
}

/// An agent that has joined.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Agent {
    /// What the operator called it.
    pub name: Name,
    /// Its key.
    #[serde(with = "hex32")]
    pub pin: [u8; 32],
}

/// An invitation that was given out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Invited {
    /// For whom.
    pub agent: Name,
    /// The secret itself is not kept.
    #[serde(with = "hex32")]
    pub secret_hash: [u8; 32],
    /// Until when it may be used for the first time.
    #[serde(with = "micros")]
    pub expires: WallTime,
    /// The first key that used it; only that one may use it again.
    #[serde(with = "hex32::optional")]
    pub bound: Option<[u8; 32]>,
}

/// A group and whom it belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupEntry {
    /// Its identity, which also names its directory.
    #[serde(with = "group_id")]
    pub id: GroupId,
    /// What people call it.
    pub name: Name,
    /// The first agent that protected it.
    pub agent: Name,
    /// How long what is kept, where that was said for this group.
    #[serde(default, skip_serializing_if = "Wanted::is_empty")]
    pub retention: Wanted,
}

impl Contents {
    /// Its file.
    pub(super) fn encode(&self) -> Vec<u8> {
        FORMAT.encode(self)
    }

    /// From its file.
    pub(super) fn decode(file: &[u8]) -> Result<Self> {
        FORMAT.decode(file)
    }
}

mod hex32 {
    use journal::types::Hash;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8; 32], to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&Hash(*bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<[u8; 32], D::Error> {
        let text = String::deserialize(from)?;
        super::parse_hex(&text).ok_or_else(|| D::Error::custom("not 64 hexadecimal digits"))
    }

    pub(super) mod optional {
        use super::{Deserialize, Deserializer, Error, Hash, Serializer};

        pub(in super::super) fn serialize<S: Serializer>(bytes: &Option<[u8; 32]>, to: S) -> Result<S::Ok, S::Error> {
            match bytes {
                Some(bytes) => to.collect_str(&Hash(*bytes)),
                None => to.serialize_none(),
            }
        }

        pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<[u8; 32]>, D::Error> {
            let text = Option::<String>::deserialize(from)?;
            let parse = |text: String| super::super::parse_hex(&text).ok_or_else(|| D::Error::custom("not a hash"));
            text.map(parse).transpose()
        }
    }
}

mod micros {
    use journal::types::WallTime;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(time: &WallTime, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(time.0)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<WallTime, D::Error> {
        u64::deserialize(from).map(WallTime)
    }
}

mod group_id {
    use journal::types::GroupId;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(id: &GroupId, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(id)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<GroupId, D::Error> {
        GroupId::parse(&String::deserialize(from)?).ok_or_else(|| D::Error::custom("not a group's identity"))
    }
}

fn parse_hex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    let plain = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    for (at, byte) in bytes.iter_mut().enumerate().filter(|_| plain) {
        *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    plain.then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    fn sample() -> Contents {
        let name = |text| Name::parse(text).unwrap();
        Contents {
            agents: vec![Agent { name: name("web"), pin: [1; 32] }],
            invitations: vec![Invited {
                agent: name("db"),
                secret_hash: [0xab; 32],
                expires: WallTime(5),
                bound: Some([2; 32]),
            }],
            groups: vec![GroupEntry {
                id: GroupId([9; 16]),
                name: name("g"),
                agent: name("web"),
                retention: Wanted { hourly_seconds: Some(5), ..Wanted::default() },
            }],
        }
    }

    #[test]
    fn what_is_written_is_read_and_any_flipped_bit_is_found() {
        let file = sample().encode();
        assert_eq!(Contents::decode(&file).unwrap(), sample());
        for at in 0..file.len() {
            let mut bad = file.clone();
            bad[at] ^= 1;
            assert!(Contents::decode(&bad).is_err(), "byte {at}: {:?}", char::from(file[at]));
            assert!(Contents::decode(&file[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn a_newer_one_is_refused_as_that() {
        let file = String::from_utf8(sample().encode()).unwrap().replace("\"version\":1", "\"version\":2");
        assert_eq!(Contents::decode(file.as_bytes()).unwrap_err().code(), Code::NEWER);
    }
}
