//! Big-endian fields: the only file that knows the byte order of the network.
#![expect(clippy::big_endian_bytes, reason = "NBD is big-endian on the wire")]

/// Takes fields off the front of a message; `None` when it ends too early.
#[derive(Debug)]
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl<'a> Fields<'a> {
    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// A string with its length in front, as export names and queries are sent.
    pub(crate) fn string(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.u32()?).ok()?;
        let (string, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(string)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*array)
    }
}

/// Appends fields to a message.
pub(crate) trait Put {
    fn put_u16(&mut self, value: u16);
    fn put_u32(&mut self, value: u32);
    fn put_u64(&mut self, value: u64);
}

impl Put for Vec<u8> {
    fn put_u16(&mut self, value: u16) {
        self.extend_from_slice(&value.to_be_bytes());
    }

    fn put_u32(&mut self, value: u32) {
        self.extend_from_slice(&value.to_be_bytes());
    }

    fn put_u64(&mut self, value: u64) {
        self.extend_from_slice(&value.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::{Fields, Put};

    #[test]
    fn what_is_put_is_taken_and_no_more() {
        let mut bytes = Vec::new();
        bytes.put_u16(1);
        bytes.put_u32(2);
        bytes.put_u64(3);
        bytes.put_u32(2);
        bytes.extend_from_slice(b"ab");
        assert_eq!(bytes[..6], [0, 1, 0, 0, 0, 2]);
        let mut fields = Fields(&bytes);
        assert_eq!((fields.u16(), fields.u32(), fields.u64()), (Some(1), Some(2), Some(3)));
        assert_eq!(fields.string(), Some(&b"ab"[..]));
        assert!(fields.is_empty());
        assert_eq!(fields.u16(), None);
        assert_eq!(Fields(&[0, 0, 0, 3, b'a', b'b']).string(), None);
        assert_eq!(Fields(&[0xff; 6]).string(), None);
    }
}
