//! Positions in directories.
//!
//! A position is valid for as long as the directory is known, whatever comes and goes: it stands for a name, and a
//! listing goes on with the first name after it (in the order of the names' bytes).

use std::collections::HashMap;

use crdtfs_core::name::Name;

/// Position after `.`.
pub(crate) const AFTER_DOT: u64 = 1;
/// Position after `..`, before the first name.
pub(crate) const AFTER_DOT_DOT: u64 = 2;

/// The names that positions stand for.
#[derive(Debug, Default)]
pub(crate) struct Cookies {
    names: Vec<Name>,
    positions: HashMap<Name, u64>,
}

impl Cookies {
    /// The position after a name.
    pub(crate) fn after(&mut self, name: &Name) -> u64 {
        if let Some(&position) = self.positions.get(name) {
            return position;
        }
        self.names.push(name.clone());
        let position = self.names.len() as u64 + AFTER_DOT_DOT;
        self.positions.insert(name.clone(), position);
        position
    }

    /// The name that a position comes after; `None` for a position that was never handed out.
    pub(crate) fn name(&self, position: u64) -> Option<&Name> {
        let index = position.checked_sub(AFTER_DOT_DOT + 1)?;
        self.names.get(usize::try_from(index).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_keeps_its_name() {
        let name = |text: &str| Name::try_from(text).expect("legal");
        let mut cookies = Cookies::default();
        let a = cookies.after(&name("a"));
        let b = cookies.after(&name("b"));
        assert_ne!(a, b);
        assert_eq!(cookies.after(&name("a")), a);
        assert_eq!(cookies.name(b), Some(&name("b")));
        assert_eq!(cookies.name(AFTER_DOT_DOT), None);
        assert_eq!(cookies.name(99), None);
    }
}
