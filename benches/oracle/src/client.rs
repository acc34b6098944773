//! A small blocking NBD client: fixed newstyle, `NBD_OPT_GO`, simple replies, one request in flight.
#![expect(clippy::big_endian_bytes, reason = "NBD is big-endian on the wire")]

use std::fmt;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// One connection to one export.
#[derive(Debug)]
pub struct Client {
    stream: Box<dyn Stream>,
    size_bytes: u64,
    flags: u16,
    cookie: u64,
    /// A request and its payload, so that it leaves in one piece.
    out: Vec<u8>,
}

/// Why a connection or a request failed.
#[derive(Debug)]
pub enum Error {
    /// There is nobody at the address.
    Connect(io::Error),
    /// The server does not offer the export, or does not speak the protocol.
    Handshake(String),
    /// The server answered the request with this error number. The operation is over.
    Refused(u32),
    /// No whole answer came: a request for a change is *in doubt*. The connection is of no more use.
    Lost(io::Error),
}

impl Client {
    /// Connects to `unix:PATH` or `HOST:PORT` and opens an export.
    ///
    /// # Errors
    /// [`Error::Connect`], [`Error::Handshake`] and, when the server goes away in between, [`Error::Lost`].
    pub fn connect(address: &str, export: &str) -> Result<Self, Error> {
        let stream = open(address).map_err(Error::Connect)?;
        let mut client = Self { stream, size_bytes: 0, flags: 0, cookie: 0, out: Vec::new() };
        client.handshake(export)?;
        Ok(client)
    }

    /// The export's size.
    pub const fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Does the server offer [`Client::flush`]?
    pub const fn can_flush(&self) -> bool {
        self.flags & FLAG_SEND_FLUSH != 0
    }

    /// Does the server take `fua`?
    pub const fn can_fua(&self) -> bool {
        self.flags & FLAG_SEND_FUA != 0
    }

    /// Does the server offer [`Client::trim`]?
    pub const fn can_trim(&self) -> bool {
        self.flags & FLAG_SEND_TRIM != 0
    }

    /// Does the server offer [`Client::write_zeroes`]?
    pub const fn can_write_zeroes(&self) -> bool {
        self.flags & FLAG_SEND_WRITE_ZEROES != 0
    }

    /// Does a flush on one connection cover writes completed on the others?
    pub const fn is_multi_conn(&self) -> bool {
        self.flags & FLAG_CAN_MULTI_CONN != 0
    }

    /// Fills `buf` from `offset`.
    ///
    /// # Errors
    /// [`Error::Refused`] and [`Error::Lost`].
    pub fn read(&mut self, offset: u64, buf: &mut [u8]) -> Result<(), Error> {
        let length = length(buf.len())?;
        self.send(COMMAND_READ, 0, offset, length, &[])?;
        self.reply()?;
        self.stream.read_exact(buf).map_err(Error::Lost)
    }

    /// Writes `data` at `offset`; with `fua` it is durable when this returns.
    ///
    /// # Errors
    /// [`Error::Refused`] and [`Error::Lost`].
    pub fn write(&mut self, offset: u64, data: &[u8], fua: bool) -> Result<(), Error> {
        self.send(COMMAND_WRITE, if fua { REQUEST_FUA } else { 0 }, offset, length(data.len())?, data)?;
        self.reply()
    }

    /// Makes completed writes durable.
    ///
    /// # Errors
    /// [`Error::Refused`] and [`Error::Lost`].
    pub fn flush(&mut self) -> Result<(), Error> {
        self.send(COMMAND_FLUSH, 0, 0, 0, &[])?;
        self.reply()
    }

    /// Discards a range.
    ///
    /// # Errors
    /// [`Error::Refused`] and [`Error::Lost`].
    pub fn trim(&mut self, offset: u64, length: u32) -> Result<(), Error> {
        self.send(COMMAND_TRIM, 0, offset, length, &[])?;
        self.reply()
    }

    /// Writes zeroes; the server may punch a hole.
    ///
    /// # Errors
    /// [`Error::Refused`] and [`Error::Lost`].
    pub fn write_zeroes(&mut self, offset: u64, length: u32) -> Result<(), Error> {
        self.send(COMMAND_WRITE_ZEROES, 0, offset, length, &[])?;
        self.reply()
    }

    /// Takes leave.
    ///
    /// # Errors
    /// [`Error::Lost`], when the server has gone already.
    pub fn disconnect(mut self) -> Result<(), Error> {
        self.send(COMMAND_DISCONNECT, 0, 0, 0, &[])
    }

    fn handshake(&mut self, export: &str) -> Result<(), Error> {
        if self.take::<8>()? != *b"NBDMAGIC" || self.take::<8>()? != *OPTION_MAGIC {
            return Err(Error::Handshake("the server is not a newstyle NBD server".to_owned()));
        }
        let offered = u16::from_be_bytes(self.take()?);
        if offered & FIXED_NEWSTYLE == 0 {
            return Err(Error::Handshake("the server does not know fixed newstyle".to_owned()));
        }
        let name = u32::try_from(export.len()).map_err(|_| Error::Handshake("the name is too long".to_owned()))?;
        let mut hello = Vec::new();
        hello.extend(u32::from(offered & (FIXED_NEWSTYLE | NO_ZEROES)).to_be_bytes());
        hello.extend(OPTION_MAGIC);
        hello.extend(OPTION_GO.to_be_bytes());
        hello.extend(name.saturating_add(6).to_be_bytes());
        hello.extend(name.to_be_bytes());
        hello.extend(export.as_bytes());
        hello.extend(0_u16.to_be_bytes());
        self.stream.write_all(&hello).map_err(Error::Lost)?;
        while self.option_reply()? != REPLY_ACK {}
        if self.flags == 0 {
            return Err(Error::Handshake("the server did not describe the export".to_owned()));
        }
        Ok(())
    }

