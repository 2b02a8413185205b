//! crdtfs.
fn main() {}
