//! Benchmarks that print their floor in the same run: the least that the machine needs for the same bytes, measured in the
//! same rounds. `README.md` says how to read them.

pub mod chain;
pub mod data;
pub mod fio;
pub mod floor;
pub mod mirror;
pub mod options;
pub mod place;
pub mod process;
pub mod samples;
pub mod stage;
pub mod table;
