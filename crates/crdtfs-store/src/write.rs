//! Write files: what a mount writes, until it is sealed.
//!
//! Small ones are in memory. Larger ones are one plain file, or lie over a base: a clone of its object where the
//! filesystem can, else a sparse file and a map of what was written, so that 4 KiB written into 100 GiB copy neither.
//!
//! Sealing *freezes* what is there: the layer becomes the base of a new, empty one, so that writes go on while it is
//! hashed and never change what was sealed. A plain file of 1 MiB and more then becomes the object by a hard link; no
//! byte is copied. A file that was given out ([`WriteFile::backing`]) can be written behind our back and is cloned or
//! copied first.

use std::collections::{BTreeSet, HashSet};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use crdtfs_core::content::ContentRef;
use crdtfs_core::id::Hash;
use crdtfs_core::port::{Reader, WriteFile};
use parking_lot::{Mutex, RwLock};
use rustix::fs::ioctl_ficlone;

use crate::chunker::{Input, chunk_known, fill, spans};
use crate::gc::Pin;
use crate::index::key;
use crate::journal::{BaseRecord, BodyRecord, Journal, Record, Recovered, Replay};
use crate::known::{Known, Like, Unchanged};
use crate::layer::{Base, Body, Extents, Layer, seek_file};
use crate::object::OBJECT_FROM;
use crate::pack::Codec;
use crate::reader::{ContentReader, Window};
use crate::source::Urgency;
use crate::store::ChunkSpan;

/// Write files up to this many bytes are in memory.
const MEMORY_MAX: u64 = 256 << 10;

/// A write file of one share.
pub(crate) struct Handle {
    window: Arc<Window>,
    /// Its files are `stem.GENERATION` and `stem.journal`.
    stem: PathBuf,
    state: RwLock<State>,
    sealing: Mutex<()>,
}

struct State {
    top: Layer,
    /// The generation of the next layer.
    next: u32,
    /// Counts changes; `sealed` is good as long as it has not moved.
    version: u64,
    sealed: Option<(u64, ContentRef)>,
    /// What was sealed stays as long as no change speaks of it.
    pin: Option<Pin>,
    journal: Option<Journal>,
    /// What the journal has of the top layer: its generation, size and note; and what changed since.
    logged: Option<(u32, u64, Vec<u8>)>,
    cut: Option<u64>,
    written: Extents,
    /// Generations below the top whose files may be there.
    below: BTreeSet<u32>,
    /// Generations that the journal needs.
    journaled: BTreeSet<u32>,
    /// The generation that is being sealed.
    in_seal: Option<u32>,
    /// Nothing was synced that is not sealed.
    discarded: bool,
    /// It stays for a later life, sealed or not.
    left: bool,
}

impl Handle {
    /// An empty one, or one that begins with a content.
    pub(crate) fn begin(window: Arc<Window>, stem: PathBuf, base: Option<&ContentRef>) -> io::Result<Self> {
        let (body, size) = match base {
            None => (Body::Memory(Vec::new()), 0),
            Some(base) if base.size <= MEMORY_MAX && window.store.is_local(base) => {
                let mut bytes = vec![0; base.size as usize];
                reader(&window, base).read_at(&mut bytes, 0)?;
                (Body::Memory(bytes), base.size)
            }
            Some(base) => (over(Base::Content(reader(&window, base).into()), base.size), base.size),
        };
        let sealed = base.map(|base| (0, window.store.inner.resolve(base)));
        Ok(Self::with(window, stem, Layer { generation: 1, body, size }, sealed, None))
    }

    fn with(
        window: Arc<Window>,
        stem: PathBuf,
        top: Layer,
        sealed: Option<(u64, ContentRef)>,
        journal: Option<Journal>,
    ) -> Self {
        let state = State {
            next: top.generation + 1,
            below: (1..top.generation).collect(),
            journaled: top.generations(),
            in_seal: None,
            top,
            version: 0,
            pin: sealed.map(|(_, content)| Pin::new(&window.store.inner, &content)),
            sealed,
            journal,
            logged: None,
            cut: None,
            written: Extents::default(),
            discarded: false,
            left: false,
        };
        Self { window, stem, state: RwLock::new(state), sealing: Mutex::new(()) }
    }

    fn layer_path(&self, generation: u32) -> PathBuf {
        self.stem.with_extension(generation.to_string())
    }

