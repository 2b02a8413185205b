//! The iroh endpoint, discovery, streams; drives the core's sync.
