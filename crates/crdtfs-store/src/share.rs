//! One share's window on the store: the content ports.

use std::any::Any;
use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crdtfs_core::content::ContentRef;
use crdtfs_core::id::{InodeId, ShareId};
use crdtfs_core::port::{Content, FileOpener, FolderContent, Reader, RecoveredFile, WriteFile};
use parking_lot::Mutex;

use crate::error::StoreError;
use crate::fetch::{self, Into};
use crate::journal;
use crate::reader::{ContentReader, InFlight, Window};
use crate::source::{ChunkSource, Urgency};
use crate::storage::fresh_nonce;
use crate::store::Store;
use crate::write::Handle;

/// The bytes of one share. Cheap to clone. Make one a share and engine: it looks after the share's write files.
#[derive(Clone)]
pub struct ShareContent {
    share: ShareId,
    window: Arc<Window>,
    write_dir: Arc<Path>,
    recovered: Arc<Mutex<Vec<RecoveredFile>>>,
}

impl std::fmt::Debug for ShareContent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ShareContent").field("share", &self.share).finish_non_exhaustive()
    }
}

impl ShareContent {
    /// The window of `share`; what is not here comes from `source`. Write files that an earlier run synced and did not
    /// seal are kept for [`Content::recover`], others are removed.
    pub fn new(store: Store, share: ShareId, source: Arc<dyn ChunkSource>) -> Result<Self, StoreError> {
        let write_dir: Arc<Path> = store.inner.dir.join("write").join(&share.to_string()[..16]).into();
        fs::create_dir_all(&write_dir).map_err(StoreError::io("create", &write_dir))?;
        let window = Arc::new(Window { store, source, in_flight: InFlight::default() });
        let recovered = recover(&window, &write_dir).map_err(StoreError::io("recover write files in", &write_dir))?;
        Ok(Self { share, window, write_dir, recovered: Arc::new(Mutex::new(recovered)) })
    }

    /// Fetches what is missing of these contents into the store (packs, objects); an outcome for each. Blocks. What is
    /// here already costs nothing, what was interrupted goes on where it was.
    pub fn fetch(&self, contents: &[ContentRef], urgency: Urgency) -> Vec<io::Result<()>> {
        let wanted: Vec<_> = contents.iter().map(|content| (*content, Into::Store)).collect();
        fetch::fetch(&self.window.store.inner, &*self.window.source, &wanted, urgency)
    }

    /// All bytes of a content, for merges; fetched if need be.
    pub fn read_all(&self, content: &ContentRef, urgency: Urgency) -> io::Result<Vec<u8>> {
        let reader = ContentReader::new(self.window.clone(), content, urgency);
        let mut bytes = vec![0; usize::try_from(content.size).map_err(|_| io::ErrorKind::OutOfMemory)?];
        reader.read_at(&mut bytes, 0)?;
        Ok(bytes)
    }

    /// The store behind.
    pub fn store(&self) -> &Store {
        &self.window.store
    }

    fn stem(&self) -> PathBuf {
        let mut name = String::new();
        for byte in fresh_nonce() {
            name.push_str(&format!("{byte:02x}"));
        }
        self.write_dir.join(name)
    }

    fn fetch_folder(&self, wanted: &[(InodeId, ContentRef, &File)], urgency: Urgency) -> Vec<io::Result<()>> {
        let wanted: Vec<_> =
            wanted.iter().map(|(key, content, file)| (*content, Into::Folder(self.share, *key, file))).collect();
        fetch::fetch(&self.window.store.inner, &*self.window.source, &wanted, urgency)
    }
}

/// Finds the write files that were synced; removes those that were not.
fn recover(window: &Arc<Window>, dir: &Path) -> io::Result<Vec<RecoveredFile>> {
    let mut recovered: Vec<RecoveredFile> = Vec::new();
    let mut kept = HashSet::new();
    let paths: Vec<PathBuf> = fs::read_dir(dir)?.flatten().map(|entry| entry.path()).collect();
    for path in &paths {
        if path.extension().is_none_or(|extension| extension != "journal") {
            continue;
        }
        let Some(replay) = journal::replay(&fs::read(path)?) else { continue };
        kept.insert(path.with_extension(""));
        match Handle::recover(window, path.with_extension(""), replay) {
            Ok((note, handle)) => recovered.push((note, Arc::new(handle))),
            // Its files stay where they are: they may be worth a look.
            Err(error) => tracing::error!(path = %path.display(), %error, "cannot recover a write file"),
        }
    }
    for path in paths.iter().filter(|path| !kept.contains(&path.with_extension(""))) {
        fs::remove_file(path)?;
    }
    Ok(recovered)
}

fn own(file: &dyn WriteFile) -> io::Result<&Handle> {
    let stranger = || io::Error::new(io::ErrorKind::InvalidInput, "the write file of another store");
    (file as &dyn Any).downcast_ref().ok_or_else(stranger)
}

impl Content for ShareContent {
    fn open(&self, content: &ContentRef) -> io::Result<Arc<dyn Reader>> {
        Ok(Arc::new(ContentReader::new(self.window.clone(), content, Urgency::Read)))
    }

    fn is_local(&self, content: &ContentRef) -> bool {
        self.window.store.is_local(content)
    }

    fn allocated(&self, content: &ContentRef) -> Option<u64> {
        self.window.store.inner.allocated(content)
    }

    fn write_file(&self, base: Option<&ContentRef>) -> io::Result<Arc<dyn WriteFile>> {
        Ok(Arc::new(Handle::begin(self.window.clone(), self.stem(), base)?))
    }

    fn seal(&self, file: &dyn WriteFile, go_on: &dyn Fn() -> bool) -> io::Result<Option<ContentRef>> {
        own(file)?.seal(go_on)
    }

    fn put(&self, bytes: &[u8]) -> io::Result<ContentRef> {
        Ok(self.window.store.put_bytes(bytes)?)
    }

    fn discard(&self, file: Arc<dyn WriteFile>) {
        if let Ok(handle) = own(&*file) {
            handle.discard();
        }
    }

    fn leave(&self, file: Arc<dyn WriteFile>, note: &[u8]) -> io::Result<()> {
        own(&*file)?.leave(note)?;
        self.recovered.lock().push((note.to_vec(), file));
        Ok(())
    }

    fn recover(&self) -> io::Result<Vec<RecoveredFile>> {
        let recovered = std::mem::take(&mut *self.recovered.lock());
        Ok(recovered)
    }
}

impl FolderContent for ShareContent {
    fn index_file(&self, key: InodeId, file: &File, like: Option<&ContentRef>) -> io::Result<ContentRef> {
        self.window.store.inner.index_file(self.share, key, file, like)
    }

    fn keep_file(&self, content: &ContentRef, file: &File, instead: Option<InodeId>) -> io::Result<()> {
        self.window.store.inner.keep_file(self.share, content, file, instead)
    }

    fn forget_file(&self, key: InodeId) -> io::Result<()> {
        Ok(self.window.store.inner.forget_file(self.share, key)?)
    }

    fn fetch_into(&self, key: InodeId, content: &ContentRef, file: &File) -> io::Result<()> {
        self.fetch_folder(&[(key, *content, file)], Urgency::Apply).pop().unwrap_or(Ok(()))
    }

    fn fetch_many(&self, wanted: &[(InodeId, ContentRef, &File)]) -> Vec<io::Result<()>> {
        self.fetch_folder(wanted, Urgency::Apply)
    }

    fn set_opener(&self, opener: Arc<dyn FileOpener>) {
        self.window.store.inner.openers.write().insert(self.share, opener);
    }
}