    fn journal_path(&self) -> PathBuf {
        self.stem.with_extension("journal")
    }

    fn create(&self, generation: u32) -> io::Result<Arc<File>> {
        let path = self.layer_path(generation);
        // Never truncated: what a crash left under this name may be an object's other name.
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        Ok(Arc::new(OpenOptions::new().read(true).write(true).create_new(true).open(path)?))
    }

    /// Sees to it that the top layer has a file to write to.
    fn file_for_writing(&self, state: &mut State) -> io::Result<()> {
        let generation = state.top.generation;
        match &mut state.top.body {
            Body::Plain(_) | Body::Overlay { file: Some(_), .. } => {}
            Body::Memory(bytes) => {
                let file = self.create(generation)?;
                file.write_all_at(bytes, 0)?;
                file.set_len(state.top.size)?;
                state.top.body = Body::Plain(file);
                // The journal has the bytes themselves: it has to hear of the file.
                state.logged = None;
            }
            Body::Overlay { base, base_len, file: slot, extents } => {
                let file = self.create(generation)?;
                let cloned = match base {
                    Some(base) if extents.is_empty() && *base_len == state.top.size => {
                        clone_of(&self.window, base, &file)
                    }
                    _ => false,
                };
                if cloned && file.metadata()?.len() == state.top.size {
                    state.top.body = Body::Plain(file);
                } else {
                    *slot = Some(file);
                }
                state.logged = None;
            }
        }
        Ok(())
    }

    /// Removes the files of layers that neither what is on top nor the journal needs any more: what was sealed of them is the
    /// store's, which could not give their room back while they are links to it.
    fn drop_layers(&self, state: &mut State) {
        let mut needed = state.top.generations();
        needed.extend(state.in_seal);
        if state.journal.is_some() {
            needed.extend(&state.journaled);
        }
        let unneeded: Vec<u32> = state.below.difference(&needed).copied().collect();
        for generation in unneeded {
            // One that cannot be removed goes with the whole write file.
            let _ = fs::remove_file(self.layer_path(generation));
            state.below.remove(&generation);
        }
    }

    /// Hashes, chunks and keeps what is there now; `None` if that was given up.
    pub(crate) fn seal(&self, go_on: &dyn Fn() -> bool) -> io::Result<Option<ContentRef>> {
        let _one = self.sealing.lock();
        let (frozen, version, earlier) = {
            let mut state = self.state.write();
            state.refresh_size();
            let earlier = state.sealed.map(|(_, content)| content);
            if let Some((version, content)) = &state.sealed
                && *version == state.version
            {
                return Ok(Some(*content));
            }
            if let Body::Memory(bytes) = &state.top.body {
                let (bytes, version) = (bytes.clone(), state.version);
                drop(state);
                let content = self.window.store.put_bytes(&bytes)?;
                self.state.write().seal(&self.window, version, content);
                return Ok(Some(content));
            }
            let frozen = self.freeze(&mut state)?;
            state.in_seal = Some(frozen.generation);
            (frozen, state.version, earlier)
        };
        let content = self.keep(&frozen, earlier.as_ref(), go_on);
        let mut state = self.state.write();
        state.in_seal = None;
        let Some(content) = content? else { return Ok(None) };
        state.seal(&self.window, version, content);
        // What was frozen can be read from the store from now on.
        if let Body::Overlay { base: Some(base @ Base::Frozen(_)), .. } = &mut state.top.body {
            *base = Base::Content(reader(&self.window, &content).into());
            state.logged = None;
        }
        self.drop_layers(&mut state);
        Ok(Some(content))
    }

