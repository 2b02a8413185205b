//! The control socket: requests, replies, the client.
