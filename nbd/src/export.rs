//! What a server serves.

/// A volume that clients read and write. The default is a volume that can only be read.
///
/// Requests come checked: `offset` and length lie inside the size the client was told at its handshake, are multiples of
/// [`min_block_bytes`](Self::min_block_bytes), and are not zero; what [`capabilities`](Self::capabilities) does not offer is
/// never called. Buffers start at a page boundary. Several threads call at once, in any order: only requests that were
/// answered before another was sent are ordered before it.
pub trait Export: Send + Sync {
    /// Why no client is let in now, for people; `None`: they are.
    fn closed(&self) -> Option<String> {
        None
    }

    /// A client is let in: what it is served until it goes, when this is dropped; `None`: this export itself.
    ///
    /// # Errors
    /// It is turned away after all.
    fn attach(&self) -> Result<Option<Box<dyn Export + '_>>, ErrorCode> {
        Ok(None)
    }

    /// Size in bytes. A tail shorter than the smallest block is not served. Read once per connection.
    fn size_bytes(&self) -> u64;

    /// What clients may ask for. Read once per connection.
    fn capabilities(&self) -> Capabilities {
        Capabilities::READ_ONLY
    }

    /// The smallest request in bytes: a power of two, 512 to 4096.
    fn min_block_bytes(&self) -> u32 {
        crate::limits::SECTOR_BYTES
    }

    /// Fills `buffer` with what is at `offset` (bytes).
    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), ErrorCode>;

    /// Writes `data` at `offset` (bytes); with `fua` it is on stable storage on return.
    fn write(&self, offset: u64, data: &[u8], fua: bool) -> Result<(), ErrorCode> {
        let _ = (offset, data, fua);
        Err(ErrorCode::NotPermitted)
    }

    /// Performs all of `batch`, in any order, as [`read`](Self::read) and [`write`](Self::write) without `fua` would: one
    /// outcome each. For an export that can do several at once.
    fn transfer(&self, batch: &mut [Transfer<'_>]) -> Vec<Result<(), ErrorCode>> {
        batch.iter_mut().map(|one| one.perform(self)).collect()
    }

    /// Makes durable every write that returned before this call.
    fn flush(&self) -> Result<(), ErrorCode> {
        Err(ErrorCode::NotSupported)
    }

    /// The client no longer needs `length` bytes at `offset`.
    fn trim(&self, offset: u64, length: u64, fua: bool) -> Result<(), ErrorCode> {
        let _ = (offset, length, fua);
        Err(ErrorCode::NotSupported)
    }

    /// Makes `length` bytes at `offset` read as zero; with `no_hole` the space stays allocated.
    fn write_zeroes(&self, offset: u64, length: u64, no_hole: bool, fua: bool) -> Result<(), ErrorCode> {
        let _ = (offset, length, no_hole, fua);
        Err(ErrorCode::NotSupported)
    }

    /// Describes `length` bytes from `offset` on, in order. May describe less than asked, but not nothing; a server sends
    /// at most [`EXTENTS_MAX`](crate::limits::EXTENTS_MAX) of them.
    fn allocation(&self, offset: u64, length: u64) -> Result<Vec<Extent>, ErrorCode> {
        let _ = offset;
        Ok(vec![Extent { length_bytes: length, hole: false, zero: false }])
    }
}

/// A read or a write among others, at an offset in bytes.
#[derive(Debug)]
#[expect(missing_docs, reason = "as the parameters of `read` and `write`")]
pub enum Transfer<'a> {
    /// Fills `buffer`.
    Read { offset: u64, buffer: &'a mut [u8] },
    /// Writes all of `data`.
    Write { offset: u64, data: &'a [u8] },
}

impl Transfer<'_> {
    /// Performs it alone.
    pub fn perform(&mut self, export: &(impl Export + ?Sized)) -> Result<(), ErrorCode> {
        match self {
            Self::Read { offset, buffer } => export.read(*offset, buffer),
            Self::Write { offset, data } => export.write(*offset, data, false),
        }
    }
}

/// What an export offers its clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Nothing may be changed.
    pub read_only: bool,
    /// [`Export::flush`] works.
    pub flush: bool,
    /// Writes, trims and zeroes obey `fua`.
    pub fua: bool,
    /// [`Export::trim`] works.
    pub trim: bool,
    /// [`Export::write_zeroes`] works.
    pub write_zeroes: bool,
    /// A flush on one connection covers writes answered on all of them.
    pub multi_conn: bool,
}

impl Capabilities {
    /// A volume that nobody changes: any number of connections see the same.
    pub const READ_ONLY: Self =
        Self { read_only: true, flush: false, fua: false, trim: false, write_zeroes: false, multi_conn: true };
    /// A volume with everything the protocol offers.
    pub const ALL: Self =
        Self { read_only: false, flush: true, fua: true, trim: true, write_zeroes: true, multi_conn: true };
}

/// A run of bytes of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// How long, in bytes.
    pub length_bytes: u64,
    /// No space is allocated for it.
    pub hole: bool,
    /// It reads as zero.
    pub zero: bool,
}

/// Why a request failed: the errors the protocol has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum ErrorCode {
    /// `NBD_EPERM`: the export is read-only.
    NotPermitted = 1,
    /// `NBD_EIO`: the storage failed.
    Io = 5,
    /// `NBD_ENOMEM`: no memory.
    NoMemory = 12,
    /// `NBD_EINVAL`: the request makes no sense.
    Invalid = 22,
    /// `NBD_ENOSPC`: no space, or a write beyond the end.
    NoSpace = 28,
    /// `NBD_ENOTSUP`: not offered.
    NotSupported = 95,
    /// `NBD_ESHUTDOWN`: the server is going away.
    Shutdown = 108,
}

impl ErrorCode {
    /// The number on the wire.
    pub fn number(self) -> u32 {
        self as u32
    }
}

impl From<&std::io::Error> for ErrorCode {
    fn from(error: &std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Self::NoSpace,
            std::io::ErrorKind::OutOfMemory => Self::NoMemory,
            std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => Self::NotPermitted,
            _ => Self::Io,
        }
    }
}
