//! An NBD server: protocol apart from transport and from what it serves.
//!
//! ```text
//!   clients ──► listen ──► server ──► connection ──► Export (the caller's)
//!               sockets    threads    reader, workers
//!                                        │
//!                    handshake · request · reply: bytes in, bytes out, no I/O
//! ```
//!
//! Fixed newstyle handshake, simple and structured replies, `base:allocation`. No TLS, no logging, no async.
//!
//! **Invariant:** a request reaches an [`Export`] only after it was checked: inside the size, aligned, not empty, permitted.
//! **Invariant:** the reply to a write is sent after [`Export::write`] returned, so a flush that arrives later covers it.
//! **Invariant:** no length a client sends takes memory before it was compared with [`limits`].

pub mod handshake;
pub mod limits;
pub mod reply;
pub mod request;

mod address;
mod batch;
mod buffer;
mod connection;
mod export;
mod gate;
mod listen;
mod pool;
mod reader;
mod server;
mod socket;
mod wire;

pub use address::{Address, AddressError};
pub use export::{Capabilities, ErrorCode, Export, Extent, Transfer};
pub use listen::{BindError, RemoteClients};
pub use server::{Running, Server};
