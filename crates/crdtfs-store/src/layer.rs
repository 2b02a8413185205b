//! The bytes of a write file: in memory, in one plain file, or laid over others.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use crdtfs_core::port::Reader;
use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};

/// Linux's flags of `fallocate`.
pub(crate) const KEEP_SIZE: u32 = 1;
pub(crate) const PUNCH_HOLE: u32 = 2;
pub(crate) const ZERO_RANGE: u32 = 16;

/// Ranges of bytes, as start to end; none touches another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Extents(BTreeMap<u64, u64>);

impl Extents {
    pub(crate) fn insert(&mut self, mut start: u64, mut end: u64) {
        if start >= end {
            return;
        }
        if let Some((&before, &until)) = self.0.range(..=start).next_back()
            && until >= start
        {
            if until >= end {
                return;
            }
            start = before;
        }
        let swallowed: Vec<u64> = self.0.range(start..=end).map(|(start, _)| *start).collect();
        for other in swallowed {
            end = end.max(self.0.remove(&other).unwrap_or(end));
        }
        self.0.insert(start, end);
    }

    /// Cuts off all from `len` on.
    pub(crate) fn truncate(&mut self, len: u64) {
        self.0.split_off(&len);
        if let Some(mut last) = self.0.last_entry()
            && *last.get() > len
        {
            *last.get_mut() = len;
        }
    }

    /// The extent that holds a place, or else the next one.
    pub(crate) fn at_or_after(&self, place: u64) -> Option<(u64, u64)> {
        let before = self.0.range(..=place).next_back().filter(|(_, end)| **end > place);
        before.or_else(|| self.0.range(place..).next()).map(|(start, end)| (*start, *end))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, u64)> {
        self.0.iter().map(|(start, end)| (*start, *end))
    }
}

/// What lies below an overlay.
#[derive(Clone)]
pub(crate) enum Base {
    /// A content of the store.
    Content(Arc<crate::reader::ContentReader>),
    /// What the write file held when it was last frozen; nobody writes it any more.
    Frozen(Arc<Layer>),
}

/// Where the bytes are.
pub(crate) enum Body {
    Memory(Vec<u8>),
    /// All in one file.
    Plain(Arc<File>),
    /// Written ranges in a sparse file, the rest below.
    Overlay {
        base: Option<Base>,
        /// Bytes of the base that still show.
        base_len: u64,
        /// None until something is written.
        file: Option<Arc<File>>,
        extents: Extents,
    },
}

/// One state of a write file.
pub(crate) struct Layer {
    /// Counts the freezes; names the file.
    pub(crate) generation: u32,
    pub(crate) body: Body,
    pub(crate) size: u64,
}

impl Layer {
    /// Its generation and those of the layers that it lies on.
    pub(crate) fn generations(&self) -> BTreeSet<u32> {
        let (mut generations, mut at) = (BTreeSet::from([self.generation]), self);
        while let Body::Overlay { base: Some(Base::Frozen(below)), .. } = &at.body {
            generations.insert(below.generation);
            at = below;
        }
        generations
    }

