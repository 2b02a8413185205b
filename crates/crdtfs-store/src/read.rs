//! Reading chunks and chunk lists. Every chunk is verified by blake3 whenever it leaves a container.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use crdtfs_core::content::{ChunkRef, ContentRef, SINGLE_CHUNK_MAX};
use crdtfs_core::id::Hash;

use crate::error::StoreError;
use crate::index::{Container, Place, key};
use crate::manifest::{self, Need, Node};
use crate::store::{ChunkList, ChunkSpan, Inner, Missing};

/// Chunks of a content, and the nodes of its manifest that lack.
pub(crate) type Spans = (Vec<ChunkSpan>, Vec<Need>);

impl Inner {
    /// A chunk from wherever it lies. A place where it turns out not to be is forgotten.
    pub(crate) fn read_chunk(&self, hash: &Hash) -> Result<Option<Vec<u8>>, StoreError> {
        for _ in 0..3 {
            match self.try_read_chunk(hash) {
                // The chunk has just been moved out of a pack that was compacted: look again.
                Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
                other => return other,
            }
        }
        Ok(None)
    }

    fn try_read_chunk(&self, hash: &Hash) -> Result<Option<Vec<u8>>, StoreError> {
        let key = key(hash);
        let places: Vec<(Place, Option<Container>)> = {
            let index = self.index.read();
            index.places(&key).map(|place| (place, index.containers.get(&place.container).cloned())).collect()
        };
        let mut failed = None;
        for (place, container) in places {
            let Some(container) = container else { continue };
            match self.read_place(place, &container) {
                Ok(bytes) if Hash::of(&bytes) == *hash => return Ok(Some(bytes)),
                Ok(_) => self.not_there(hash, place, &container),
                Err(error) => match (error.kind(), &container) {
                    // On its way to its place, or to its removal: the folder will say which.
                    (io::ErrorKind::NotFound, Container::Folder { .. }) => {}
                    (io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData, _) => {
                        self.not_there(hash, place, &container);
                    }
                    (io::ErrorKind::NotFound, Container::Object(_)) => {
                        tracing::error!(container = place.container, "an object is gone; its chunks are fetched again");
                        self.index.write().drop_container(place.container);
                    }
                    _ => failed = Some(error),
                },
            }
        }
        failed.map_or(Ok(None), |error| Err(StoreError::io("read a chunk in", &self.dir)(error)))
    }

    /// As [`Inner::read_chunk`], through the cache of chunks that were verified lately.
    pub(crate) fn read_cached(&self, hash: &Hash) -> Result<Option<Arc<[u8]>>, StoreError> {
        let key = key(hash);
        if let Some(bytes) = self.chunk_cache.lock().get(&key) {
            return Ok(Some(bytes));
        }
        let Some(bytes) = self.read_chunk(hash)? else { return Ok(None) };
        let bytes: Arc<[u8]> = bytes.into();
        self.chunk_cache.lock().put(key, bytes.clone());
        Ok(Some(bytes))
    }

    /// A chunk is not where the index has it.
    fn not_there(&self, hash: &Hash, place: Place, container: &Container) {
        if self.is_arriving(place.container, container) {
            self.file_cache.lock().remove(place.container);
            return;
        }
        let mut index = self.index.write();
        match container {
            Container::Folder { .. } => {
                // Changed since it was indexed; the folder will say so too.
                index.mark_stale(place.container);
                drop(index);
                self.file_cache.lock().remove(place.container);
            }
            Container::Filling => index.drop_place(&key(hash), place.container),
            Container::Pack | Container::Object(_) => {
                tracing::error!(%hash, container = place.container, "a stored chunk went bad; it is fetched again");
                index.drop_place(&key(hash), place.container);
                drop(index);
                self.wake.poke();
            }
        }
    }

    /// Whether the folder has another file where one that was filled is to be: it has not moved it there yet.
    fn is_arriving(&self, id: u32, container: &Container) -> bool {
        use std::os::unix::fs::MetadataExt;
        let Some((dev, ino, _)) = self.arriving.lock().get(&id).copied() else { return false };
        let meta = self.container_file(id, container).and_then(|file| file.metadata());
        meta.is_ok_and(|meta| (meta.dev(), meta.ino()) != (dev, ino))
    }

    fn read_place(&self, place: Place, container: &Container) -> io::Result<Vec<u8>> {
        if *container == Container::Pack {
            return self.packs.read((place.container, place.offset()), place.len());
        }
        let file = self.container_file(place.container, container)?;
        let mut bytes = vec![0; place.len() as usize];
        file.read_exact_at(&mut bytes, place.offset())?;
        Ok(bytes)
    }

    /// The file of a container that is no pack.
    pub(crate) fn container_file(&self, id: u32, container: &Container) -> io::Result<Arc<File>> {
        if let Some(file) = self.file_cache.lock().get(id) {
            return Ok(file);
        }
        let (file, folder) = match container {
            Container::Pack => return Err(io::ErrorKind::InvalidInput.into()),
            Container::Filling => return self.fillings.file(id).ok_or_else(|| io::ErrorKind::NotFound.into()),
            Container::Object(content) => (Arc::new(File::open(self.object_path(content))?), false),
            Container::Folder { share, key, .. } => {
                let share = self.index.read().share_id(*share);
                let opener = self.openers.read().get(&share).cloned().ok_or(io::ErrorKind::NotFound)?;
                (Arc::new(opener.open(*key)?), true)
            }
        };
        self.file_cache.lock().put(id, file.clone(), folder);
        if folder {
            self.wake.poke();
        }
        Ok(file)
    }

    /// Lets go of the files that are not the store's.
    pub(crate) fn close_folder_files(&self) {
        self.file_cache.lock().close_folder_files();
    }

