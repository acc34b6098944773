//! The fixed newstyle handshake: options in, replies and one decision out.
//!
//! ```text
//!   server: greeting        client: flags
//!   client: option header, data   ──► Negotiation::option ──► replies, Step
//! ```

use crate::export::Capabilities;
use crate::limits::{NAME_BYTES_MAX, PAYLOAD_BYTES_MAX, PREFERRED_BYTES};
use crate::reply::ALLOCATION_ID;
use crate::request::Session;
use crate::wire::{Fields, Put};

/// Length of what a client answers to the greeting.
pub const CLIENT_FLAGS_BYTES: usize = 4;
/// Length of an option's header; its data follows.
pub const OPTION_HEADER_BYTES: usize = 16;

/// An export as clients are told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advert {
    /// The name it is asked for by.
    pub name: String,
    /// Size in bytes.
    pub size_bytes: u64,
    /// Smallest request in bytes.
    pub min_block_bytes: u32,
    /// What it offers.
    pub capabilities: Capabilities,
    /// Why nobody is let in now.
    pub closed: Option<String>,
}

/// What the server does after an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Send the replies and read the next option.
    Continue,
    /// Send the replies; what follows are requests to this export.
    Serve {
        /// Its place among the adverts.
        export: usize,
        /// What was agreed on.
        session: Session,
    },
    /// Send the replies and end the connection.
    Close,
}

/// The bytes are not an NBD handshake, or ask for what no reply exists for: the connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an NBD handshake")]
pub struct NotAHandshake;

/// The first bytes of a connection.
pub fn greeting() -> Vec<u8> {
    let mut out = Vec::new();
    out.put_u64(GREETING_MAGIC);
    out.put_u64(OPTION_MAGIC);
    out.put_u16(FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES);
    out
}

/// An option's number and the length of its data, in bytes, not yet compared with anything.
pub fn parse_option_header(header: &[u8; OPTION_HEADER_BYTES]) -> Result<(u32, u32), NotAHandshake> {
    let mut fields = Fields(header);
    match (fields.u64(), fields.u32(), fields.u32()) {
        (Some(OPTION_MAGIC), Some(option), Some(length)) => Ok((option, length)),
        _ => Err(NotAHandshake),
    }
}

/// One client's handshake.
#[derive(Debug)]
pub struct Negotiation {
    exports: Vec<Advert>,
    no_zeroes: bool,
    structured: bool,
    /// The export that `base:allocation` was selected for.
    allocation_of: Option<usize>,
}

impl Negotiation {
    /// Starts with what the client answered to the greeting.
    pub fn new(exports: Vec<Advert>, client_flags: [u8; CLIENT_FLAGS_BYTES]) -> Result<Self, NotAHandshake> {
        let flags = Fields(&client_flags).u32().ok_or(NotAHandshake)?;
        if flags & !u32::from(FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES) != 0 {
            return Err(NotAHandshake);
        }
        let no_zeroes = flags & u32::from(FLAG_NO_ZEROES) != 0;
        Ok(Self { exports, no_zeroes, structured: false, allocation_of: None })
    }

    /// Takes one option and appends what to answer to `out`.
    pub fn option(&mut self, option: u32, data: &[u8], out: &mut Vec<u8>) -> Step {
        let outcome = match option {
            EXPORT_NAME => return self.export_name(data, out),
            ABORT => {
                reply(out, ABORT, ACK, &[]);
                return Step::Close;
            }
            LIST => self.list(data, out),
            INFO | GO => match self.info(option, data, out) {
                Ok(export) if option == GO => {
                    reply(out, GO, ACK, &[]);
                    return self.serve(export);
                }
                Err(ERR_POLICY) => {
                    reply(out, option, ERR_POLICY, self.why_closed(data).as_bytes());
                    return Step::Continue;
                }
                outcome => outcome.map(|_| ()),
            },
            STRUCTURED_REPLY if data.is_empty() => {
                self.structured = true;
                Ok(())
            }
            STRUCTURED_REPLY => Err(ERR_INVALID),
            LIST_META_CONTEXT | SET_META_CONTEXT => self.meta_context(option, data, out),
            _ => Err(ERR_UNSUP),
        };
        reply(out, option, outcome.err().unwrap_or(ACK), &[]);
        Step::Continue
    }

