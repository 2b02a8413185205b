//! Verifying every stored byte and reference, and putting right what can be.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::FileExt;

use crdtfs_core::content::ContentRef;
use crdtfs_core::id::Hash;

use crate::error::StoreError;
use crate::index::{Container, Key, KeyMap, Note, Place, key};
use crate::pack::{ENTRY_HEADER, Kind};
use crate::store::{Inner, Store};

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file, relative to the store, or the content.
    pub place: String,
    /// What is wrong with it.
    pub message: String,
    /// What was done about it (with `repair`), if something could be.
    pub mended: Option<String>,
}

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Chunks verified.
    pub chunks: u64,
    /// Bytes verified.
    pub bytes: u64,
    /// What is wrong.
    pub problems: Vec<Problem>,
    /// Contents that are named but not all here (not an error: they are fetched), with the bytes that lack.
    pub incomplete: Vec<(ContentRef, u64)>,
}

impl Report {
    fn problem(&mut self, place: impl Into<String>, message: impl Into<String>) {
        self.problems.push(Problem { place: place.into(), message: message.into(), mended: None });
    }

    /// Something was done about the problems from this one on.
    fn mended(&mut self, from: usize, how: &str) {
        self.problems[from..].iter_mut().for_each(|problem| problem.mended = Some(how.to_owned()));
    }
}

impl Store {
    /// Verifies every stored byte and reference: pack entries, objects, files of folders, the index against all of them,
    /// and the contents in `live` against what is here. The store can be used meanwhile.
    ///
    /// With `repair`, chunks that are no good are dropped (so that they are fetched again), objects with such chunks become
    /// partial ones, and the index file is made again.
    pub fn check(&self, repair: bool, live: &mut dyn FnMut() -> Vec<ContentRef>) -> Result<Report, StoreError> {
        self.check_telling(repair, live, &mut |_| ())
    }

    /// As [`Store::check`]; tells of the bytes that were verified so far, every now and then.
    pub fn check_telling(
        &self,
        repair: bool,
        live: &mut dyn FnMut() -> Vec<ContentRef>,
        tell: &mut dyn FnMut(u64),
    ) -> Result<Report, StoreError> {
        let inner = &*self.inner;
        let mut report = Report::default();
        inner.checkpoint()?;
        inner.check_packs(repair, &mut report, tell)?;
        inner.check_objects(repair, &mut report, tell)?;
        inner.check_folder_files(&mut report, tell);
        for content in live() {
            match inner.missing(&content) {
                Ok(missing) if missing.bytes > 0 => report.incomplete.push((content, missing.bytes)),
                Ok(_) => {}
                Err(error @ StoreError::Malformed { .. }) => {
                    report.problem(content.hash.to_string(), error.to_string());
                }
                Err(error) => return Err(error),
            }
        }
        if repair {
            inner.remake_index_file()?;
        }
        Ok(report)
    }
}

impl Inner {
    fn check_packs(&self, repair: bool, report: &mut Report, tell: &mut dyn FnMut(u64)) -> Result<(), StoreError> {
        let segments = self.packs.segments().map_err(StoreError::io("read the packs in", &self.dir))?;
        let mut indexed: HashMap<u32, KeyMap<Place>> = HashMap::new();
        for (key, place) in self.index.read().all_places() {
            indexed.entry(place.container).or_default().insert(*key, *place);
        }
        for (id, _) in segments {
            let name = format!("packs/{id:08x}.pack");
            let mut expected = indexed.remove(&id).unwrap_or_default();
            let mut lost: Vec<(Key, Place)> = Vec::new();
            let scanned = self.packs.scan(id, 0, &mut |offset, header, payload| {
                if payload.is_some() {
                    report.bytes += ENTRY_HEADER as u64 + u64::from(header.stored);
                    tell(report.bytes);
                }
                if header.kind == Kind::Chunk && payload.is_some() {
                    report.chunks += 1;
                    let key = key(&header.hash);
                    if expected.get(&key).is_some_and(|place| place.offset() == offset) {
                        expected.remove(&key);
                    } else if !self.index.read().has(&key) {
                        lost.push((key, Place::new(id, offset, header.raw)));
                    }
                }
            });
            let scanned = match scanned {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue, // compacted meanwhile
                other => other.map_err(StoreError::io("read the packs in", &self.dir))?,
            };
            let first = report.problems.len();
            for (from, to) in &scanned.gaps {
                report.problem(&name, format!("{} bytes at {from} are damaged", to - from));
            }
            // Appended since the checkpoint is not on disk yet; moved since is elsewhere.
            let still = |(key, place): &(Key, Place)| {
                place.offset() < scanned.end && self.index.read().places(key).any(|other| other == *place)
            };
            let missing: Vec<(Key, Place)> = expected.into_iter().filter(still).collect();
            if !missing.is_empty() {
                report.problem(&name, format!("{} chunks are not where the index has them", missing.len()));
            }
            if repair {
                for (from, to) in &scanned.gaps {
                    self.packs.void(id, *from, *to).map_err(StoreError::io("mend the packs in", &self.dir))?;
                }
                let mut index = self.index.write();
                for (key, place) in &missing {
                    index.drop_place(key, place.container);
                }
                for (key, place) in lost {
                    index.add(key, place);
                }
                report.mended(first, "given up, and fetched again where it is needed");
            }
        }
        Ok(())
    }

