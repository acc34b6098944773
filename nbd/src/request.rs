//! Requests: 28 bytes in, an operation that is safe to perform out.

use crate::export::{Capabilities, ErrorCode};
use crate::limits::PAYLOAD_BYTES_MAX;
use crate::wire::Fields;

/// Length of a request's header in bytes.
pub const HEADER_BYTES: usize = 28;

/// A request as the client sent it: only its magic was checked.
///
/// ```text
///  0      4       6      8        16       24       28
///  │ magic│ flags │ type │ cookie │ offset │ length │ payload, of a write only
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    flags: u16,
    kind: u16,
    /// Names the request in its reply.
    pub cookie: u64,
    offset: u64,
    length: u32,
}

/// The stream is not at a request: where the next one starts cannot be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an NBD request")]
pub struct BadMagic;

/// What a client and the server agreed on in their handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    /// Size in bytes as the client was told: a multiple of `min_block_bytes`.
    pub size_bytes: u64,
    /// What the export offers.
    pub capabilities: Capabilities,
    /// Smallest request in bytes: a power of two.
    pub min_block_bytes: u32,
    /// Structured replies were negotiated.
    pub structured: bool,
    /// `base:allocation` was selected.
    pub allocation: bool,
}

/// A request that may be performed: its range is inside the export, aligned and not empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "offsets and lengths in bytes; the flags are the protocol's")]
pub enum Operation {
    /// Read `length` bytes.
    Read { offset: u64, length: u32 },
    /// Write the payload.
    Write { offset: u64, length: u32, fua: bool },
    /// Make answered writes durable.
    Flush,
    /// The bytes are no longer needed.
    Trim { offset: u64, length: u32, fua: bool },
    /// Make the bytes zero.
    WriteZeroes { offset: u64, length: u32, no_hole: bool, fua: bool },
    /// Say what is allocated; with `one`, in one extent.
    BlockStatus { offset: u64, length: u32, one: bool },
    /// The client leaves.
    Disconnect,
}

impl Operation {
    /// Bytes of buffer it needs: at most [`PAYLOAD_BYTES_MAX`].
    pub fn buffer_bytes(&self) -> u32 {
        match *self {
            Self::Read { length, .. } | Self::Write { length, .. } => length,
            _ => 0,
        }
    }
}

impl Request {
    /// Parses a header.
    pub fn parse(header: &[u8; HEADER_BYTES]) -> Result<Self, BadMagic> {
        let mut fields = Fields(header);
        let mut parse = || {
            let magic = fields.u32()?;
            let request = Self {
                flags: fields.u16()?,
                kind: fields.u16()?,
                cookie: fields.u64()?,
                offset: fields.u64()?,
                length: fields.u32()?,
            };
            (magic == REQUEST_MAGIC).then_some(request)
        };
        parse().ok_or(BadMagic)
    }

    /// Bytes that follow the header, whether the request is good or not.
    pub fn payload_bytes(&self) -> u32 {
        if self.kind == WRITE { self.length } else { 0 }
    }

    /// Checks it against what was agreed: what comes back can be performed as it is.
    pub fn check(&self, session: &Session) -> Result<Operation, ErrorCode> {
        let &Self { offset, length, .. } = self;
        let can = session.capabilities;
        // A client may set FUA on any command once it is offered, on a read as well.
        let allowed = if can.fua { FLAG_FUA } else { 0 } | self.own_flags(session);
        if self.flags & !allowed != 0 {
            return Err(ErrorCode::Invalid);
        }
        let has = |flag| self.flags & flag != 0;
        let fua = has(FLAG_FUA);
        match self.kind {
            READ => {
                self.check_payload()?;
                self.check_range(session, ErrorCode::Invalid)?;
                Ok(Operation::Read { offset, length })
            }
            WRITE => {
                self.check_writable(session, true)?;
                self.check_payload()?;
                self.check_range(session, ErrorCode::NoSpace)?;
                Ok(Operation::Write { offset, length, fua })
            }
            DISCONNECT => Ok(Operation::Disconnect),
            FLUSH if !can.flush || offset != 0 || length != 0 => Err(ErrorCode::Invalid),
            FLUSH => Ok(Operation::Flush),
            TRIM => {
                self.check_writable(session, can.trim)?;
                self.check_range(session, ErrorCode::Invalid)?;
                Ok(Operation::Trim { offset, length, fua })
            }
            WRITE_ZEROES => {
                self.check_writable(session, can.write_zeroes)?;
                self.check_range(session, ErrorCode::NoSpace)?;
                Ok(Operation::WriteZeroes { offset, length, no_hole: has(FLAG_NO_HOLE), fua })
            }
            BLOCK_STATUS if session.allocation => {
                self.check_range(session, ErrorCode::Invalid)?;
                Ok(Operation::BlockStatus { offset, length, one: has(FLAG_REQ_ONE) })
            }
            _ => Err(ErrorCode::Invalid),
        }
    }

    /// Flags that only this kind of request has.
    fn own_flags(&self, session: &Session) -> u16 {
        match self.kind {
            READ if session.structured => FLAG_DF,
            WRITE_ZEROES => FLAG_NO_HOLE,
            BLOCK_STATUS => FLAG_REQ_ONE,
            _ => 0,
        }
    }

    fn check_writable(&self, session: &Session, offered: bool) -> Result<(), ErrorCode> {
        match (session.capabilities.read_only, offered) {
            (true, _) => Err(ErrorCode::NotPermitted),
            (false, true) => Ok(()),
            (false, false) => Err(ErrorCode::Invalid),
        }
    }

    fn check_range(&self, session: &Session, beyond_end: ErrorCode) -> Result<(), ErrorCode> {
        let length = u64::from(self.length);
        let unaligned = |bytes: u64| !bytes.is_multiple_of(u64::from(session.min_block_bytes));
        if length == 0 || unaligned(length) || unaligned(self.offset) {
            return Err(ErrorCode::Invalid);
        }
        match self.offset.checked_add(length) {
            Some(end) if end <= session.size_bytes => Ok(()),
            _ => Err(beyond_end),
        }
    }

    fn check_payload(&self) -> Result<(), ErrorCode> {
        if self.length > PAYLOAD_BYTES_MAX { Err(ErrorCode::Invalid) } else { Ok(()) }
    }
}

const REQUEST_MAGIC: u32 = 0x2560_9513;

const READ: u16 = 0;
const WRITE: u16 = 1;
const DISCONNECT: u16 = 2;
const FLUSH: u16 = 3;
const TRIM: u16 = 4;
const WRITE_ZEROES: u16 = 6;
const BLOCK_STATUS: u16 = 7;

const FLAG_FUA: u16 = 1 << 0;
const FLAG_NO_HOLE: u16 = 1 << 1;
const FLAG_DF: u16 = 1 << 2;
const FLAG_REQ_ONE: u16 = 1 << 3;

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
