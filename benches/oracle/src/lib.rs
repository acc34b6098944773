//! Stamped workloads and the oracle that judges images; imports nothing of the product.
