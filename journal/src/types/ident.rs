//! Random 128-bit identities. Names are for people; these are what is compared.

use std::fmt;

macro_rules! id128 {
    ($($(#[$doc:meta])+ $name:ident;)+) => {$(
        $(#[$doc])+
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 16]);

        impl $name {
            /// `None` for all zeroes, which stands for "none" on disk.
            pub fn new(bytes: [u8; 16]) -> Option<Self> {
                (bytes != [0; 16]).then_some(Self(bytes))
            }

            /// Parses 32 hexadecimal digits.
            pub fn parse(text: &str) -> Option<Self> {
                super::hash::parse_hex(text).and_then(Self::new)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                super::hash::hex(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
    )+};
}

id128! {
    /// A group of volumes that share one write order.
    GroupId;
    /// One run of an agent on a group.
    EpochId;
    /// One first copy or resync.
    ResyncId;
    /// Random per segment, so that left-over frames never parse.
    Salt;
    /// A volume, whatever its name or path.
    VolumeUuid;
    /// One boot of the agent's machine.
    BootId;
    /// The key a segment is encrypted with.
    KeyId;
}

/// Number of a segment in its group's directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentNo(pub u64);

impl SegmentNo {
    /// The name of its file.
    pub fn file_name(self) -> String {
        format!("{:016x}.seg", self.0)
    }

    /// The name of its list of points, if it is one.
    pub fn points_name(self) -> String {
        format!("{:016x}.points", self.0)
    }

    /// The list of points whose file has this name.
    pub(crate) fn of_points(name: &str) -> Option<Self> {
        let number = u64::from_str_radix(name.strip_suffix(".points")?, 16).ok().map(Self)?;
        (number.points_name() == name).then_some(number)
    }

    /// The segment whose file has this name.
    pub(crate) fn of_file(name: &str) -> Option<Self> {
        let number = u64::from_str_radix(name.strip_suffix(".seg")?, 16).ok().map(Self)?;
        (number.file_name() == name).then_some(number)
    }
}

/// The receiver's number for one connection of an agent; 0: made by the keeper itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);
