//! Objects: files of the store that hold one large content each.
//!
//! A sealed write file becomes an object by a hard link; a fetched one is filled as `NAME.part` and renamed. No pack names
//! an object before its bytes are durable; one that no pack names after a crash is a partial one again, and its good
//! chunks are found when the content is fetched.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crdtfs_core::content::ContentRef;
use rustix::fs::{AtFlags, CWD, linkat};

use crate::error::StoreError;
use crate::index::{Container, Note, Place, key};
use crate::store::{ChunkSpan, Inner, UnsyncedObject};

/// Contents from this size on are kept in a file of their own.
pub(crate) const OBJECT_FROM: u64 = 1 << 20;

impl Inner {
    pub(crate) fn objects_dir(&self) -> PathBuf {
        self.dir.join("objects")
    }

    /// The object of a content, there or not.
    pub(crate) fn object_path(&self, content: &ContentRef) -> PathBuf {
        let manifest = content.manifest.map_or_else(|| "none".into(), |hash| hash.to_string());
        self.objects_dir().join(format!("{}.{manifest}", content.hash))
    }

    /// Bytes of disk that the object of a content takes, if it has one: large ones only, and those that are whole.
    pub(crate) fn allocated(&self, content: &ContentRef) -> Option<u64> {
        if content.size < OBJECT_FROM {
            return None;
        }
        let meta = fs::metadata(self.object_path(&self.resolve(content))).ok()?;
        (meta.len() == content.size).then(|| meta.blocks() * 512)
    }

    /// As it is called while it is being filled.
    pub(crate) fn part_path(&self, content: &ContentRef) -> PathBuf {
        let mut name = self.object_path(content).into_os_string();
        name.push(".part");
        name.into()
    }

    /// The object that holds a content, if there is one.
    pub(crate) fn object_of(&self, content: &ContentRef) -> Option<(u32, Arc<File>)> {
        let content = self.resolve(content);
        let (spans, _) = self.spans(&content, 0..1).ok()?;
        let (id, container) = {
            let index = self.index.read();
            let is_object = |place: &Place| match index.containers.get(&place.container) {
                Some(Container::Object(other)) => other.hash == content.hash && other.size == content.size,
                _ => false,
            };
            let id = index.places(&key(&spans.first()?.hash)).find(is_object)?.container;
            (id, index.containers.get(&id)?.clone())
        };
        let file = self.container_file(id, &container).ok()?;
        (file.metadata().ok()?.len() == content.size).then_some((id, file))
    }

    /// Whether the content has its object already, which stays for now then.
    fn touch_object(&self, content: &ContentRef, first: &ChunkSpan) -> bool {
        // In this order: once it is touched it stays, and then it is there or not.
        self.marks_touched(&[key(&content.hash), key(&first.hash)]);
        self.object_of(content).is_some()
    }

    /// Makes a file of the store, which holds exactly a content and which nobody writes any more, its object.
    pub(crate) fn adopt_object(
        &self,
        path: &Path,
        file: Arc<File>,
        content: &ContentRef,
        spans: &[ChunkSpan],
    ) -> Result<(), StoreError> {
        if spans.first().is_some_and(|first| self.touch_object(content, first)) {
            return Ok(());
        }
        let to = self.object_path(content);
        // Followed: an open file is named by a link of the system's.
        let link = || Ok::<_, io::Error>(linkat(CWD, path, CWD, &to, AtFlags::SYMLINK_FOLLOW)?);
        match link() {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                // Left by a container that was dropped, or by a crash.
                fs::remove_file(&to).and_then(|()| link())
            }
            other => other,
        }
        .map_err(StoreError::io("link an object as", &to))?;
        let id = self.fresh_id();
        {
            let mut index = self.index.write();
            index.begin_filling(id);
            for span in spans {
                index.add(key(&span.hash), Place::new(id, span.offset, span.len));
            }
        }
        self.object_is_whole(id, content, file);
        Ok(())
    }

    /// A container that was being filled holds all of its content under its object's name.
    pub(crate) fn object_is_whole(&self, id: u32, content: &ContentRef, file: Arc<File>) {
        self.unsynced.lock().push(UnsyncedObject { id, content: *content, file });
        self.index.write().filled(id, content);
        self.wake.poke();
    }

    /// Makes objects durable, then has the packs name them.
    pub(crate) fn sync_objects(&self) -> Result<(), StoreError> {
        let _one = self.object_sync.lock();
        let objects: Vec<UnsyncedObject> = std::mem::take(&mut *self.unsynced.lock());
        if objects.is_empty() {
            return Ok(());
        }
        let mut done = 0;
        let result = self.name_objects(&objects, &mut done);
        if result.is_err() {
            self.unsynced.lock().extend(objects.into_iter().skip(done));
        }
        result
    }

    fn name_objects(&self, objects: &[UnsyncedObject], done: &mut usize) -> Result<(), StoreError> {
        for object in objects {
            object.file.sync_all().map_err(StoreError::io("sync", &self.object_path(&object.content)))?;
        }
        let dir = self.objects_dir();
        File::open(&dir).and_then(|dir| dir.sync_all()).map_err(StoreError::io("sync", &dir))?;
        for UnsyncedObject { id, content, .. } in objects {
            // Dropped since (collected, gone bad): nothing to name.
            if self.index.read().containers.contains_key(id) {
                let (spans, _) = self.spans(content, 0..content.size)?;
                let places = spans.iter().map(|span| (key(&span.hash), Place::new(*id, span.offset, span.len)));
                self.note(&Note::Object { id: *id, content: *content }, |index| index.persist(places))?;
            }
            *done += 1;
        }
        Ok(())
    }
}