    /// As `pread`.
    pub(crate) fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let n = self.size.saturating_sub(offset).min(buf.len() as u64) as usize;
        let buf = &mut buf[..n];
        match &self.body {
            Body::Memory(bytes) => buf.copy_from_slice(&bytes[offset as usize..][..n]),
            Body::Plain(file) => return read_zeros(file, buf, offset).map(|()| n),
            Body::Overlay { base, base_len, file, extents } => {
                let mut done = 0;
                while done < n {
                    let place = offset + done as u64;
                    let rest = (n - done) as u64;
                    let next = extents.at_or_after(place);
                    let piece = match (next, file) {
                        (Some((start, end)), Some(file)) if start <= place => {
                            let len = rest.min(end - place) as usize;
                            read_zeros(file, &mut buf[done..done + len], place)?;
                            len
                        }
                        _ => {
                            let until = next.map_or(u64::MAX, |(start, _)| start);
                            let len = rest.min(until - place) as usize;
                            read_base(base.as_ref(), *base_len, &mut buf[done..done + len], place)?;
                            len
                        }
                    };
                    done += piece;
                }
            }
        }
        Ok(n)
    }

    /// Whether all bytes of a range are the base's, at the same place.
    pub(crate) fn shows_base(&self, range: Range<u64>) -> bool {
        let Body::Overlay { base: Some(_), base_len, extents, .. } = &self.body else { return false };
        range.end <= *base_len && extents.at_or_after(range.start).is_none_or(|(start, _)| start >= range.end)
    }

    /// As `fallocate`; the body is a file or an overlay with a file.
    pub(crate) fn allocate(&mut self, mode: u32, offset: u64, len: u64) -> io::Result<()> {
        let end = offset.checked_add(len).ok_or(io::ErrorKind::InvalidInput)?;
        let grows = mode & KEEP_SIZE == 0;
        if len == 0 || mode & PUNCH_HOLE != 0 && grows {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        if !matches!(mode & !KEEP_SIZE, 0 | PUNCH_HOLE | ZERO_RANGE) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let flags = FallocateFlags::from_bits_retain(mode);
        let zeroes = mode & (PUNCH_HOLE | ZERO_RANGE) != 0;
        match &mut self.body {
            Body::Memory(bytes) => {
                if zeroes {
                    let until = (end as usize).min(bytes.len());
                    bytes[(offset as usize).min(until)..until].fill(0);
                }
                if grows && end > self.size {
                    bytes.resize(end as usize, 0);
                }
            }
            Body::Plain(file) => fallocate(&**file, flags, offset, len)?,
            Body::Overlay { file, extents, .. } => {
                if let Some(file) = file {
                    fallocate(&**file, flags | FallocateFlags::KEEP_SIZE, offset, len)?;
                }
                if zeroes {
                    extents.insert(offset, if grows { end } else { end.min(self.size) });
                }
            }
        }
        if grows {
            self.size = self.size.max(end);
        }
        Ok(())
    }

    /// As `lseek` with `SEEK_DATA` or `SEEK_HOLE`.
    pub(crate) fn seek(&self, offset: u64, data: bool) -> io::Result<Option<u64>> {
        if offset >= self.size {
            return Ok(None);
        }
        match &self.body {
            Body::Memory(_) => Ok(Some(if data { offset } else { self.size })),
            Body::Plain(file) => seek_file(file, offset, data),
            Body::Overlay { base, base_len, extents, .. } => {
                let mut place = offset;
                while place < self.size {
                    let next = extents.at_or_after(place);
                    if let Some((_, end)) = next.filter(|(start, _)| *start <= place) {
                        // What was written counts as data.
                        if data {
                            return Ok(Some(place));
                        }
                        place = end;
                        continue;
                    }
                    let until = next.map_or(self.size, |(start, _)| start);
                    let found = seek_base(base.as_ref(), *base_len, place, data)?;
                    match found.filter(|found| *found < until) {
                        Some(found) => return Ok(Some(found)),
                        None => place = until,
                    }
                }
                // Where the bytes end a hole begins.
                Ok((!data).then_some(self.size))
            }
        }
    }
}

/// The next data or hole in what lies below, of which `len` bytes show; `None` for no more data. Of a content all counts as
/// data: only who verifies what it reads knows that its object has no hole too many.
fn seek_base(base: Option<&Base>, len: u64, offset: u64, data: bool) -> io::Result<Option<u64>> {
    let found = match base {
        Some(Base::Content(_)) if offset < len => data.then_some(offset),
        Some(Base::Frozen(layer)) if offset < len => layer.seek(offset, data)?.filter(|found| *found < len),
        _ => (!data).then_some(offset),
    };
    // It ends where it shows no more.
    Ok(if data { found } else { found.or(Some(len)) })
}

