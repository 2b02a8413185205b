//! FUSE: calls in, replies out.
