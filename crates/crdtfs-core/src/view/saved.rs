//! The view as bytes, evaluated as it is, so that a start need not evaluate every record again.
//!
//! A cache for one build of this program only ([`BUILD`]): other code may mean something else by the same records, and every
//! device has to show what the code that runs means. Names are kept once, as in memory: what has a record's name says which
//! record. Indexes are not saved but sorted again, which is quicker than reading them.

use std::collections::BTreeMap;
use std::sync::Arc;

use minicbor::bytes::ByteSlice;
use minicbor::decode::{Decoder, Error};
use minicbor::{Decode, Encode, Encoder};

use super::View;
use super::arena::{Body, DirData, NodeIx, NodeState, PlaceEval, PlaceIx, PlaceState, Rec, RecIx, Slot};
use super::ingest::content_key;
use crate::id::{InodeId, PlaceId};
use crate::merge::MergeCache;
use crate::name::Name;

/// Names the code that a saved view belongs to.
pub const BUILD: &str = env!("CRDTFS_CORE_BUILD");

/// Shared values, encoded as what they hold.
pub(super) mod shared {
    use super::{Arc, Decode, Decoder, Encode, Encoder, Error};

    pub(in super::super) fn encode<C, T: Encode<C>, W: minicbor::encode::Write>(
        value: &Arc<T>,
        e: &mut Encoder<W>,
        ctx: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        value.as_ref().encode(e, ctx)
    }

    pub(in super::super) fn decode<'b, C, T: Decode<'b, C>>(d: &mut Decoder<'b>, ctx: &mut C) -> Result<Arc<T>, Error> {
        T::decode(d, ctx).map(Arc::new)
    }
}

/// Shared bytes.
pub(super) mod shared_bytes {
    use super::{Arc, Decoder, Encoder, Error};

    pub(in super::super) fn encode<C, W: minicbor::encode::Write>(
        value: &Arc<[u8]>,
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        e.bytes(value)?.ok()
    }

    pub(in super::super) fn decode<C>(d: &mut Decoder<'_>, _: &mut C) -> Result<Arc<[u8]>, Error> {
        d.bytes().map(Arc::from)
    }
}

type Bytes = Vec<u8>;

fn put<T: Encode<()>>(out: &mut Bytes, value: &T) {
    minicbor::encode(value, out).expect("writing to memory cannot fail");
}

fn encoded<T: Encode<()>>(values: &[T]) -> Bytes {
    let mut out = Bytes::new();
    put(&mut out, &(values.len() as u64));
    values.iter().for_each(|value| put(&mut out, value));
    out
}

fn decoded<'b, T: Decode<'b, ()>>(bytes: &'b [u8]) -> Result<Vec<T>, Error> {
    let mut d = Decoder::new(bytes);
    let count = count(&mut d, bytes)?;
    let mut values = Vec::with_capacity(count);
    for _ in 0..count {
        values.push(d.decode()?);
    }
    Ok(values)
}

/// A number of items, each of which takes a byte at least.
fn count(d: &mut Decoder<'_>, bytes: &[u8]) -> Result<usize, Error> {
    let count = d.u64()?;
    match usize::try_from(count) {
        Ok(count) if count <= bytes.len() => Ok(count),
        _ => Err(Error::message("more items than bytes")),
    }
}

impl View {
    /// The view as bytes for [`View::restore`], which this very program reads back; `None` in the middle of a change.
    pub fn save(&self) -> Option<Vec<u8>> {
        let settled = self.changes.entries.is_empty() && self.changes.nodes.is_empty() && self.dirty.is_empty();
        if !settled {
            return None;
        }
        let sections = [encoded(&self.recs), self.save_places(), self.save_nodes(), self.save_rest()];
        let mut out = Bytes::with_capacity(sections.iter().map(Vec::len).sum::<usize>() + 64);
        for section in &sections {
            put(&mut out, &<&ByteSlice>::from(section.as_slice()));
        }
        Some(out)
    }

    fn save_places(&self) -> Bytes {
        let mut out = Bytes::new();
        put(&mut out, &(self.places.len() as u64));
        for (at, place) in self.places.iter().enumerate() {
            let PlaceState { id, node, recs, class, members, eval, claim } = place;
            put(&mut out, &(id, node, recs, class));
            put(&mut out, &(members, claim));
            put(&mut out, &eval.is_some());
            let Some(PlaceEval { live, parent, name, top, pinned, created, moved }) = eval else { continue };
            put(&mut out, &(live, parent, top, pinned, created, moved));
            let source = self.record_named(PlaceIx(u32::try_from(at).expect("an index")), name);
            put(&mut out, &source);
            if source.is_none() {
                put(&mut out, name);
            }
        }
        out
    }

