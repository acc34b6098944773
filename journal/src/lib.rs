//! Records, frames, segments, views: the Backspool journal.