    /// Takes one reply to `NBD_OPT_GO` and gives its type.
    fn option_reply(&mut self) -> Result<u32, Error> {
        if u64::from_be_bytes(self.take()?) != OPTION_REPLY_MAGIC {
            return Err(Error::Handshake("not a reply to an option".to_owned()));
        }
        let _option: [u8; 4] = self.take()?;
        let kind = u32::from_be_bytes(self.take()?);
        let length = u32::from_be_bytes(self.take()?);
        if length > OPTION_REPLY_MAX {
            return Err(Error::Handshake(format!("a reply of {length} bytes to an option")));
        }
        let mut data = Vec::new();
        (&mut self.stream).take(u64::from(length)).read_to_end(&mut data).map_err(Error::Lost)?;
        if kind & REPLY_IS_ERROR != 0 {
            let words = String::from_utf8_lossy(&data);
            return Err(Error::Handshake(format!("the server refuses the export ({kind:#x}): {words}")));
        }
        if let (REPLY_INFO, [0, 0, size @ .., a, b]) = (kind, &data[..])
            && let Ok(size) = size.try_into()
        {
            self.size_bytes = u64::from_be_bytes(size);
            self.flags = u16::from_be_bytes([*a, *b]);
        }
        Ok(kind)
    }

    fn send(&mut self, command: u16, flags: u16, offset: u64, length: u32, data: &[u8]) -> Result<(), Error> {
        self.cookie += 1;
        self.out.clear();
        self.out.extend(REQUEST_MAGIC.to_be_bytes());
        self.out.extend(flags.to_be_bytes());
        self.out.extend(command.to_be_bytes());
        self.out.extend(self.cookie.to_be_bytes());
        self.out.extend(offset.to_be_bytes());
        self.out.extend(length.to_be_bytes());
        self.out.extend_from_slice(data);
        self.stream.write_all(&self.out).map_err(Error::Lost)
    }

    fn reply(&mut self) -> Result<(), Error> {
        let bytes: [u8; 16] = self.take()?;
        let [magic @ .., a, b, c, d, e, f, g, h] = bytes;
        let [m, n, o, p, errno @ ..] = magic;
        if u32::from_be_bytes([m, n, o, p]) != SIMPLE_REPLY_MAGIC
            || u64::from_be_bytes([a, b, c, d, e, f, g, h]) != self.cookie
        {
            return Err(Error::Lost(io::Error::new(io::ErrorKind::InvalidData, "not the reply to this request")));
        }
        match u32::from_be_bytes(errno) {
            0 => Ok(()),
            errno => Err(Error::Refused(errno)),
        }
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let mut bytes = [0; N];
        self.stream.read_exact(&mut bytes).map_err(Error::Lost)?;
        Ok(bytes)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(_) => write!(f, "cannot connect to the NBD server"),
            Self::Handshake(words) => write!(f, "NBD handshake: {words}"),
            Self::Refused(errno) => write!(f, "the NBD server answered with error {errno}"),
            Self::Lost(_) => write!(f, "the NBD connection was lost"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Connect(source) | Self::Lost(source) => Some(source),
            Self::Handshake(_) | Self::Refused(_) => None,
        }
    }
}

trait Stream: Read + Write + Send + fmt::Debug {}
impl Stream for UnixStream {}
impl Stream for TcpStream {}

fn open(address: &str) -> io::Result<Box<dyn Stream>> {
    if let Some(path) = address.strip_prefix("unix:") {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        return Ok(Box::new(stream));
    }
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(Box::new(stream))
}

fn length(bytes: usize) -> Result<u32, Error> {
    // EOVERFLOW: nothing was sent, so nothing is in doubt.
    u32::try_from(bytes).map_err(|_| Error::Refused(75))
}

/// A server that is silent for so long counts as lost.
const PATIENCE: Duration = Duration::from_secs(30);

const OPTION_MAGIC: &[u8; 8] = b"IHAVEOPT";
const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
const OPTION_GO: u32 = 7;
/// The longest that the protocol allows is a message of 4096 bytes and some.
const OPTION_REPLY_MAX: u32 = 16 << 10;
const FIXED_NEWSTYLE: u16 = 1;
const NO_ZEROES: u16 = 2;
const REPLY_ACK: u32 = 1;
const REPLY_INFO: u32 = 3;
const REPLY_IS_ERROR: u32 = 1 << 31;

const FLAG_SEND_FLUSH: u16 = 1 << 2;
const FLAG_SEND_FUA: u16 = 1 << 3;
const FLAG_SEND_TRIM: u16 = 1 << 5;
const FLAG_SEND_WRITE_ZEROES: u16 = 1 << 6;
const FLAG_CAN_MULTI_CONN: u16 = 1 << 8;

const REQUEST_MAGIC: u32 = 0x2560_9513;
const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
const REQUEST_FUA: u16 = 1;
const COMMAND_READ: u16 = 0;
const COMMAND_WRITE: u16 = 1;
const COMMAND_DISCONNECT: u16 = 2;
const COMMAND_FLUSH: u16 = 3;
const COMMAND_TRIM: u16 = 4;
const COMMAND_WRITE_ZEROES: u16 = 6;

#[cfg(test)]
mod tests;
