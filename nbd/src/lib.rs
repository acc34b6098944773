//! An NBD server: protocol apart from transport and from what it serves.
