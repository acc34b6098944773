//! An invitation as the one string that a person carries from the receiver to the agent.
//!
//! `bsp1-` and then base32 (a-z, 2-7) of: pin (32), secret (16), expiry in µs since 1970 (8), length of the address (1), the
//! address, and the first 4 bytes of the BLAKE3 of all that: a string that lost a letter on its way is told apart from one
//! that a receiver does not know.

use std::fmt;
use std::str::FromStr;

use journal::codec::{Malformed, Reader, Writer};
use journal::error::{Error, Result};
use journal::types::{Hash, WallTime};
use journal::wire::{JoinSecret, Pin, ReceiverId};

const PREFIX: &str = "bsp1-";
/// Any later version.
const FAMILY: &str = "bsp";
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
/// Longer than any, also one broken over many lines.
const TEXT_BYTES: usize = 2048;
/// A host name has at most 253 characters.
const ADDRESS_BYTES: usize = 255;

/// All that an agent needs to find a receiver, to trust it, and to be let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invitation {
    /// `HOST:PORT`, as the agent's machine can reach it.
    pub address: String,
    /// The receiver.
    pub receiver: ReceiverId,
    /// What lets the agent in, once.
    pub secret: JoinSecret,
    /// Until when.
    pub expires: WallTime,
}

impl Invitation {
    /// Checked: an address that has a host and a port, and is not too long.
    pub fn new(address: &str, receiver: ReceiverId, secret: JoinSecret, expires: WallTime) -> Result<Self> {
        check_address(address).map_err(|reason| Error::invalid(format!("{address:?}: {reason}")))?;
        Ok(Self { address: address.to_owned(), receiver, secret, expires })
    }

    fn decode(bytes: &[u8]) -> std::result::Result<Self, Malformed> {
        let mut r = Reader::new(bytes);
        let receiver = ReceiverId(Pin(r.array()?));
        let secret = JoinSecret(r.array()?);
        let expires = WallTime(r.u64()?);
        let len = usize::from(r.u8()?);
        let address = std::str::from_utf8(r.bytes(len)?).map_err(|_| Malformed("its address is not UTF-8"))?;
        check_address(address)?;
        r.end()?;
        Ok(Self { address: address.to_owned(), receiver, secret, expires })
    }
}

fn check_address(address: &str) -> std::result::Result<(), Malformed> {
    let (host, port) = address.rsplit_once(':').ok_or(Malformed("an address is HOST:PORT"))?;
    let plain = |c: char| c.is_ascii_graphic();
    match !host.is_empty() && address.chars().all(plain) && address.len() <= ADDRESS_BYTES {
        true => port.parse::<u16>().ok().filter(|&port| port != 0).map(drop).ok_or(Malformed("not a port")),
        false => Err(Malformed("not a host")),
    }
}

impl fmt::Display for Invitation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut w = Writer::default();
        w.put(&self.receiver.0.0).put(&self.secret.0).u64(self.expires.0);
        w.u8(u8::try_from(self.address.len()).unwrap_or(u8::MAX)).put(self.address.as_bytes());
        let mut bytes = w.finish();
        bytes.extend(checksum(&bytes));
        write!(f, "{PREFIX}{}", to_base32(&bytes))
    }
}

impl FromStr for Invitation {
    type Err = Error;

    /// Spaces, line breaks and capitals do not matter.
    fn from_str(text: &str) -> Result<Self> {
        let garbled = |what: &str| Error::invalid(format!("the invitation is garbled ({what}): copy it again, whole"));
        if text.len() > TEXT_BYTES {
            return Err(garbled("it is too long"));
        }
        let text: String = text.chars().filter(|c| !c.is_whitespace()).map(|c| c.to_ascii_lowercase()).collect();
        let Some(digits) = text.strip_prefix(PREFIX) else {
            return Err(match text.strip_prefix(FAMILY) {
                Some(rest) if rest.starts_with(|c: char| c.is_ascii_digit()) => {
                    Error::unsupported("the invitation is of a newer version: update this agent")
                }
                _ => Error::invalid(format!("this is not an invitation: one starts with {PREFIX}")),
            });
        };
        let bytes = from_base32(digits).ok_or_else(|| garbled("a character that is not a-z or 2-7"))?;
        let (body, sum) = bytes.split_last_chunk().ok_or_else(|| garbled("it is too short"))?;
        if *sum != checksum(body) {
            return Err(garbled("its checksum does not match"));
        }
        Self::decode(body).map_err(|reason| Error::invalid(format!("the invitation makes no sense: {reason}")))
    }
}

