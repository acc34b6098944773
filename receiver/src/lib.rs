//! Keeps every version: ingest, catalog, views, exports and mounts of them, replica image.
//!
//! Start at [`serve`]. What may happen at the same time on one group, and who waits for whom:
//!
//! | while → | ingest | view (restore, read, points, diff) | export, mount, drill | image follows | rollback | verify | cleaning | restart at any place |
//! |---|---|---|---|---|---|---|---|---|
//! | **ingest** | one session; a newer one fences it | never waits | never waits; a scratch leaves it room | goes first | never waits | never waits | waits for an entry of the manifest | from the durable head |
//! | **view** | sees what was durable when it began | shared | shared | not touched | not touched | shared | has its files open; a point that went is refused | asked for again |
//! | **export, mount, drill** | sees what was durable when it was opened | shared | shared; each scratch is one view's | not touched | not touched | shared | has its files open | over; clients see it, scratches are gone |
//! | **image follows** | yields, at most 50 ms a megabyte | shared | shared | one thread | waits its turn | waits its turn | pins where it is and goes | done again from `applied` |
//! | **rollback** | shared | shared | shared | takes its turn | refused: busy | refused: busy | pins its target, or is refused | finished at the start, from its intent |
//! | **live rollback** | its writes come in like others; that it has begun is durable first | sees no point within it | shared | follows like any writes | refused: busy | refused: busy | pins its target | gone on with when its agent is there |
//! | **verify** | checks what was durable when it began | shared | shared | takes its turn | refused: busy | refused: busy | has its files open | asked for again |
//! | **cleaning** | yields, at most 50 ms a megabyte | never waits | never waits | keeps what is pinned | keeps what is pinned | never waits | one thread | looks again |
//! | **indexes are merged** | goes first, at most 50 ms a megabyte | shared: old runs stay open | shared: old runs stay open | shared | shared | shared | runs of what went are merged anew | begun anew |
//!
//! **Invariant:** nothing but the group's writer thread writes its journal, nothing but its merging thread writes merged indexes, nothing but its image thread writes its image.
//! **Invariant:** what is told to be durable is visible to readers, and the other way round.

pub mod catalog;
mod checked;
mod control;
pub mod diff;
pub mod drill;
pub mod enrol;
pub mod error;
pub mod export;
pub mod group;
pub mod image;
pub mod mount;
mod pieces;
pub mod restore;
mod retention;
pub mod rollback;
mod run;
pub mod session;
pub mod status;
#[cfg(test)]
mod testing;
pub mod time;
pub mod when;

pub use error::{Code, Error, Result};
pub use retention::Wanted as Retention;
pub use run::{Ready, ServeOptions, serve};
