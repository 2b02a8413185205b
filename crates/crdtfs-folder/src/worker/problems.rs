//! What a user should know of the folder: by path, and by what it came of, so that whoever finds that something is well
//! again takes away only what is said of that.

use std::collections::BTreeMap;

use crdtfs_engine::present::Problem;
use parking_lot::Mutex;

/// What a problem came of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Of {
    /// The folder as a whole.
    Folder,
    /// What its filesystem cannot do.
    Lacks,
    /// Looking at it, or reading it.
    Looking,
    /// Taking it into the share.
    Taking,
    /// Bringing it here as the share has it.
    Giving,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Problems(Mutex<BTreeMap<(Vec<u8>, Of), String>>);

impl Problems {
    /// There is one.
    pub(crate) fn say(&self, path: &[u8], of: Of, message: String) {
        self.0.lock().insert((path.to_vec(), of), message);
    }

    /// It is no more.
    pub(crate) fn end(&self, path: &[u8], of: Of) {
        self.0.lock().remove(&(path.to_vec(), of));
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }

    /// As the engine reports them.
    pub(crate) fn all(&self) -> Vec<Problem> {
        let text = |path: &[u8]| String::from_utf8_lossy(path).into_owned();
        self.0
            .lock()
            .iter()
            .map(|((path, _), message)| Problem { path: text(path), message: message.clone() })
            .collect()
    }
}