    /// Chunks what was frozen, and gives it to the store; `None` if that was given up.
    fn keep(
        &self,
        frozen: &Layer,
        earlier: Option<&ContentRef>,
        go_on: &dyn Fn() -> bool,
    ) -> io::Result<Option<ContentRef>> {
        let inner = &self.window.store.inner;
        let adopted = matches!(frozen.body, Body::Plain(_)) && frozen.size >= OBJECT_FROM;
        let (base, in_place) = self.base_chunks(frozen, earlier);
        let away = if in_place { self.without_room(frozen, &base) } else { HashSet::new() };
        let mut each = |_, hash: &Hash, chunk: &[u8]| {
            if adopted || away.contains(hash) { Ok(()) } else { Ok(inner.put(hash, chunk, Codec::Raw)?) }
        };
        let same = |range| frozen.shows_base(range);
        let known = match &base[..] {
            [] => Known::Nothing,
            base if in_place => Known::Unchanged(Unchanged { base, size: frozen.size, same: &same }),
            other => Known::Like(Like::new(other)),
        };
        let input = Input {
            size: frozen.size,
            read: &mut |buf, offset| frozen.read_at(buf, offset),
            next_data: &|offset| Ok(frozen.seek(offset, true)?.unwrap_or(frozen.size)),
            go_on,
        };
        let Some(chunked) = chunk_known(input, &mut each, known)? else { return Ok(None) };
        let content = inner.put_manifest(&chunked)?;
        if let (true, Body::Plain(file)) = (adopted, &frozen.body) {
            let path = self.layer_path(frozen.generation);
            inner.adopt_object(&path, file.clone(), &content, &spans(&chunked))?;
        }
        Ok(Some(content))
    }

    /// Of the chunks of what the layer lies on those that are not here, if there is no room for them: others have them.
    fn without_room(&self, layer: &Layer, base: &[ChunkSpan]) -> HashSet<Hash> {
        let Body::Overlay { base: Some(Base::Content(reader)), .. } = &layer.body else { return HashSet::new() };
        if self.window.has_room_for(reader.content()) {
            return HashSet::new();
        }
        let index = self.window.store.inner.index.read();
        base.iter().filter(|span| !index.has(&key(&span.hash))).map(|span| span.hash).collect()
    }

    /// The chunks of what the layer lies on and shows most of (then true), else of what the file held before, as far as
    /// that is known: who writes a file anew mostly writes again what was there.
    fn base_chunks(&self, layer: &Layer, earlier: Option<&ContentRef>) -> (Vec<ChunkSpan>, bool) {
        let (content, in_place) = match (&layer.body, earlier) {
            (Body::Overlay { base: Some(Base::Content(reader)), base_len, .. }, _) if *base_len > layer.size / 2 => {
                (*reader.content(), true)
            }
            (_, Some(earlier)) => (*earlier, false),
            _ => return (Vec::new(), false),
        };
        (self.window.store.inner.known_chunks(&content), in_place)
    }

    /// Makes what is there the base of a new layer that nothing is written to yet.
    fn freeze(&self, state: &mut State) -> io::Result<Arc<Layer>> {
        if let Body::Overlay { base: Some(Base::Frozen(frozen)), base_len, extents, .. } = &state.top.body
            && extents.is_empty()
            && *base_len == state.top.size
            && frozen.size == state.top.size
        {
            // An earlier seal failed (a full disk), and nothing was written since.
            return Ok(frozen.clone());
        }
        let size = state.top.size;
        if let Body::Plain(file) = &state.top.body
            && Arc::strong_count(file) > 1
        {
            // Somebody may write to this file without our knowing: what is sealed is a copy, and the file stays on top.
            let path = self.layer_path(state.next);
            let copy = self.create(state.next)?;
            copy_file(file, &copy, size).inspect_err(|_| _ = fs::remove_file(&path))?;
            let frozen = Layer { generation: state.next, body: Body::Plain(copy), size };
            state.below.insert(state.next);
            state.next += 1;
            return Ok(Arc::new(frozen));
        }
        let empty = Layer { generation: state.next, body: Body::Memory(Vec::new()), size };
        state.next += 1;
        let frozen = Arc::new(std::mem::replace(&mut state.top, empty));
        state.below.insert(frozen.generation);
        state.top.body = over(Base::Frozen(frozen.clone()), size);
        state.logged = None;
        Ok(frozen)
    }

