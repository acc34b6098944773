//! Every maximum of the server, with its reason.

use std::time::Duration;

/// Largest read or write in bytes: what every client supports, and what is advertised.
pub const PAYLOAD_BYTES_MAX: u32 = 32 << 20;
/// Preferred request size in bytes: a page, so that sources opened with `O_DIRECT` need no read-modify-write.
pub const PREFERRED_BYTES: u32 = 4096;
/// The unit of volumes, and the smallest request in bytes.
pub const SECTOR_BYTES: u32 = 512;
/// A refused write is read and thrown away up to this many bytes, so that the client hears why; beyond, it is cut off.
pub const DRAIN_BYTES_MAX: u32 = 2 * PAYLOAD_BYTES_MAX;

/// Longest option in bytes: a name of 4096 and a page of queries. Longer ones end the connection.
pub const OPTION_BYTES_MAX: u32 = 16 << 10;
/// Longest export name in bytes, from the protocol.
pub const NAME_BYTES_MAX: usize = 4096;
/// Options a client may send before it must have chosen an export.
pub const OPTIONS_MAX: u32 = 256;
/// How long the server waits for the next bytes of a handshake.
pub const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(10);

/// Extents in one reply to a block status request: 64 KiB on the wire.
pub const EXTENTS_MAX: usize = 8192;

/// Connections of a server at a time: with the buffers below, what it can be made to hold is bounded.
pub const CONNECTIONS_MAX: usize = 32;
/// Requests of one connection in progress at a time: past this, two cores only gain context switches.
pub const WORKERS_MAX: usize = 8;
/// Reads and writes that have arrived and that one worker performs and answers together: one wait for all of them, but all
/// wait for the slowest.
pub const BATCH_REQUESTS_MAX: usize = 16;
/// What they may hold in the worker's buffer, in bytes: past this, a wait costs nothing beside the copies.
pub const BATCH_BYTES_MAX: usize = 256 << 10;

/// A worker's own buffer grows to this many bytes: with all connections and workers there are, 64 MiB of a server.
pub const WORKER_BYTES_MAX: usize = 256 << 10;
/// What larger requests may hold together, of all clients of all servers of the process, in bytes: two of the largest, or 32 of
/// those that `qemu-img convert` sends.
pub const LARGE_BYTES_MAX: usize = 64 << 20;
/// How long the transfer of a larger request's payload may take while others wait for its memory: 32 MiB at 1 MB/s.
pub const LARGE_PATIENCE: Duration = Duration::from_secs(30);
/// What a worker's own buffer starts with, in bytes.
pub const WORKER_BYTES_MIN: usize = 64 << 10;

/// How long requests in progress may take to finish at a shutdown before their sockets are closed.
pub const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(10);

const _: () = assert!(BATCH_BYTES_MAX <= WORKER_BYTES_MAX);
const _: () = assert!(LARGE_BYTES_MAX >= PAYLOAD_BYTES_MAX as usize && PAYLOAD_BYTES_MAX.is_power_of_two());
const _: () = assert!(WORKER_BYTES_MIN <= WORKER_BYTES_MAX && WORKER_BYTES_MAX < PAYLOAD_BYTES_MAX as usize);
