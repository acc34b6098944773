//! The first words: which version and which features both sides speak. Decided before anything is written anywhere.

use super::fields::{put_text, text};
use super::ident::{Pin, ReceiverId};
use super::refusal::{Refusal, RefusalCode};
use crate::codec::{Malformed, Reader, Writer};
use crate::types::SessionId;

/// The version of the protocol that this program speaks.
pub const VERSION: u16 = 1;
/// A receiver can be asked which extents its journal changed: [`OpenChanged`](super::Message::OpenChanged).
pub const FEATURE_CHANGED: u64 = 1;
/// A receiver that compares can be asked for the hashes of 4 KiB: [`ComparePages`](super::Message::ComparePages).
pub const FEATURE_PAGES: u64 = 2;
/// A receiver may open streams towards the agent, to take its sources back: [`OpenRollback`](super::Message::OpenRollback).
pub const FEATURE_ROLLBACK: u64 = 4;
/// The features that it knows.
pub const FEATURES: u64 = FEATURE_CHANGED | FEATURE_PAGES | FEATURE_ROLLBACK;
/// Bytes of a software's name and version.
pub const SOFTWARE_BYTES: usize = 64;
pub(super) const HELLO_BYTES: usize = 26;
pub(super) const WELCOME_BYTES: usize = 56;

/// What an agent begins with. Its layout is the same in every version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// What it speaks and asks for.
    pub offer: Offer,
    /// Its name and version, for the log.
    pub software: String,
}

/// What one side speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Oldest version.
    pub version_min: u16,
    /// Newest version.
    pub version_max: u16,
    /// Features without which it does not go on.
    pub required: u64,
    /// Features it would use.
    pub optional: u64,
}

impl Offer {
    /// What this program speaks.
    pub const OURS: Self = Self { version_min: VERSION, version_max: VERSION, required: 0, optional: FEATURES };

    fn features(&self) -> u64 {
        self.required | self.optional
    }
}

/// What a receiver answers. Its layout is the same in every version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// What holds for this session.
    pub agreed: Agreed,
    /// The receiver's number for it.
    pub session: SessionId,
    /// Who it is; the pin of its TLS key.
    pub receiver: ReceiverId,
}

/// What holds for a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// The version both speak.
    pub version: u16,
    /// The features both know.
    pub features: u64,
}

impl Hello {
    /// What the receiver, who speaks `ours`, makes of it: the newest common version and all common features.
    pub fn answer(&self, ours: &Offer) -> Result<Agreed, Refusal> {
        let theirs = &self.offer;
        let version = theirs.version_max.min(ours.version_max);
        if version < theirs.version_min.max(ours.version_min) {
            let older = if theirs.version_max < ours.version_min { "agent" } else { "receiver" };
            let text = format!(
                "the agent speaks versions {} to {}, the receiver {} to {}: update the {older}",
                theirs.version_min, theirs.version_max, ours.version_min, ours.version_max
            );
            return Err(Refusal::new(RefusalCode::Version, text));
        }
        for (asks, missing, older) in [
            ("agent", theirs.required & !ours.features(), "receiver"),
            ("receiver", ours.required & !theirs.features(), "agent"),
        ] {
            if missing != 0 {
                let text = format!(
                    "the {asks} requires features {missing:#x}, which the {older} does not know: update the {older}"
                );
                return Err(Refusal::new(RefusalCode::Feature, text));
            }
        }
        Ok(Agreed { version, features: theirs.features() & ours.features() })
    }

    pub(super) fn encode(&self, w: &mut Writer) {
        let Offer { version_min, version_max, required, optional } = self.offer;
        w.u16(version_min).u16(version_max).u32(0).u64(required).u64(optional);
        put_text(w, &self.software, SOFTWARE_BYTES);
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        let (version_min, version_max) = (r.u16()?, r.u16()?);
        r.reserved(4)?;
        if version_min == 0 || version_min > version_max {
            return Err(Malformed("a range of versions that is none"));
        }
        let offer = Offer { version_min, version_max, required: r.u64()?, optional: r.u64()? };
        Ok(Self { offer, software: text(r, SOFTWARE_BYTES)? })
    }
}

impl Welcome {
    /// Whether the agent, who said `hello`, can go on with it.
    pub fn check(&self, hello: &Hello) -> Result<Agreed, Refusal> {
        let Agreed { version, features } = self.agreed;
        let Offer { version_min, version_max, required, .. } = hello.offer;
        if !(version_min..=version_max).contains(&version) {
            return Err(Refusal::new(RefusalCode::Version, format!("version {version} was not offered")));
        }
        if features & required != required || features & !hello.offer.features() != 0 {
            return Err(Refusal::new(RefusalCode::Feature, format!("features {features:#x} were not asked for")));
        }
        Ok(self.agreed)
    }

    pub(super) fn encode(&self, w: &mut Writer) {
        w.u16(self.agreed.version).zeroes(6).u64(self.agreed.features).u64(self.session.0).put(&self.receiver.0.0);
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        let version = r.u16()?;
        r.reserved(6)?;
        let agreed = Agreed { version, features: r.u64()? };
        Ok(Self { agreed, session: SessionId(r.u64()?), receiver: ReceiverId(Pin(r.array()?)) })
    }
}