    /// Writes to the journal what it does not have, and waits until that and the bytes are durable.
    fn sync_state(&self, state: &mut State, note: &[u8]) -> io::Result<()> {
        let mut records = Vec::new();
        if state.journal.as_ref().is_some_and(Journal::is_long) {
            // It is written anew, so that it has to say all.
            state.logged = None;
        }
        let (generation, size) = (state.top.generation, state.top.size);
        let known = state.logged.as_ref().is_some_and(|(logged, ..)| *logged == generation);
        if let (false, Body::Overlay { base: Some(base), .. }) = (known, &state.top.body) {
            self.sync_base(base, &mut records)?;
        }
        let body = match &state.top.body {
            Body::Memory(bytes) => BodyRecord::Memory { bytes: bytes.clone().into() },
            Body::Plain(file) => {
                file.sync_data()?;
                BodyRecord::Plain
            }
            Body::Overlay { base, base_len, file, extents } => {
                if let Some(file) = file {
                    file.sync_data()?;
                }
                let (cut, extents) =
                    if known { (state.cut, state.written.iter().collect()) } else { (None, extents.iter().collect()) };
                BodyRecord::Overlay { base: base_record(base.as_ref()), base_len: *base_len, cut, extents }
            }
        };
        let unchanged = match (&state.logged, &body) {
            (_, BodyRecord::Memory { .. }) => false,
            (Some((logged, old_size, old_note)), BodyRecord::Plain) => {
                (*logged, *old_size, &old_note[..]) == (generation, size, note)
            }
            (Some((logged, old_size, old_note)), BodyRecord::Overlay { cut, extents, .. }) => {
                cut.is_none() && extents.is_empty() && (*logged, *old_size, &old_note[..]) == (generation, size, note)
            }
            (None, _) => false,
        };
        if !unchanged {
            records.push(Record { generation, body, size, note: Some(note.to_vec().into()) });
            self.journal(state, &records)?;
        }
        state.logged = Some((generation, size, note.to_vec()));
        state.cut = None;
        state.written = Extents::default();
        state.journaled = state.top.generations();
        self.drop_layers(state);
        Ok(())
    }

    fn journal(&self, state: &mut State, records: &[Record]) -> io::Result<()> {
        let path = self.journal_path();
        match &mut state.journal {
            Some(journal) if !journal.is_long() => journal.append(records),
            Some(_) => {
                state.journal = Some(Journal::rewrite(&path, records)?);
                Ok(())
            }
            None => {
                let mut journal = Journal::create(&path)?;
                journal.append(records)?;
                state.journal = Some(journal);
                Ok(())
            }
        }
    }

    /// Makes durable what the top layer lies on.
    fn sync_base(&self, base: &Base, records: &mut Vec<Record>) -> io::Result<()> {
        match base {
            // Made by a seal of this file, perhaps not synced yet.
            Base::Content(_) => Ok(self.window.store.sync()?),
            Base::Frozen(layer) => {
                let body = match &layer.body {
                    Body::Memory(bytes) => BodyRecord::Memory { bytes: bytes.clone().into() },
                    Body::Plain(file) => {
                        file.sync_data()?;
                        BodyRecord::Plain
                    }
                    Body::Overlay { base, base_len, file, extents } => {
                        if let Some(base) = base {
                            self.sync_base(base, records)?;
                        }
                        if let Some(file) = file {
                            file.sync_data()?;
                        }
                        let (base_len, extents) = (*base_len, extents.iter().collect());
                        BodyRecord::Overlay { base: base_record(base.as_ref()), base_len, cut: None, extents }
                    }
                };
                records.push(Record { generation: layer.generation, body, size: layer.size, note: None });
                Ok(())
            }
        }
    }

    /// Syncs it with `note`, and has it stay where it is, to be recovered, until it is discarded.
    pub(crate) fn leave(&self, note: &[u8]) -> io::Result<()> {
        self.sync(note)?;
        self.state.write().left = true;
        Ok(())
    }

    /// Removes its files; what was sealed stays, since objects are links of their own.
    pub(crate) fn discard(&self) {
        let mut state = self.state.write();
        state.discarded = true;
        state.journal = None;
        // The journal first: without it nobody looks for the layers.
        let _ = fs::remove_file(self.journal_path());
        for generation in 1..state.next {
            let _ = fs::remove_file(self.layer_path(generation));
        }
    }

    /// Gives back a write file of an earlier run with its note.
    pub(crate) fn recover(window: &Arc<Window>, stem: PathBuf, replay: Replay) -> io::Result<(Vec<u8>, Self)> {
        let Replay { layers, top, note } = replay;
        let layer = recover_layer(window, &stem, &layers, top)?;
        // The journal says how these layers lie; it is written anew at the next sync, the files stay under their names.
        let shared = matches!(&layer.body, Body::Plain(file) if nlink(file) > 1);
        let layer = if shared {
            // It became an object: what is sealed is never written again.
            let (size, generation) = (layer.size, layer.generation + 1);
            Layer { generation, body: over(Base::Frozen(Arc::new(layer)), size), size }
        } else {
            layer
        };
        Ok((note, Self::with(window.clone(), stem, layer, None, None)))
    }
}

