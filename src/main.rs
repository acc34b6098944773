//! Backspool: continuous data protection for Linux block devices and large files.

fn main() {}
