//! The thread of a share that fetches what the view needs: bytes of merges first, then all content, smallest first.
//!
//! What nobody reachable has is put aside until somebody comes, or gets more ([`Share::retry_fetches`]); what the disk has no
//! room for, until it has ([`Share::retry_what_fits`]).

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use crdtfs_core::content::ContentRef;
use crdtfs_core::id::InodeId;
use crdtfs_store::Urgency;

use crate::share::Share;

/// Files in one batch.
const BATCH_FILES: usize = 1024;

/// Bytes in one batch; a larger file is a batch of its own.
const BATCH_BYTES: u64 = 32 << 20;

/// See the module.
pub(crate) struct Fetcher {
    share: Arc<Share>,
    thread: Option<JoinHandle<()>>,
}

/// What to do next.
pub(crate) enum Task {
    Stop,
    Merges,
    Batch(Vec<(InodeId, ContentRef)>),
}

impl Fetcher {
    pub(crate) fn start(share: Arc<Share>) -> io::Result<Self> {
        let theirs = share.clone();
        let name = "crdtfs-fetch".to_owned();
        let thread = std::thread::Builder::new().name(name).spawn(move || run(&theirs))?;
        Ok(Self { share, thread: Some(thread) })
    }

    /// Whether it fetches for this share.
    pub(crate) fn is_of(&self, share: &Share) -> bool {
        self.share.id() == share.id()
    }

    /// Ends the thread. A fetch under way has to end by itself: the network is shut down first.
    pub(crate) fn stop(mut self) {
        self.share.stop_fetching();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!(share = %self.share.id(), "the fetcher's thread panicked");
        }
    }
}

fn run(share: &Share) {
    let _span = tracing::info_span!("fetch", share = %share.id()).entered();
    loop {
        match share.next_task(BATCH_FILES, BATCH_BYTES) {
            Task::Stop => return,
            Task::Merges => merge(share),
            Task::Batch(batch) => fetch(share, &batch),
        }
    }
}

/// Gets the bytes of the versions that merges wait for.
fn merge(share: &Share) {
    for content in share.read(|replica| replica.view().wanted()) {
        match share.content().read_all(&content, Urgency::Merge) {
            Ok(bytes) => share.supply(&content, bytes),
            Err(error) => tracing::debug!(content = %content.hash, %error, "a merge waits for bytes"),
        }
    }
}

fn fetch(share: &Share, batch: &[(InodeId, ContentRef)]) {
    let batch = &share.with_room(batch)[..];
    let contents: Vec<_> = batch.iter().map(|(_, content)| *content).collect();
    let outcomes = share.content().fetch(&contents, Urgency::Prefetch);
    for ((inode, content), outcome) in batch.iter().zip(outcomes) {
        match outcome {
            Ok(()) => share.arrived(content),
            Err(error) => {
                tracing::debug!(content = %content.hash, %error, "not fetched");
                share.put_aside(*inode, content, error.kind());
            }
        }
    }
    share.told_progress();
}
