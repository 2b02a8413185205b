//! Rules of the merge that a test can switch off one by one, to show that its checks would notice.
//!
//! No feature of the build: the crates that tests and programs share would be built twice for it. Only the test kit switches
//! one off.

use super::View;

/// A rule that is switched off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// Nothing is pinned that an operation disturbs.
    Pins,
    /// A deletion takes also what its author had not seen.
    DeleteSeen,
    /// A deletion says nothing of the names that were removed before.
    DeletionSaidAgain,
    /// A record sets all fields, also those that its author left as they were.
    FieldStamps,
    /// A record does not tell what else its author saw.
    Saw,
    /// Conflict copies stay where they are when somebody works on them or on their holder.
    Promotion,
    /// What is shown as one is not made one by an operation on it.
    TwinAdoption,
    /// Texts are merged on their first common version rather than on the last.
    BaseRule,
    /// Of several last common versions one is the base, rather than their own merge.
    Recursion,
}

impl Mutation {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Pins,
        Self::DeleteSeen,
        Self::DeletionSaidAgain,
        Self::FieldStamps,
        Self::Saw,
        Self::Promotion,
        Self::TwinAdoption,
        Self::BaseRule,
        Self::Recursion,
    ];
}

impl View {
    /// Whether a rule is switched off.
    pub(super) fn lacks(&self, rule: Mutation) -> bool {
        self.mutation == Some(rule)
    }

    /// Switches a rule off, before the first record: for tests of tests.
    #[doc(hidden)]
    pub fn mutate(&mut self, rule: Option<Mutation>) {
        self.mutation = rule;
    }
}
