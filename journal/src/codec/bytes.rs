//! Little-endian fields, read in order and never beyond the end.

use std::fmt;

/// Why bytes are not what they should be: a short reason in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Malformed {}

impl From<Malformed> for crate::error::Error {
    fn from(reason: Malformed) -> Self {
        Self::corrupt(reason.0)
    }
}

/// Takes fields from the front of a slice.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads from the start of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(Malformed("it ends too early"))?;
        self.rest = rest;
        Ok(*head)
    }

    /// The next byte.
    pub fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    /// The next two bytes.
    pub fn u16(&mut self) -> Result<u16, Malformed> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    /// The next four bytes.
    pub fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// The next eight bytes.
    pub fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// The next `len` bytes as a slice.
    pub fn bytes(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (head, rest) = self.rest.split_at_checked(len).ok_or(Malformed("it ends too early"))?;
        self.rest = rest;
        Ok(head)
    }

    /// All that is left.
    pub fn rest(self) -> &'a [u8] {
        self.rest
    }

    /// The next `len` bytes, which must be zero: nobody has given them a meaning yet.
    pub fn reserved(&mut self, len: usize) -> Result<(), Malformed> {
        match self.bytes(len)?.iter().all(|&byte| byte == 0) {
            true => Ok(()),
            false => Err(Malformed("reserved bytes are not zero: made by a newer version?")),
        }
    }

    /// Expects these bytes.
    pub fn magic<const N: usize>(&mut self, magic: [u8; N]) -> Result<(), Malformed> {
        if self.array::<N>()? == magic { Ok(()) } else { Err(Malformed("wrong magic")) }
    }

    /// Nothing may be left.
    pub fn end(self) -> Result<(), Malformed> {
        if self.rest.is_empty() { Ok(()) } else { Err(Malformed("it is longer than it says")) }
    }
}

/// Appends fields to a buffer.
#[derive(Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// An empty buffer with room for `capacity` bytes.
    pub fn with_capacity(capacity: usize) -> Self {
        Self { bytes: Vec::with_capacity(capacity) }
    }

    /// Appends to what `bytes` already holds.
    pub fn onto(bytes: Vec<u8>) -> Self {
        Self { bytes }
    }

    /// Appends bytes as they are.
    pub fn put(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// Appends one byte.
    pub fn u8(&mut self, value: u8) -> &mut Self {
        self.put(&[value])
    }

    /// Appends two bytes.
    pub fn u16(&mut self, value: u16) -> &mut Self {
        self.put(&value.to_le_bytes())
    }

    /// Appends four bytes.
    pub fn u32(&mut self, value: u32) -> &mut Self {
        self.put(&value.to_le_bytes())
    }

    /// Appends eight bytes.
    pub fn u64(&mut self, value: u64) -> &mut Self {
        self.put(&value.to_le_bytes())
    }

    /// Appends `count` zero bytes.
    pub fn zeroes(&mut self, count: usize) -> &mut Self {
        self.bytes.resize(self.bytes.len() + count, 0);
        self
    }

    /// Appends zeroes up to a length.
    pub fn pad_to(&mut self, len: usize) -> &mut Self {
        debug_assert!(self.bytes.len() <= len, "{} bytes do not fit in {len}", self.bytes.len());
        self.bytes.resize(len, 0);
        self
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether nothing was appended.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The buffer.
    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }

    /// The buffer, with the CRC of all from `from` on put into the four bytes at `at`.
    pub fn finish_with_crc(mut self, at: usize, from: usize) -> Vec<u8> {
        let crc = crc32fast::hash(self.bytes.get(from..).unwrap_or_default());
        if let Some(field) = self.bytes.get_mut(at..at + 4) {
            field.copy_from_slice(&crc.to_le_bytes());
        }
        self.bytes
    }
}

/// Whether the four bytes at `at` are the CRC of all from `from` on.
pub(super) fn check_crc(bytes: &[u8], at: usize, from: usize) -> Result<(), Malformed> {
    let stored = Reader::new(bytes.get(at..).unwrap_or_default()).u32()?;
    match bytes.get(from..).is_some_and(|covered| crc32fast::hash(covered) == stored) {
        true => Ok(()),
        false => Err(Malformed("its checksum does not match")),
    }
}
