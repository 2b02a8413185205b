//! Reads of versions that nobody has any more.
//!
//! Who writes over a file of a folder takes its bytes away at once, and publishes the new version only when it is written. Who
//! reads the file elsewhere in between waits for bytes that are gone for good. Such a read ends when the next version is
//! known and nothing has come since; and what nobody had a moment ago is not waited for in full again (the kernel asks for the
//! parts of one read one after the other).

use std::collections::{BTreeSet, HashMap};
use std::future::pending;
use std::sync::Weak;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crdtfs_core::content::ContentRef;
use crdtfs_core::id::{DeviceId, Hash, ShareId};
use crdtfs_store::Want;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::core::Core;

/// How long it is remembered that nobody had a content.
const REMEMBERED: Duration = Duration::from_secs(5);
/// How long a replaced version may take to come from somebody who has it still.
const GRACE: Duration = Duration::from_secs(1);

/// The content that a chunk is of.
pub(crate) fn content_of(want: &Want) -> ContentRef {
    let whole = ContentRef { hash: want.chunk.hash, size: want.len.into(), manifest: None };
    want.chunk.part.map_or(whole, |part| part.content)
}

/// Contents that nobody had: when, and who was connected then.
#[derive(Default)]
pub(crate) struct Gone(Mutex<HashMap<Hash, (Instant, BTreeSet<DeviceId>)>>);

impl Gone {
    /// Nobody had it now, of those who are `connected`.
    pub(crate) fn note(&self, content: &ContentRef, connected: BTreeSet<DeviceId>) {
        let mut gone = self.0.lock();
        gone.retain(|_, (when, _)| when.elapsed() < REMEMBERED);
        gone.insert(content.hash, (Instant::now(), connected));
    }

    /// Whether nobody had it a moment ago, and those who are `connected` were so then: anybody else may have it.
    pub(crate) fn is_recent(&self, content: &ContentRef, connected: &BTreeSet<DeviceId>) -> bool {
        let gone = self.0.lock();
        gone.get(&content.hash).is_some_and(|(when, asked)| when.elapsed() < REMEMBERED && connected.is_subset(asked))
    }
}

/// A version that is waited for.
pub(crate) struct Waiting {
    core: Weak<Core>,
    share: ShareId,
    content: ContentRef,
    /// The version that came last, of those besides it.
    newest: Option<ContentRef>,
    progress: watch::Receiver<u64>,
}

impl Waiting {
    pub(crate) fn new(core: &std::sync::Arc<Core>, share: ShareId, content: ContentRef) -> Self {
        let progress = core.progress();
        let newest = newest(core, share, &content);
        Self { core: std::sync::Arc::downgrade(core), share, content, newest, progress }
    }

    /// Ends when another version of the file has come, and nothing of this one does; `came` counts what does.
    pub(crate) async fn until_replaced(mut self, came: &AtomicUsize) {
        loop {
            if self.progress.changed().await.is_err() {
                return pending().await;
            }
            let Some(core) = self.core.upgrade() else { return pending().await };
            let replaced = newest(&core, self.share, &self.content) != self.newest;
            drop(core);
            if replaced {
                break;
            }
        }
        loop {
            let before = came.load(Ordering::Relaxed);
            tokio::time::sleep(GRACE).await;
            if came.load(Ordering::Relaxed) == before {
                return;
            }
        }
    }
}

fn newest(core: &Core, share: ShareId, content: &ContentRef) -> Option<ContentRef> {
    core.share(&share)?.read(|replica| replica.view().other_versions(content, 1)).into_iter().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_had_is_remembered_by_what_it_is() {
        let (gone, one, other) = (Gone::default(), ContentRef::single(b"one"), ContentRef::single(b"other"));
        let [a, b] = [1, 2].map(|n| DeviceId([n; 32]));
        gone.note(&one, [a].into());
        assert!(gone.is_recent(&one, &[a].into()) && !gone.is_recent(&other, &[a].into()));
        assert!(gone.is_recent(&one, &BTreeSet::new()));
        assert!(!gone.is_recent(&one, &[a, b].into()), "the other one was not asked");
        let chunk = crdtfs_core::content::ChunkRef { hash: one.hash, part: None };
        assert_eq!(content_of(&Want { chunk, len: 3, base: None }), one);
    }
}
