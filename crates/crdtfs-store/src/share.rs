//! One share's window on the store: the content ports.

use std::fs::File;
use std::io;
use std::sync::Arc;

use crdtfs_core::content::ContentRef;
use crdtfs_core::id::{InodeId, ShareId};
use crdtfs_core::port::{Content, FileOpener, FolderContent, Reader, WriteFile};

use crate::error::StoreError;
use crate::source::{ChunkSource, Urgency};
use crate::store::Store;

/// The bytes of one share. Cheap to clone.
#[derive(Clone)]
pub struct ShareContent {
    store: Store,
    share: ShareId,
    source: Arc<dyn ChunkSource>,
}

impl ShareContent {
    /// The window of `share`; what is not here comes from `source`.
    pub fn new(store: Store, share: ShareId, source: Arc<dyn ChunkSource>) -> Result<Self, StoreError> {
        Ok(Self { store, share, source })
    }

    /// Fetches what is missing of these contents into the store (packs, objects); an outcome for each. Blocks.
    pub fn fetch(&self, contents: &[ContentRef], urgency: Urgency) -> Vec<io::Result<()>> {
        let _ = (contents, urgency, &self.store, &self.share, &self.source);
        unimplemented!()
    }

    /// All bytes of a content, for merges; fetched if need be.
    pub fn read_all(&self, content: &ContentRef, urgency: Urgency) -> io::Result<Vec<u8>> {
        let _ = (content, urgency);
        unimplemented!()
    }
}

impl Content for ShareContent {
    fn open(&self, _: &ContentRef) -> io::Result<Arc<dyn Reader>> {
        unimplemented!()
    }
    fn is_local(&self, _: &ContentRef) -> bool {
        unimplemented!()
    }
    fn write_file(&self, _: Option<&ContentRef>) -> io::Result<Arc<dyn WriteFile>> {
        unimplemented!()
    }
    fn seal(&self, _: &dyn WriteFile) -> io::Result<ContentRef> {
        unimplemented!()
    }
    fn put(&self, _: &[u8]) -> io::Result<ContentRef> {
        unimplemented!()
    }
    fn discard(&self, _: Arc<dyn WriteFile>) {}
    fn recover(&self) -> io::Result<Vec<(Vec<u8>, Arc<dyn WriteFile>)>> {
        unimplemented!()
    }
}

impl FolderContent for ShareContent {
    fn index_file(&self, _: InodeId, _: &File) -> io::Result<ContentRef> {
        unimplemented!()
    }
    fn forget_file(&self, _: InodeId) -> io::Result<()> {
        unimplemented!()
    }
    fn fetch_into(&self, _: InodeId, _: &ContentRef, _: &File) -> io::Result<()> {
        unimplemented!()
    }
    fn fetch_many(&self, _: &[(InodeId, ContentRef, &File)]) -> Vec<io::Result<()>> {
        unimplemented!()
    }
    fn set_opener(&self, _: Arc<dyn FileOpener>) {}
}