    /// A node of a manifest, if it is here. The error is of a node that is malformed: whoever made it lied.
    pub(crate) fn manifest_node(
        &self,
        hash: &Hash,
        size: u64,
        level: Option<u8>,
        last: bool,
    ) -> Result<Option<Node>, StoreError> {
        let Some(bytes) = self.read_cached(hash)? else { return Ok(None) };
        let node = manifest::parse(&bytes, size, level, last);
        let malformed = |reason: &str| StoreError::Malformed { content: hash.to_string(), reason: reason.into() };
        node.map(Some).map_err(malformed)
    }

    /// The chunks that cover a part of a content, and the nodes that lack.
    pub(crate) fn spans(&self, content: &ContentRef, range: std::ops::Range<u64>) -> Result<Spans, StoreError> {
        let content = self.resolve(content);
        if content.size == 0 {
            return Ok((Vec::new(), Vec::new()));
        }
        if content.size <= SINGLE_CHUNK_MAX {
            return Ok((vec![ChunkSpan { hash: content.hash, offset: 0, len: content.size as u32 }], Vec::new()));
        }
        if content.size > manifest::MAX_CONTENT {
            let reason = format!("{} bytes, over the limit of 16 TiB", content.size);
            return Err(StoreError::Malformed { content: content.hash.to_string(), reason });
        }
        let Some(root) = content.manifest else {
            return Ok((Vec::new(), vec![Need { hash: Hash([0; 32]), offset: 0, size: content.size }]));
        };
        let mut spans = Vec::new();
        let mut node = |hash: &Hash, size, level, last| self.manifest_node(hash, size, level, last);
        let needs = manifest::walk(root, content.size, range, &mut node, &mut |offset, hash, len| {
            spans.push(ChunkSpan { hash, offset, len });
            Ok(())
        })?;
        Ok((spans, needs))
    }

    /// A chunk or a node of a manifest, if it is what it says that it is part of, as far as the manifest is here.
    pub(crate) fn read_part(&self, chunk: &ChunkRef) -> Result<Option<Vec<u8>>, StoreError> {
        if let Some(part) = &chunk.part
            && !self.contains(&part.content, part.offset, &chunk.hash)?
        {
            return Ok(None);
        }
        self.read_chunk(&chunk.hash)
    }

    /// Whether a chunk or node at a place of a content is the one with this hash.
    fn contains(&self, content: &ContentRef, offset: u64, hash: &Hash) -> Result<bool, StoreError> {
        let content = self.resolve(content);
        let Some(root) = content.manifest.filter(|_| offset < content.size) else { return Ok(false) };
        let mut found = false;
        let mut node = |node: &Hash, size, level, last| {
            found |= node == hash;
            // What lies below the one that is asked for need not be looked at.
            if found { Ok(None) } else { self.manifest_node(node, size, level, last) }
        };
        let mut leaf = false;
        manifest::walk(root, content.size, offset..offset + 1, &mut node, &mut |at, chunk, _| {
            leaf |= at == offset && chunk == *hash;
            Ok::<_, StoreError>(())
        })?;
        Ok(found || leaf)
    }

    /// The chunks of a content if its whole manifest is here and readable, else none.
    pub(crate) fn known_chunks(&self, content: &ContentRef) -> Vec<ChunkSpan> {
        let spans = self.spans(content, 0..content.size).ok();
        spans.filter(|(_, needs)| needs.is_empty()).map_or_else(Vec::new, |(spans, _)| spans)
    }

    pub(crate) fn chunk_list(&self, content: &ContentRef) -> Result<ChunkList, StoreError> {
        let (spans, needs) = self.spans(content, 0..content.size)?;
        if needs.is_empty() { Ok(ChunkList::Whole(spans)) } else { Ok(ChunkList::Needs(named(&needs))) }
    }

    pub(crate) fn missing(&self, content: &ContentRef) -> Result<Missing, StoreError> {
        let content_key = key(&content.hash);
        let losses = {
            let index = self.index.read();
            if content.size == 0 || index.is_complete(&content_key) {
                return Ok(Missing::default());
            }
            index.losses()
        };
        let (spans, needs) = self.spans(content, 0..content.size)?;
        let mut missing = Missing { manifest_nodes: named(&needs), ..Missing::default() };
        missing.bytes = needs.iter().map(|need| need.size).sum();
        let mut seen = std::collections::HashSet::new();
        {
            let index = self.index.read();
            for span in spans {
                if !index.has(&key(&span.hash)) {
                    missing.bytes += u64::from(span.len);
                    if seen.insert(span.hash) {
                        missing.chunks.push((span.hash, span.len));
                    }
                }
            }
        }
        if missing.chunks.is_empty() && needs.is_empty() && content.size > SINGLE_CHUNK_MAX {
            self.index.write().note_complete(content_key, losses);
        }
        Ok(missing)
    }

    pub(crate) fn is_local(&self, content: &ContentRef) -> bool {
        if content.size <= SINGLE_CHUNK_MAX {
            return content.size == 0 || self.index.read().has(&key(&content.hash));
        }
        // What lacks a chunk that lies far behind takes long to look through. Nobody waits for a file that is being begun.
        if self.fillings.is_known(content) {
            return false;
        }
        self.missing(content)
            .is_ok_and(|missing| missing.chunks.is_empty() && missing.manifest_nodes.is_empty() && missing.bytes == 0)
    }
}

/// Nodes that can be asked for: a manifest that nobody named cannot.
fn named(needs: &[Need]) -> Vec<Hash> {
    needs.iter().map(|need| need.hash).filter(|hash| hash.0 != [0; 32]).collect()
}