    /// A record of a place class that has this name.
    fn record_named(&self, place: PlaceIx, name: &Name) -> Option<RecIx> {
        let members = self.place_members(place);
        let recs = members.iter().flat_map(|member| &self.places[member.at()].recs);
        recs.copied().find(|rec| name_of(&self.recs, *rec) == Some(name))
    }

    fn save_nodes(&self) -> Bytes {
        let mut out = Bytes::new();
        put(&mut out, &(self.nodes.len() as u64));
        for node in &self.nodes {
            let NodeState { id, kind, recs, places, class, alias, below, eval, dir, extra } = node;
            put(&mut out, &(id, kind, recs, places));
            put(&mut out, &(class, alias, below, eval, extra));
            put(&mut out, &dir.is_some());
            let Some(DirData { slots, suffixed, subdirs }) = dir.as_deref() else { continue };
            put(&mut out, &(suffixed, subdirs, slots.len() as u64));
            slots.values().for_each(|slot| put(&mut out, slot));
        }
        out
    }

    fn save_rest(&self) -> Bytes {
        let Self {
            recs: _,
            index: _,
            by_content,
            places: _,
            place_index: _,
            nodes: _,
            node_index: _,
            devices,
            device_index,
            masked,
            masked_ids,
            // Found again.
            built_on: _,
            parked,
            waiting,
            problems,
            early_merges,
            early_parents,
            displaced,
            bonds,
            copies,
            // Of a change under way.
            former_homes: _,
            copies_of,
            suffix_names,
            wanted,
            wanted_refs,
            wanting,
            merges,
            dirty: _,
            changes: _,
            bytes_total,
            nodes_total,
            // Forgotten with the view.
            local: _,
            begun: _,
            mutation: _,
        } = self;
        let mut out = Bytes::new();
        put(&mut out, &by_content.iter().map(|(_, rec)| *rec).collect::<Vec<_>>());
        put(&mut out, &devices.iter().map(|name| name.to_string()).collect::<Vec<_>>());
        put(&mut out, &device_index.iter().map(|(name, ix)| (name.to_string(), *ix)).collect::<Vec<_>>());
        put(&mut out, &(masked, masked_ids));
        put(&mut out, &parked.iter().map(|(id, record)| (*id, record.encode())).collect::<Vec<_>>());
        put(&mut out, &(waiting, problems));
        put(&mut out, &(early_merges, early_parents));
        put(&mut out, &(displaced, bonds, copies, copies_of));
        put(&mut out, suffix_names);
        put(&mut out, &(wanted, wanted_refs, wanting));
        merges.save(&mut out);
        put(&mut out, &(bytes_total, nodes_total));
        out
    }

    /// The view of [`View::save`].
    ///
    /// Errors: the bytes are of another program, or damaged in a way that their checksum does not tell.
    pub fn restore(bytes: &[u8]) -> Result<Self, Error> {
        let mut d = Decoder::new(bytes);
        let [recs, places, nodes, rest] = [d.bytes()?, d.bytes()?, d.bytes()?, d.bytes()?];
        let (recs, read) = std::thread::scope(|scope| {
            let nodes = scope.spawn(|| Nodes::read(nodes));
            (decoded::<Rec>(recs), nodes.join().expect("decoding does not panic"))
        });
        let (recs, read) = (recs?, read?);
        let mut view = Self { nodes: read.nodes, node_index: read.index, ..Self::default() };
        view.index = std::thread::scope(|scope| {
            let index = scope.spawn(|| recs.iter().zip(0..).map(|(rec, ix)| (rec.id, RecIx(ix))).collect());
            view.places = read_places(places, &recs)?;
            view.place_index = view.places.iter().zip(0..).map(|(place, ix)| (place.id, PlaceIx(ix))).collect();
            for (ix, slots) in read.slots {
                let named = slots.into_iter().map(|slot| Some((slot_name(&view.places, &slot)?, slot)));
                let named: Option<BTreeMap<Name, Slot>> = named.collect();
                let dir = view.nodes[ix.at()].dir.as_mut().expect("a directory was read");
                dir.slots = named.ok_or_else(|| Error::message("a name of nothing"))?;
            }
            Ok(index.join().expect("sorting does not panic"))
        })?;
        view.recs = recs;
        view.restore_rest(rest)?;
        Ok(view)
    }

