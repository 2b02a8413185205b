//! A second copy of what lies in a folder's file, for those who want to be able to bring back what they write over.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crdtfs_core::content::ContentRef;
use crdtfs_core::id::Hash;

use crate::index::key;
use crate::pack::Codec;
use crate::share::ShareContent;

impl ShareContent {
    /// Copies the chunks of a content that lie nowhere but in folders' files into the packs; `file` holds the content, or
    /// did: what was written over meanwhile is left out, as it is lost already.
    pub fn keep_copy(&self, content: &ContentRef, file: &File) -> io::Result<()> {
        let inner = &self.store().inner;
        let (spans, _) = inner.spans(content, 0..content.size)?;
        let mut bytes = Vec::new();
        for span in spans {
            if inner.index.read().owns(&key(&span.hash)) {
                continue;
            }
            bytes.resize(span.len as usize, 0);
            match file.read_exact_at(&mut bytes, span.offset) {
                Ok(()) if Hash::of(&bytes) == span.hash => inner.put(&span.hash, &bytes, Codec::Raw)?,
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