/// As `lseek` with `SEEK_DATA` or `SEEK_HOLE`; `None` past the end, and where there is no more data.
pub(crate) fn seek_file(file: &File, offset: u64, data: bool) -> io::Result<Option<u64>> {
    let from = if data { SeekFrom::Data(offset) } else { SeekFrom::Hole(offset) };
    match seek(file, from) {
        Ok(place) => Ok(Some(place)),
        Err(rustix::io::Errno::NXIO) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Fills `buf` from a file that may be shorter: what it does not have is zeros.
fn read_zeros(file: &File, buf: &mut [u8], offset: u64) -> io::Result<()> {
    let n = crate::chunker::fill(&mut |buf, offset| file.read_at(buf, offset), buf, offset)?;
    buf[n..].fill(0);
    Ok(())
}

fn read_base(base: Option<&Base>, base_len: u64, buf: &mut [u8], offset: u64) -> io::Result<()> {
    let shown = base_len.saturating_sub(offset).min(buf.len() as u64) as usize;
    let (below, zeros) = buf.split_at_mut(shown);
    zeros.fill(0);
    match base {
        _ if below.is_empty() => Ok(()),
        None => {
            below.fill(0);
            Ok(())
        }
        Some(Base::Content(reader)) => match reader.read_at(below, offset)? {
            n if n == below.len() => Ok(()),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        },
        Some(Base::Frozen(layer)) => match layer.read_at(below, offset)? {
            n if n == below.len() => Ok(()),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever lies over a sparse file: what counts as a hole reads as zeros.
        #[test]
        fn holes_are_zeros(
            below in proptest::collection::vec(0_u64..64, 0..4),
            over in proptest::collection::vec((0_u64..64, 1_u64..4), 0..4),
            shows in 0_u64..64,
            size in 1_u64..64,
        ) {
            const BLOCK: u64 = 4096;
            let sparse = |blocks: &[(u64, u64)], len: u64| {
                let file = tempfile::tempfile().unwrap();
                file.set_len(len * BLOCK).unwrap();
                for (at, n) in blocks {
                    file.write_all_at(&vec![1; (n * BLOCK) as usize], at * BLOCK).unwrap();
                }
                Arc::new(file)
            };
            let below: Vec<(u64, u64)> = below.iter().map(|at| (*at, 1)).collect();
            let plain = Layer { generation: 1, body: Body::Plain(sparse(&below, 64)), size: 64 * BLOCK };
            let (mut extents, size) = (Extents::default(), size * BLOCK);
            over.iter().for_each(|(at, n)| extents.insert(at * BLOCK, (at + n) * BLOCK));
            extents.truncate(size);
            let (base, base_len) = (Some(Base::Frozen(plain.into())), (shows * BLOCK).min(size));
            let body = Body::Overlay { base, base_len, file: Some(sparse(&over, 64)), extents };
            let layer = Layer { generation: 2, body, size };
            let mut bytes = vec![0; size as usize];
            layer.read_at(&mut bytes, 0).unwrap();
            let is_zero = |range: Range<u64>| bytes[range.start as usize..range.end as usize].iter().all(|byte| *byte == 0);
            for place in (0..size).step_by(BLOCK as usize / 4).flat_map(|place| [place, place + 1]) {
                let data = layer.seek(place, true).unwrap();
                prop_assert!(data.is_none_or(|data| data >= place && data < size), "data from {}: {:?}", place, data);
                prop_assert!(is_zero(place..data.unwrap_or(size)), "data from {}: {:?}", place, data);
                let hole = layer.seek(place, false).unwrap().unwrap();
                prop_assert!((place..=size).contains(&hole), "a hole from {}: {}", place, hole);
                prop_assert!(hole == size || layer.seek(hole, true).unwrap() != Some(hole), "a hole from {}: {}", place, hole);
            }
            if is_zero(0..size) {
                prop_assert_eq!(layer.seek(0, true).unwrap(), None, "a hole throughout");
            }
        }

        #[test]
        fn extents_are_a_set_of_bytes(steps in proptest::collection::vec((0_u64..64, 0_u64..16, any::<bool>()), 0..40)) {
            let mut extents = Extents::default();
            let mut model = [false; 80];
            for (start, len, cut) in steps {
                if cut && len < 3 {
                    extents.truncate(start);
                    model[start as usize..].fill(false);
                } else {
                    extents.insert(start, start + len);
                    model[start as usize..(start + len) as usize].fill(true);
                }
                let mut last = None;
                for (start, end) in extents.iter() {
                    prop_assert!(start < end && last.is_none_or(|last| last < start), "sorted and apart");
                    last = Some(end);
                }
                for (place, set) in model.iter().enumerate() {
                    let inside = extents.at_or_after(place as u64).is_some_and(|(start, _)| start <= place as u64);
                    prop_assert_eq!(inside, *set);
                }
            }
        }
    }
}