    /// The oldest way to choose an export: it has no reply that could say no.
    fn export_name(&self, data: &[u8], out: &mut Vec<u8>) -> Step {
        let Ok(export) = self.find(data) else { return Step::Close };
        if self.exports[export].closed.is_some() {
            return Step::Close;
        }
        out.put_u64(self.exports[export].size_bytes);
        out.put_u16(self.transmission_flags(export));
        if !self.no_zeroes {
            out.extend_from_slice(&[0; 124]);
        }
        self.serve(export)
    }

    fn list(&self, data: &[u8], out: &mut Vec<u8>) -> Result<(), u32> {
        if !data.is_empty() {
            return Err(ERR_INVALID);
        }
        for export in &self.exports {
            reply(out, LIST, SERVER, &string(&export.name));
        }
        Ok(())
    }

    fn info(&self, option: u32, data: &[u8], out: &mut Vec<u8>) -> Result<usize, u32> {
        let mut fields = Fields(data);
        let name = fields.string().ok_or(ERR_INVALID)?;
        let count = fields.u16().ok_or(ERR_INVALID)?;
        let mut wants_name = false;
        for _ in 0..count {
            wants_name |= fields.u16().ok_or(ERR_INVALID)? == INFO_NAME;
        }
        if !fields.is_empty() {
            return Err(ERR_INVALID);
        }
        let found = self.find(name)?;
        let export = &self.exports[found];
        if option == GO && export.closed.is_some() {
            return Err(ERR_POLICY);
        }

        let mut info = Vec::new();
        info.put_u16(INFO_EXPORT);
        info.put_u64(export.size_bytes);
        info.put_u16(self.transmission_flags(found));
        reply(out, option, REPLY_INFO, &info);

        info.clear();
        info.put_u16(INFO_BLOCK_SIZE);
        info.put_u32(export.min_block_bytes);
        info.put_u32(PREFERRED_BYTES);
        info.put_u32(PAYLOAD_BYTES_MAX);
        reply(out, option, REPLY_INFO, &info);

        if wants_name {
            info.clear();
            info.put_u16(INFO_NAME);
            info.extend_from_slice(export.name.as_bytes());
            reply(out, option, REPLY_INFO, &info);
        }
        Ok(found)
    }

    fn meta_context(&mut self, option: u32, data: &[u8], out: &mut Vec<u8>) -> Result<(), u32> {
        let setting = option == SET_META_CONTEXT;
        if setting {
            // Whatever comes of it, an earlier selection is gone.
            self.allocation_of = None;
        }
        if !self.structured {
            return Err(ERR_INVALID);
        }
        let mut fields = Fields(data);
        let name = fields.string().ok_or(ERR_INVALID)?;
        let count = fields.u32().ok_or(ERR_INVALID)?;
        // To list without a query is to ask for all; the name of a namespace lists it and selects nothing.
        let mut matched = !setting && count == 0;
        for _ in 0..count {
            let query = fields.string().ok_or(ERR_INVALID)?;
            matched |= query == ALLOCATION.as_bytes() || (!setting && query == b"base:");
        }
        if !fields.is_empty() {
            return Err(ERR_INVALID);
        }
        let export = self.find(name)?;
        if matched {
            let mut context = Vec::new();
            context.put_u32(if setting { ALLOCATION_ID } else { 0 });
            context.extend_from_slice(ALLOCATION.as_bytes());
            reply(out, option, META_CONTEXT, &context);
            if setting {
                self.allocation_of = Some(export);
            }
        }
        Ok(())
    }

