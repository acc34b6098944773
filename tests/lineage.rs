//! Whose history it is: state directories and stores that are copied, restored and replaced, sources that change under their name.
//! One goes on and everything arrives, or it is refused with what to do; no point is ever false.

#![allow(clippy::unwrap_used, reason = "a test ends where it is surprised")]
#![expect(clippy::disallowed_methods, reason = "others rename as they like")]

mod common;
mod lineage {
    mod copies;
    mod rebase;
    mod sizes;
    mod sources;
    mod stores;
    mod story;
}