fn nlink(file: &File) -> u64 {
    use std::os::unix::fs::MetadataExt;
    file.metadata().map_or(2, |meta| meta.nlink())
}

fn recover_layer(
    window: &Arc<Window>,
    stem: &std::path::Path,
    layers: &std::collections::BTreeMap<u32, (Recovered, u64)>,
    generation: u32,
) -> io::Result<Layer> {
    let damaged = || io::Error::new(io::ErrorKind::InvalidData, "the journal of a write file names a layer it has not");
    let (recovered, size) = layers.get(&generation).ok_or_else(damaged)?;
    let open = || {
        let path = stem.with_extension(generation.to_string());
        OpenOptions::new().read(true).write(true).open(path).map(Arc::new)
    };
    let (body, size) = match recovered {
        Recovered::Memory(bytes) => (Body::Memory(bytes.clone()), bytes.len() as u64),
        Recovered::Plain => {
            // Written after the sync that the journal knows: a crash keeps some of that, as any file's.
            let file = open()?;
            let len = file.metadata()?.len();
            if len < *size {
                file.set_len(*size)?;
            }
            (Body::Plain(file), len.max(*size))
        }
        Recovered::Overlay { base, base_len, extents } => {
            let base = match base {
                BaseRecord::Nothing => None,
                BaseRecord::Content { content } => Some(Base::Content(reader(window, content).into())),
                BaseRecord::Generation { generation: below } if *below < generation => {
                    Some(Base::Frozen(recover_layer(window, stem, layers, *below)?.into()))
                }
                BaseRecord::Generation { .. } => return Err(damaged()),
            };
            let file = if extents.is_empty() { open().ok() } else { Some(open()?) };
            (Body::Overlay { base, base_len: *base_len, file, extents: extents.clone() }, *size)
        }
    };
    Ok(Layer { generation, body, size })
}

fn reader(window: &Arc<Window>, content: &ContentRef) -> ContentReader {
    ContentReader::new(window.clone(), content, Urgency::Read)
}

fn over(base: Base, size: u64) -> Body {
    Body::Overlay { base: Some(base), base_len: size, file: None, extents: Extents::default() }
}

fn base_record(base: Option<&Base>) -> BaseRecord {
    match base {
        None => BaseRecord::Nothing,
        Some(Base::Content(reader)) => BaseRecord::Content { content: *reader.content() },
        Some(Base::Frozen(layer)) => BaseRecord::Generation { generation: layer.generation },
    }
}

/// Has the filesystem share the blocks of what lies below, where it can.
fn clone_of(window: &Window, base: &Base, file: &File) -> bool {
    let source = match base {
        Base::Content(reader) => window.store.inner.object_of(reader.content()).map(|(_, file)| file),
        Base::Frozen(layer) => match &layer.body {
            Body::Plain(file) => Some(file.clone()),
            _ => None,
        },
    };
    source.is_some_and(|source| ioctl_ficlone(file, &*source).is_ok())
}

fn copy_file(from: &File, to: &File, size: u64) -> io::Result<()> {
    if ioctl_ficlone(to, from).is_ok() {
        return to.set_len(size);
    }
    to.set_len(size)?;
    let mut bytes = vec![0; 1 << 20];
    let mut at = 0;
    while let Some(data) = seek_file(from, at, true)?.filter(|data| *data < size) {
        at = data;
        let n = fill(&mut |buf, offset| from.read_at(buf, offset), &mut bytes, at)?;
        let n = n.min((size - at) as usize);
        if n == 0 {
            break;
        }
        if bytes[..n].iter().any(|byte| *byte != 0) {
            to.write_all_at(&bytes[..n], at)?;
        }
        at += n as u64;
    }
    Ok(())
}

impl State {
    fn seal(&mut self, window: &Window, version: u64, content: ContentRef) {
        self.pin = Some(Pin::new(&window.store.inner, &content));
        self.sealed = Some((version, content));
    }

    fn wrote(&mut self, start: u64, end: u64) {
        self.version += 1;
        if let Body::Overlay { extents, .. } = &mut self.top.body {
            extents.insert(start, end);
            self.written.insert(start, end);
        }
    }

