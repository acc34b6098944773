//! Runs beside live storage: captures, spools, sends.