    fn check_objects(&self, repair: bool, report: &mut Report, tell: &mut dyn FnMut(u64)) -> Result<(), StoreError> {
        for (id, container) in self.containers() {
            let Container::Object(content) = &container else { continue };
            let name =
                format!("objects/{}", self.object_path(content).file_name().unwrap_or_default().to_string_lossy());
            let (spans, needs) = self.spans(content, 0..content.size)?;
            if !needs.is_empty() {
                report.problem(&name, "its manifest is not here");
                continue;
            }
            let file = match fs::File::open(self.object_path(content)) {
                Ok(file) => file,
                Err(_) if !self.index.read().containers.contains_key(&id) => continue, // collected meanwhile
                Err(error) => {
                    report.problem(&name, format!("cannot be opened: {error}"));
                    if repair && error.kind() == std::io::ErrorKind::NotFound {
                        self.note(&Note::Gone { id }, |_| ())?;
                        report.mended(report.problems.len() - 1, "given up, and fetched again where it is needed");
                    }
                    continue;
                }
            };
            let mut bad = Vec::new();
            let mut whole = blake3::Hasher::new();
            for span in spans {
                let mut bytes = vec![0; span.len as usize];
                if file.read_exact_at(&mut bytes, span.offset).is_err() || Hash::of(&bytes) != span.hash {
                    bad.push(span);
                    continue;
                }
                whole.update(&bytes);
                report.chunks += 1;
                report.bytes += u64::from(span.len);
                tell(report.bytes);
            }
            let first = report.problems.len();
            if bad.is_empty() && *whole.finalize().as_bytes() != content.hash.0 {
                report.problem(&name, "its chunks are good, but they are not the content that it is named after");
            }
            for span in &bad {
                report.problem(&name, format!("{} bytes at {} are damaged", span.len, span.offset));
            }
            if repair && !bad.is_empty() {
                self.note(&Note::Gone { id }, |_| ())?;
                self.file_cache.lock().remove(id);
                let (path, part) = (self.object_path(content), self.part_path(content));
                fs::rename(&path, part).map_err(StoreError::io("rename", &path))?;
                report.mended(first, "given up, and fetched again where it is needed");
            }
        }
        Ok(())
    }

    /// A folder's file that changed is no damage; what was in it is missing then.
    fn check_folder_files(&self, report: &mut Report, tell: &mut dyn FnMut(u64)) {
        let mut chunks: HashMap<u32, Vec<(Key, Place)>> = HashMap::new();
        for (key, place) in self.index.read().all_places() {
            chunks.entry(place.container).or_default().push((*key, *place));
        }
        for (id, container) in self.containers() {
            if !matches!(container, Container::Folder { stale: false, .. }) {
                continue;
            }
            let Ok(file) = self.container_file(id, &container) else { continue };
            for (chunk, place) in chunks.remove(&id).unwrap_or_default() {
                let mut bytes = vec![0; place.len() as usize];
                if file.read_exact_at(&mut bytes, place.offset()).is_ok() && key(&Hash::of(&bytes)) == chunk {
                    report.chunks += 1;
                    report.bytes += u64::from(place.len());
                    tell(report.bytes);
                } else {
                    self.index.write().mark_stale(id);
                    break;
                }
            }
        }
        self.close_folder_files();
    }

    fn containers(&self) -> Vec<(u32, Container)> {
        let mut all: Vec<_> = self.index.read().containers.iter().map(|(id, c)| (*id, c.clone())).collect();
        all.sort_unstable_by_key(|(id, _)| *id);
        all
    }

    /// Removes the index file and writes it again. The notes of containers are in the packs only, so they are read there.
    fn remake_index_file(&self) -> Result<(), StoreError> {
        self.checkpoint()?;
        let mut notes: HashMap<u32, Vec<u8>> = HashMap::new();
        for (id, _) in self.packs.segments().map_err(StoreError::io("read the packs in", &self.dir))? {
            let scanned = self.packs.scan(id, 0, &mut |_, header, payload| {
                if let (Kind::Note, Some(payload)) = (header.kind, payload)
                    && let Some(Note::Object { id, .. } | Note::Folder { id, .. }) = Note::decode(payload)
                {
                    notes.insert(id, payload.to_vec());
                }
            });
            scanned.map_err(StoreError::io("read the packs in", &self.dir))?;
        }
        {
            let mut file = self.index_file.lock();
            file.reset().map_err(|error| self.index_error(error))?;
            let mut index = self.index.write();
            notes.retain(|id, _| index.containers.contains_key(id));
            index.pend_all(notes.into_iter().collect());
        }
        self.checkpoint()
    }
}
