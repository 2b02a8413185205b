//! The watched folder: a share as plain files that are kept in sync.
//!
//! Three trees: the last synced one (`synced`, kept in `state`), the folder now (`observe`), and the view. What the
//! folder has otherwise than the last synced tree was done by the user (`local`) and is published (`publish`); what the
//! view has otherwise was done elsewhere (`remote`) and is applied (`apply`). Both differences become steps by one pure
//! planner (`plan`); merging what happened on both sides is the view's business alone.
//!
//! What it promises: a file is replaced or removed only in exactly the state that was synced, so no edit is overwritten
//! unseen; what cannot be seen (unreadable, unmounted, events lost) counts as unchanged and is never taken for deleted; a
//! crash at any point is resumed by the next start without a conflict copy that nobody made and without temporary files
//! left over.

mod alias;
#[cfg(test)]
mod alias_test;
mod aliased;
mod apply;
mod aside;
mod conflict;
#[cfg(test)]
mod crash;
mod crew;
mod disk;
mod filesystem;
#[cfg(test)]
mod folder_test;
mod ignores;
mod journal;
#[cfg(test)]
mod kept_test;
mod local;
mod mailbox;
#[cfg(test)]
mod numbers_test;
mod observe;
mod plan;
#[cfg(test)]
mod plan_test;
mod presenter;
mod publish;
mod remote;
#[cfg(test)]
mod remote_test;
mod renumbered;
#[cfg(test)]
mod renumbered_test;
mod state;
mod stepwise;
mod synced;
#[cfg(test)]
mod vanished_test;
#[cfg(test)]
mod waits_test;
mod watch;
mod worker;

pub use presenter::FolderPresenter;
