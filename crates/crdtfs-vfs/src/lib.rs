//! POSIX semantics over ports: inodes, handles, write buffering.
