//! Chunks, manifests, the envelope log, snapshots and recovery.