    fn refresh_size(&mut self) {
        // A plain file that was given out is written, and grows, behind our back.
        if let Body::Plain(file) = &self.top.body
            && Arc::strong_count(file) > 1
            && let Ok(meta) = file.metadata()
        {
            self.top.size = meta.len();
            self.version += 1;
        }
    }
}

impl WriteFile for Handle {
    fn size(&self) -> u64 {
        let state = self.state.read();
        match &state.top.body {
            Body::Plain(file) if Arc::strong_count(file) > 1 => {
                file.metadata().map_or(state.top.size, |meta| meta.len())
            }
            _ => state.top.size,
        }
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let state = self.state.read();
        match &state.top.body {
            Body::Plain(file) => fill(&mut |buf, offset| file.read_at(buf, offset), buf, offset),
            _ => state.top.read_at(buf, offset),
        }
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        let end = offset.checked_add(buf.len() as u64).filter(|end| *end <= i64::MAX as u64);
        let end = end.ok_or_else(|| io::Error::from(io::ErrorKind::FileTooLarge))?;
        if buf.is_empty() {
            return Ok(0);
        }
        let mut state = self.state.write();
        let state = &mut *state;
        state.refresh_size();
        if let Body::Memory(bytes) = &mut state.top.body
            && end <= MEMORY_MAX
        {
            if bytes.len() < end as usize {
                bytes.resize(end as usize, 0);
            }
            bytes[offset as usize..end as usize].copy_from_slice(buf);
        } else {
            self.file_for_writing(state)?;
            let (Body::Plain(file) | Body::Overlay { file: Some(file), .. }) = &state.top.body else {
                return Err(io::Error::other("a write file without a file"));
            };
            file.write_all_at(buf, offset).map_err(|error| self.window.store.inner.not_full(error))?;
        }
        state.top.size = state.top.size.max(end);
        state.wrote(offset, end);
        Ok(buf.len())
    }

    fn set_len(&self, size: u64) -> io::Result<()> {
        let mut state = self.state.write();
        let state = &mut *state;
        state.refresh_size();
        if size == state.top.size {
            return Ok(());
        }
        if size > MEMORY_MAX && matches!(state.top.body, Body::Memory(_)) {
            self.file_for_writing(state)?;
        }
        match &mut state.top.body {
            Body::Memory(bytes) => bytes.resize(size as usize, 0),
            Body::Plain(file) => file.set_len(size)?,
            Body::Overlay { base_len, extents, .. } => {
                *base_len = (*base_len).min(size);
                extents.truncate(size);
                state.written.truncate(size);
                state.cut = Some(state.cut.map_or(size, |cut| cut.min(size)));
            }
        }
        state.top.size = size;
        state.version += 1;
        Ok(())
    }

    fn allocate(&self, mode: u32, offset: u64, len: u64) -> io::Result<()> {
        let mut state = self.state.write();
        let state = &mut *state;
        state.refresh_size();
        if !matches!(state.top.body, Body::Memory(_)) || offset.saturating_add(len) > MEMORY_MAX {
            self.file_for_writing(state)?;
        }
        state.top.allocate(mode, offset, len).map_err(|error| self.window.store.inner.not_full(error))?;
        state.version += 1;
        if let Body::Overlay { .. } = state.top.body {
            // What was zeroed is written as far as the journal is concerned.
            if mode & (crate::layer::PUNCH_HOLE | crate::layer::ZERO_RANGE) != 0 {
                state.written.insert(offset, (offset + len).min(state.top.size));
            }
        }
        Ok(())
    }

    fn seek(&self, offset: u64, data: bool) -> io::Result<Option<u64>> {
        self.state.read().top.seek(offset, data)
    }

    fn sync(&self, note: &[u8]) -> io::Result<()> {
        let mut state = self.state.write();
        state.refresh_size();
        self.sync_state(&mut state, note)
    }

    fn backing(&self) -> Option<Arc<File>> {
        match &self.state.read().top.body {
            Body::Plain(file) => Some(file.clone()),
            _ => None,
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let keep = {
            let state = self.state.get_mut();
            let sealed = state.sealed.as_ref().is_some_and(|(version, _)| *version == state.version);
            state.discarded || state.left || (state.journal.is_some() && !sealed)
        };
        if !keep {
            self.discard();
        }
    }
}
