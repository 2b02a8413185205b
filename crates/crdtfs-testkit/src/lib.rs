//! Simulated network, disk and clock, the reference model and generators.
