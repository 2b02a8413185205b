//! Ends of the process that tests arrange: before the n-th change that is made in a folder, its thread panics.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, LazyLock};

use parking_lot::Mutex;

/// Changes left until the end; negative: no end.
pub(crate) type Fuse = Arc<AtomicI64>;

static FUSES: LazyLock<Mutex<HashMap<PathBuf, Fuse>>> = LazyLock::new(Mutex::default);

/// The fuse of the folder at a path.
pub(crate) fn fuse_of(path: &Path) -> Fuse {
    FUSES.lock().entry(path.to_owned()).or_insert_with(|| Arc::new(AtomicI64::new(-1))).clone()
}

pub(crate) fn point(fuse: &Fuse) {
    let left = fuse.load(Ordering::SeqCst);
    if left == 0 {
        panic!("the end that the test arranged");
    }
    if left > 0 {
        fuse.store(left - 1, Ordering::SeqCst);
    }
}