    /// By name; the empty name is that of the only export.
    fn find(&self, name: &[u8]) -> Result<usize, u32> {
        if name.len() > NAME_BYTES_MAX {
            return Err(ERR_INVALID);
        }
        match self.exports.iter().position(|export| export.name.as_bytes() == name) {
            Some(found) => Ok(found),
            None if name.is_empty() && self.exports.len() == 1 => Ok(0),
            None => Err(ERR_UNKNOWN),
        }
    }

    /// A sentence for whoever asked for an export that is closed.
    fn why_closed(&self, data: &[u8]) -> &str {
        let found = Fields(data).string().and_then(|name| self.find(name).ok());
        let why = found.and_then(|found| self.exports[found].closed.as_deref()).unwrap_or_default();
        why.get(..why.floor_char_boundary(NAME_BYTES_MAX)).unwrap_or_default()
    }

    fn serve(&self, export: usize) -> Step {
        let advert = &self.exports[export];
        let session = Session {
            size_bytes: advert.size_bytes,
            capabilities: advert.capabilities,
            min_block_bytes: advert.min_block_bytes,
            structured: self.structured,
            allocation: self.allocation_of == Some(export),
        };
        Step::Serve { export, session }
    }

    fn transmission_flags(&self, export: usize) -> u16 {
        let can = self.exports[export].capabilities;
        let flags = [
            (true, 1 << 0), // there are flags
            (can.read_only, 1 << 1),
            (can.flush, 1 << 2),
            (can.fua, 1 << 3),
            (can.trim && !can.read_only, 1 << 5),
            (can.write_zeroes && !can.read_only, 1 << 6),
            (self.structured, 1 << 7), // "do not fragment" holds for every reply, but needs structured ones
            (can.multi_conn, 1 << 8),
        ];
        flags.into_iter().filter(|(set, _)| *set).map(|(_, flag)| flag).sum()
    }
}

fn reply(out: &mut Vec<u8>, option: u32, kind: u32, data: &[u8]) {
    out.put_u64(REPLY_MAGIC);
    out.put_u32(option);
    out.put_u32(kind);
    // Every reply is a few fields and at most a name, whose length was checked when the server was made.
    out.put_u32(u32::try_from(data.len()).unwrap_or(0));
    out.extend_from_slice(data);
}

fn string(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    out.put_u32(u32::try_from(text.len()).unwrap_or(0));
    out.extend_from_slice(text.as_bytes());
    out
}

const GREETING_MAGIC: u64 = 0x4e42_444d_4147_4943; // "NBDMAGIC"
const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054; // "IHAVEOPT"
const REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;

const FLAG_FIXED_NEWSTYLE: u16 = 1 << 0;
const FLAG_NO_ZEROES: u16 = 1 << 1;

const EXPORT_NAME: u32 = 1;
const ABORT: u32 = 2;
const LIST: u32 = 3;
const INFO: u32 = 6;
const GO: u32 = 7;
const STRUCTURED_REPLY: u32 = 8;
const LIST_META_CONTEXT: u32 = 9;
const SET_META_CONTEXT: u32 = 10;

const ACK: u32 = 1;
const SERVER: u32 = 2;
const REPLY_INFO: u32 = 3;
const META_CONTEXT: u32 = 4;
const ERR_UNSUP: u32 = 1 << 31 | 1;
const ERR_POLICY: u32 = 1 << 31 | 2;
const ERR_INVALID: u32 = 1 << 31 | 3;
const ERR_UNKNOWN: u32 = 1 << 31 | 6;

const INFO_EXPORT: u16 = 0;
const INFO_NAME: u16 = 1;
const INFO_BLOCK_SIZE: u16 = 3;

const ALLOCATION: &str = "base:allocation";

#[cfg(test)]
#[path = "handshake_tests.rs"]
mod tests;
