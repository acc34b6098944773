//! The store against a model, and against crashes at every operation.

mod crash;
mod faults;
mod history;
mod model;
mod reads;
