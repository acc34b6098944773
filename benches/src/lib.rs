//! Benchmarks that print their floor in the same run.
