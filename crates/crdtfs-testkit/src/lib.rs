//! What the tests of the other crates stand on: a share in memory behind the adapters' ports, and a simulator that
//! checks the merge over random histories.

mod device;
mod journal;
mod meeting;
mod memory;
pub mod records;
mod sim;

pub use device::Device;
pub use meeting::{copies, meet, two};
pub use memory::MemoryShare;
pub use sim::{
    Action, Digest, Failure, SimConfig, Step, generate, replay, replay_without, simulate, simulate_shrunk,
    simulate_without,
};