    fn restore_rest(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let mut d = Decoder::new(bytes);
        let by_content: Vec<RecIx> = d.decode()?;
        let keyed = by_content.into_iter().filter_map(|ix| {
            let content = self.content_rec(ix)?.bytes.as_deref()?;
            Some((content_key(content), ix))
        });
        self.by_content = keyed.collect();
        self.devices = d.decode::<Vec<String>>()?.into_iter().map(Arc::from).collect();
        self.device_index =
            d.decode::<Vec<(String, u32)>>()?.into_iter().map(|(name, ix)| (Arc::from(name), ix)).collect();
        (self.masked, self.masked_ids) = d.decode()?;
        for (id, record) in d.decode::<Vec<(_, Vec<u8>)>>()? {
            let record = crate::record::Record::decode(&record).map_err(Error::message)?;
            self.parked.insert(id, record);
        }
        (self.waiting, self.problems) = d.decode()?;
        (self.early_merges, self.early_parents) = d.decode()?;
        (self.displaced, self.bonds, self.copies, self.copies_of) = d.decode()?;
        self.suffix_names = d.decode()?;
        (self.wanted, self.wanted_refs, self.wanting) = d.decode()?;
        self.merges = MergeCache::restore(&mut d)?;
        (self.bytes_total, self.nodes_total) = d.decode()?;
        self.find_built_on();
        Ok(())
    }
}

/// The name that a record carries.
fn name_of(recs: &[Rec], rec: RecIx) -> Option<&Name> {
    match &recs.get(rec.at())?.body {
        Body::Place(place) => Some(&place.name),
        Body::Pin(pin) => Some(&pin.name),
        _ => None,
    }
}

/// The name that a slot is of: all its claims have it.
fn slot_name(places: &[PlaceState], slot: &Slot) -> Option<Name> {
    let place = match slot {
        Slot::One(place) => place,
        Slot::Many(many) => many.claims.first()?,
    };
    Some(places.get(place.at())?.eval.as_ref()?.name.clone())
}

fn read_places(bytes: &[u8], recs: &[Rec]) -> Result<Vec<PlaceState>, Error> {
    let mut d = Decoder::new(bytes);
    let count = count(&mut d, bytes)?;
    let mut places = Vec::with_capacity(count);
    for _ in 0..count {
        let (id, node, recs_of, class): (PlaceId, _, _, _) = d.decode()?;
        let (members, claim) = d.decode()?;
        let mut eval = None;
        if d.bool()? {
            let (live, parent, top, pinned, created, moved) = d.decode()?;
            let name = match d.decode::<Option<RecIx>>()? {
                None => d.decode()?,
                Some(rec) => name_of(recs, rec).cloned().ok_or_else(|| Error::message("a name of no record"))?,
            };
            eval = Some(PlaceEval { live, parent, name, top, pinned, created, moved });
        }
        places.push(PlaceState { id, node, recs: recs_of, class, members, eval, claim });
    }
    Ok(places)
}

/// The inodes, with the entries of directories whose names are not known yet.
struct Nodes {
    nodes: Vec<NodeState>,
    index: BTreeMap<InodeId, NodeIx>,
    slots: Vec<(NodeIx, Vec<Slot>)>,
}

impl Nodes {
    fn read(bytes: &[u8]) -> Result<Self, Error> {
        let mut d = Decoder::new(bytes);
        let count = count(&mut d, bytes)?;
        let mut nodes = Vec::with_capacity(count);
        let mut slots = Vec::new();
        for at in 0..count {
            let (id, kind, recs, places) = d.decode()?;
            let (class, alias, below, eval, extra) = d.decode()?;
            let mut dir = None;
            if d.bool()? {
                let (suffixed, subdirs, entries): (_, _, u64) = d.decode()?;
                let mut of = Vec::new();
                for _ in 0..entries {
                    of.push(d.decode()?);
                }
                slots.push((NodeIx(u32::try_from(at).map_err(Error::message)?), of));
                dir = Some(Box::new(DirData { slots: BTreeMap::new(), suffixed, subdirs }));
            }
            nodes.push(NodeState { id, kind, recs, places, class, alias, below, eval, dir, extra });
        }
        let index = nodes.iter().zip(0..).map(|(node, ix)| (node.id, NodeIx(ix))).collect();
        Ok(Self { nodes, index, slots })
    }
}
