//! Fields that several messages share: texts, names, chain heads, and numbers where 0 stands for "none".

use crate::codec::{Malformed, Reader, Writer};
use crate::limits::NAME_BYTES;
use crate::types::{ChainHead, GroupId, Hash, Seq, WallTime};

/// Bytes of a sentence for people: a refusal's or a report's reason.
pub const TEXT_BYTES: usize = 512;
/// What [`is_name`] asks for, in words.
pub const NAME_RULE: &str = "1 to 64 of a-z, 0-9, '.', '_' and '-', the first a letter or a digit";

/// Whether this can be the name of a group, a volume or an agent.
pub fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let mut bytes = name.bytes();
    name.len() <= NAME_BYTES
        && bytes.next().is_some_and(plain)
        && bytes.all(|byte| plain(byte) || matches!(byte, b'.' | b'_' | b'-'))
}

/// Length (2), then UTF-8. Cut between characters where it is longer than `max_bytes`.
pub(super) fn put_text(w: &mut Writer, text: &str, max_bytes: usize) {
    let text = text.get(..text.floor_char_boundary(max_bytes)).unwrap_or_default();
    w.u16(u16::try_from(text.len()).unwrap_or(0)).put(text.as_bytes());
}

pub(super) fn text(r: &mut Reader<'_>, max_bytes: usize) -> Result<String, Malformed> {
    let len = usize::from(r.u16()?);
    if len > max_bytes {
        return Err(Malformed("a text longer than it may be"));
    }
    let text = std::str::from_utf8(r.bytes(len)?).map_err(|_| Malformed("a text that is not UTF-8"))?;
    match text.chars().any(char::is_control) {
        true => Err(Malformed("a text with control characters")),
        false => Ok(text.to_owned()),
    }
}

pub(super) fn name(r: &mut Reader<'_>) -> Result<String, Malformed> {
    let name = text(r, NAME_BYTES)?;
    if is_name(&name) { Ok(name) } else { Err(Malformed("a name that is none")) }
}

pub(super) fn group(r: &mut Reader<'_>) -> Result<GroupId, Malformed> {
    GroupId::new(r.array()?).ok_or(Malformed("no group"))
}

pub(super) fn seq(r: &mut Reader<'_>) -> Result<Seq, Malformed> {
    Seq::new(r.u64()?).ok_or(Malformed("no place in the order"))
}

pub(super) fn chain(r: &mut Reader<'_>) -> Result<ChainHead, Malformed> {
    Ok(ChainHead(Hash(r.array()?)))
}

pub(super) fn time(r: &mut Reader<'_>) -> Result<Option<WallTime>, Malformed> {
    Ok(Some(r.u64()?).filter(|&time| time != 0).map(WallTime))
}

pub(super) fn put_time(w: &mut Writer, time: Option<WallTime>) {
    w.u64(time.map_or(0, |time| time.0));
}
