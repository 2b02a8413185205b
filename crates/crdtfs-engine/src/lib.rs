//! What runs the shares of one state directory: their life, the scheduling of fetches, the budgets.
//!
//! Adapters ([`present::Presenter`]) show a share to the user; the engine gives them the share's ports and knows nothing
//! of FUSE or of watched folders.

pub mod incarnation;
pub mod present;
pub mod registry;
pub mod state;
