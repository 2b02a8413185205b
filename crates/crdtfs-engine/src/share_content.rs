//! A share's bytes as adapters see them: the store's window, watched so that what arrives for a folder is known.

pub(crate) mod in_vain;

use std::fs::File;
use std::io;
use std::sync::Arc;

use crdtfs_core::content::ContentRef;
use crdtfs_core::id::InodeId;
use crdtfs_core::port::{Content, FileOpener, FolderContent, Hold, Reader, WriteFile};

use self::in_vain::Noting;
use crate::share::Share;

/// See the module.
struct Watched {
    share: Arc<Share>,
}

impl Share {
    /// The ports of the share's bytes.
    pub(crate) fn ports(self: &Arc<Self>) -> Arc<dyn FolderContent> {
        Arc::new(Watched { share: self.clone() })
    }
}

impl Watched {
    fn inner(&self) -> &crdtfs_store::ShareContent {
        self.share.content()
    }

    /// Where the user wants it, keeps what lies in a folder's file a second time: its next version will be written over it.
    fn keep_copy(&self, content: &ContentRef, file: &File) -> io::Result<()> {
        if self.share.history_options.keep_local {
            self.inner().keep_copy(content, file)?;
        }
        Ok(())
    }

    /// What is kept here may be what another file lacks.
    fn noted(&self, kept: io::Result<ContentRef>) -> io::Result<ContentRef> {
        kept.inspect(|content| self.share.arrived(content))
    }
}

impl Content for Watched {
    fn open(&self, content: &ContentRef) -> io::Result<Arc<dyn Reader>> {
        self.share.note_use(content);
        // A merged text is in the view before the store has it.
        if !self.inner().is_local(content)
            && let Some(bytes) = self.share.read(|replica| replica.view().merged(&content.hash))
        {
            self.share.store().put_bytes(&bytes)?;
        }
        let inner = self.inner().open(content)?;
        Ok(Arc::new(Noting { share: self.share.clone(), content: *content, inner }))
    }

    fn is_local(&self, content: &ContentRef) -> bool {
        self.share.has_whole(content)
    }

    fn allocated(&self, content: &ContentRef) -> Option<u64> {
        self.inner().allocated(content)
    }

    fn write_file(&self, base: Option<&ContentRef>) -> io::Result<Arc<dyn WriteFile>> {
        self.inner().write_file(base)
    }

    fn seal(&self, file: &dyn WriteFile, go_on: &dyn Fn() -> bool) -> io::Result<Option<ContentRef>> {
        self.inner().seal(file, go_on)?.map(|content| self.noted(Ok(content))).transpose()
    }

    fn put(&self, bytes: &[u8]) -> io::Result<ContentRef> {
        self.noted(self.inner().put(bytes))
    }

    fn hold(&self) -> Hold {
        Hold::new(self.share.store().lease())
    }

    fn make_room(&self) -> bool {
        self.share.events.make_room()
    }

    fn discard(&self, file: Arc<dyn WriteFile>) {
        self.inner().discard(file);
    }

    fn leave(&self, file: Arc<dyn WriteFile>, note: &[u8]) -> io::Result<()> {
        self.inner().leave(file, note)
    }

    fn recover(&self) -> io::Result<Vec<(Vec<u8>, Arc<dyn WriteFile>)>> {
        self.inner().recover()
    }
}

impl FolderContent for Watched {
    fn index_file(&self, key: InodeId, file: &File, like: Option<&ContentRef>) -> io::Result<ContentRef> {
        let content = self.noted(self.inner().index_file(key, file, like))?;
        self.keep_copy(&content, file)?;
        Ok(content)
    }

    fn keep_file(&self, content: &ContentRef, file: &File, instead: Option<InodeId>) -> io::Result<()> {
        self.inner().keep_file(content, file, instead)
    }

    fn forget_file(&self, key: InodeId) -> io::Result<()> {
        self.inner().forget_file(key)
    }

    fn fetch_into(&self, key: InodeId, content: &ContentRef, file: &File) -> io::Result<()> {
        self.inner().fetch_into(key, content, file)?;
        self.keep_copy(content, file)?;
        self.share.arrived(content);
        self.share.told_progress();
        Ok(())
    }

    fn fetch_many(&self, wanted: &[(InodeId, ContentRef, &File)]) -> Vec<io::Result<()>> {
        let mut outcomes = self.inner().fetch_many(wanted);
        for ((_, content, file), outcome) in wanted.iter().zip(&mut outcomes) {
            if outcome.is_ok() {
                *outcome = self.keep_copy(content, file);
            }
        }
        for ((_, content, _), outcome) in wanted.iter().zip(&outcomes) {
            if outcome.is_ok() {
                self.share.arrived(content);
            }
        }
        self.share.told_progress();
        outcomes
    }

    fn set_opener(&self, opener: Arc<dyn FileOpener>) {
        self.inner().set_opener(opener);
    }
}