fn checksum(bytes: &[u8]) -> [u8; 4] {
    let [a, b, c, d, ..] = Hash::of(bytes).0;
    [a, b, c, d]
}

/// The base32 of RFC 4648 in small letters, without padding.
fn to_base32(bytes: &[u8]) -> String {
    let bit = |at: usize| bytes.get(at / 8).map_or(0, |byte| usize::from(byte >> (7 - at % 8) & 1));
    let digit = |at: usize| (at..at + 5).fold(0, |value, at| 2 * value + bit(at));
    (0..bytes.len() * 8).step_by(5).map(|at| char::from(ALPHABET[digit(at)])).collect()
}

/// `None`: a character that is none of ours, or bits left over that are not zero.
fn from_base32(digits: &str) -> Option<Vec<u8>> {
    let (mut bytes, mut value, mut bits) = (Vec::new(), 0u32, 0);
    for digit in digits.bytes() {
        let digit = ALPHABET.iter().position(|&known| known == digit)?;
        value = value << 5 | u32::try_from(digit).ok()?;
        bits += 5;
        if bits >= 8 {
            bits -= 8;
            bytes.push(u8::try_from(value >> bits).ok()?);
            value &= (1 << bits) - 1;
        }
    }
    (value == 0 && bits < 5).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use journal::error::ErrorKind;

    fn invitation() -> Invitation {
        let receiver = ReceiverId(Pin(std::array::from_fn(|i| u8::try_from(i * 7).unwrap())));
        Invitation::new("backup.example:7440", receiver, JoinSecret([9; 16]), WallTime(1_763_630_000_000_000)).unwrap()
    }

    #[test]
    fn it_comes_back_however_it_was_wrapped() {
        let text = invitation().to_string();
        assert_eq!(text.parse::<Invitation>().unwrap(), invitation());
        let wrapped: String = text
            .to_uppercase()
            .chars()
            .enumerate()
            .flat_map(|(i, c)| [Some(c), (i % 20 == 19).then_some('\n')])
            .flatten()
            .collect();
        assert_eq!(format!(" {wrapped}\n").parse::<Invitation>().unwrap(), invitation());
        assert!(!format!("{:?}", invitation()).contains("9, 9"));
    }

    #[test]
    fn its_letters_are_pinned() {
        let expect = "bsp1-aadq4fi4emvdcob7izgviw3cnfyho7ufrsjzviniv63l3rgl2lmqscijbeeqscijbeeqscijbeeqsacmvinqgragaajweyldnn2xaltfpbqw\
                      24dmmu5donbugd2lmi2e";
        assert_eq!(invitation().to_string(), expect);
    }

    #[test]
    fn every_wrong_letter_is_noticed() {
        let text = invitation().to_string();
        for at in PREFIX.len()..text.len() {
            for letter in ["a", "7", "1", "ä"] {
                let mut bad = text.clone();
                bad.replace_range(at..=at, letter);
                assert!(bad == text || bad.parse::<Invitation>().unwrap_err().kind() == ErrorKind::Invalid, "{bad}");
            }
            assert!(text[..at].parse::<Invitation>().is_err());
            let swapped = [&text[..at], &text[at + 1..]].concat();
            assert!(swapped.parse::<Invitation>().is_err(), "{swapped}");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let check = |text: &str, expect: &str| {
            let error = text.parse::<Invitation>().unwrap_err().to_string();
            assert!(error.contains(expect), "{error}");
        };
        check("hello", "not an invitation");
        check("", "not an invitation");
        check("bsp2-aaaa", "newer version");
        check("bsp1-", "too short");
        check("bsp1-a1", "not a-z or 2-7");
        check(&invitation().to_string().replace('a', "b"), "checksum");
        check(&"bsp1-".repeat(1000), "too long");
    }

    #[test]
    fn an_address_has_a_host_and_a_port() {
        let check = |address: &str, good: bool| {
            let made = Invitation::new(address, invitation().receiver, JoinSecret([1; 16]), WallTime(1));
            assert_eq!(made.is_ok(), good, "{address}");
        };
        check("h:1", true);
        check("[::1]:7440", true);
        check("10.0.0.1:7440", true);
        for bad in ["h", ":1", "h:", "h:0", "h:99999", "h h:1", "h\n:1", &format!("{}:1", "h".repeat(300))] {
            check(bad, false);
        }
    }
}
