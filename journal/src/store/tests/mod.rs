//! The store against a model, against crashes at every operation, and against disks that fail or lie.

mod clean;
mod clean_damage;
mod crash;
mod failed_sync;
mod faults;
mod history;
mod machine;
mod mend;
mod model;
mod power_cuts;
mod reads;
mod runs;
mod sizes;
mod timeline;
