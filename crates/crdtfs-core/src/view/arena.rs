//! The record graph in memory: arenas addressed by small indices, so that a record costs tens of bytes and following a
//! link costs one array access.
//!
//! What is encoded is written by [`super::saved`] alone, for the very program that wrote it: no format that lasts.

use std::collections::BTreeMap;
use std::sync::Arc;

use minicbor::{Decode, Encode};

use crate::content::ContentRef;
use crate::id::{InodeId, PlaceId, RecordId};
use crate::name::Name;
use crate::node::{Kind, Owner, Time, Xattrs};

macro_rules! index {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
        #[cbor(transparent)]
        pub(super) struct $name(#[n(0)] pub(super) u32);

        impl $name {
            pub(super) fn at(self) -> usize {
                self.0 as usize
            }
        }
    };
}

index!(
    /// A record.
    RecIx
);
index!(
    /// A place; operations on evaluated state use the root of its class.
    PlaceIx
);
index!(
    /// An inode; operations on evaluated state use the root of its class.
    NodeIx
);

impl NodeIx {
    /// The root directory.
    pub(super) const ROOT: Self = Self(0);
}

/// One record with its links.
#[derive(Encode, Decode)]
pub(super) struct Rec {
    #[n(0)]
    pub(super) id: RecordId,
    /// Longest path to a record that refers to none: an ancestor's is smaller.
    #[n(1)]
    pub(super) depth: u32,
    #[n(2)]
    pub(super) body: Body,
    #[n(3)]
    pub(super) links: Option<Box<Links>>,
}

/// How a record hangs together with others.
#[derive(Default, Encode, Decode)]
pub(super) struct Links {
    #[n(0)]
    pub(super) replaces: Vec<RecIx>,
    #[n(1)]
    pub(super) saw: Vec<RecIx>,
    #[n(2)]
    pub(super) replaced_by: Vec<RecIx>,
}

/// What a record says.
#[derive(Encode, Decode)]
pub(super) enum Body {
    #[n(0)]
    Place(#[n(0)] Box<PlaceRec>),
    #[n(1)]
    Content(#[n(0)] Box<ContentRec>),
    #[n(2)]
    Birth {
        #[n(0)]
        version: RecIx,
        #[n(1)]
        node: NodeIx,
        #[n(2)]
        place: PlaceIx,
    },
    #[n(3)]
    Pin(#[n(0)] Box<PinRec>),
    /// Means nothing; kept because others may refer to it.
    #[n(4)]
    Void,
}

#[derive(Encode, Decode)]
pub(super) struct PlaceRec {
    #[n(0)]
    pub(super) place: PlaceIx,
    #[n(1)]
    pub(super) node: NodeIx,
    #[n(2)]
    pub(super) parent: NodeIx,
    #[n(3)]
    pub(super) kind: Kind,
    #[n(4)]
    pub(super) name: Name,
    #[n(5)]
    pub(super) device: u32,
    #[n(6)]
    pub(super) stamps: Option<Box<[Option<RecIx>; 2]>>,
    #[n(7)]
    pub(super) state: State,
}

#[derive(Encode, Decode)]
pub(super) enum State {
    #[n(0)]
    Live,
    #[n(1)]
    Deleted(#[n(0)] Box<[RecIx]>),
    #[n(2)]
    Merged {
        #[n(0)]
        into: PlaceIx,
        #[n(1)]
        pairs: Box<[(RecIx, RecIx)]>,
    },
}

/// Which of the stamped fields of a content.
#[derive(Clone, Copy, Debug)]
pub(super) enum Field {
    Bytes,
    Mode,
    Owner,
    Mtime,
    Xattrs,
}

#[derive(Encode, Decode)]
pub(super) struct ContentRec {
    #[n(0)]
    pub(super) node: NodeIx,
    #[n(1)]
    pub(super) via: PlaceIx,
    #[n(2)]
    pub(super) device: u32,
    #[n(3)]
    pub(super) mode: u32,
    #[n(4)]
    pub(super) mtime: Time,
    #[n(5)]
    pub(super) bytes: Option<Box<ContentRef>>,
    /// In the order of [`Field`]; absent if this record set them all.
    #[n(6)]
    pub(super) stamps: Option<Box<[Option<RecIx>; 5]>>,
    #[n(7)]
    pub(super) rare: Option<Box<Rare>>,
}

/// What few contents have.
#[derive(Default, Encode, Decode)]
pub(super) struct Rare {
    #[n(0)]
    pub(super) owner: Option<Owner>,
    #[n(1)]
    #[cbor(with = "super::saved::shared")]
    pub(super) xattrs: Arc<Xattrs>,
    #[n(2)]
    #[cbor(with = "super::saved::shared_bytes")]
    pub(super) target: Arc<[u8]>,
    #[n(3)]
    pub(super) rdev: u64,
}

#[derive(Encode, Decode)]
pub(super) struct PinRec {
    #[n(0)]
    pub(super) covers: Vec<RecIx>,
    #[n(1)]
    pub(super) saw: Vec<RecIx>,
    #[n(2)]
    pub(super) parent: NodeIx,
    #[n(3)]
    pub(super) name: Name,
}

/// A place: its records, and (at the root of its class) what they mean and where it is shown.
pub(super) struct PlaceState {
    pub(super) id: PlaceId,
    /// The inode; `None` while no record of the place itself is here.
    pub(super) node: Option<NodeIx>,
    /// Place, birth and pin records.
    pub(super) recs: Vec<RecIx>,
    /// Root of the class; itself if it is one.
    pub(super) class: PlaceIx,
    /// All members, at the root of a class of more than one.
    pub(super) members: Option<Box<[PlaceIx]>>,
    pub(super) eval: Option<PlaceEval>,
    pub(super) claim: Option<Claim>,
}

/// What the records of a place class mean.
#[derive(Clone, PartialEq)]
pub(super) struct PlaceEval {
    pub(super) live: bool,
    pub(super) parent: NodeIx,
    pub(super) name: Name,
    /// The head that ranks highest.
    pub(super) top: RecIx,
    pub(super) pinned: bool,
    /// Name and parent are still those of the creation.
    pub(super) created: bool,
    /// The parent is not that of the creation.
    pub(super) moved: bool,
}

/// Where a place stands in the tree.
#[derive(Clone, Copy, PartialEq, Encode, Decode)]
pub(super) struct Claim {
    /// Class root of the directory that its records name (cycles broken).
    #[n(0)]
    pub(super) parent: NodeIx,
    /// The directory that shows it.
    #[n(1)]
    pub(super) dir: NodeIx,
    /// Shown as another place of its slot.
    #[n(2)]
    pub(super) hidden: bool,
    /// Counted among the subdirectories.
    #[n(3)]
    pub(super) is_dir: bool,
}

/// An inode: its records, and (at the root of its class) what they mean.
pub(super) struct NodeState {
    pub(super) id: InodeId,
    pub(super) kind: Option<Kind>,
    /// Content records, in order of arrival.
    pub(super) recs: Vec<RecIx>,
    /// Places whose records name it.
    pub(super) places: Vec<PlaceIx>,
    /// Root of the class: its representative, by whose id all are shown.
    pub(super) class: NodeIx,
    /// Of a twin or union: the node that stands for it now. Itself otherwise.
    pub(super) alias: NodeIx,
    /// Claims whose parent it is.
    pub(super) below: u32,
    pub(super) eval: NodeEval,
    pub(super) dir: Option<Box<DirData>>,
    pub(super) extra: Option<Box<NodeExtra>>,
}

/// What few inodes have.
#[derive(Default, Encode, Decode)]
pub(super) struct NodeExtra {
    /// All members, at the root of a class of more than one.
    #[n(0)]
    pub(super) members: Vec<NodeIx>,
    /// Versions promoted away from it.
    #[n(1)]
    pub(super) promoted: Vec<RecIx>,
    /// The version that it was born from.
    #[n(2)]
    pub(super) root: Option<RecIx>,
}

/// What the contents of an inode class mean.
#[derive(Clone, PartialEq, Default, Encode, Decode)]
pub(super) enum NodeEval {
    /// Nothing to show.
    #[default]
    #[n(0)]
    Nothing,
    /// One head, or several without a conflict.
    #[n(1)]
    One(#[n(0)] RecIx),
    /// Everything else.
    #[n(2)]
    Many(#[n(0)] Box<ManyEval>),
}

/// A content of several heads.
#[derive(Clone, PartialEq, Encode, Decode)]
pub(super) struct ManyEval {
    /// The record that supplies each field, in the order of [`Field`].
    #[n(0)]
    pub(super) fields: [RecIx; 5],
    #[n(1)]
    pub(super) bytes: Option<ContentRef>,
    /// Heads that the shown bytes stand for, the highest ranked first.
    #[n(2)]
    pub(super) heads: Vec<RecIx>,
    #[n(3)]
    pub(super) copies: Vec<CopyEval>,
    #[n(4)]
    pub(super) pending: Vec<ContentRef>,
    /// Where it lives although every place of it was deleted.
    #[n(5)]
    pub(super) revived: Option<PlaceIx>,
}

/// One conflict copy.
#[derive(Clone, PartialEq, Encode, Decode)]
pub(super) struct CopyEval {
    #[n(0)]
    pub(super) id: InodeId,
    #[n(1)]
    pub(super) origin: NodeIx,
    #[n(2)]
    pub(super) version: RecIx,
    #[n(3)]
    pub(super) heads: Vec<RecIx>,
    #[n(4)]
    pub(super) content: ContentRef,
}

/// Who wants a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub(super) enum Claimant {
    #[n(0)]
    Place(#[n(0)] PlaceIx),
    #[n(1)]
    Copy(#[n(0)] InodeId),
}

/// The entries of a shown directory.
#[derive(Default)]
pub(super) struct DirData {
    pub(super) slots: BTreeMap<Name, Slot>,
    pub(super) suffixed: Option<Box<Suffixed>>,
    /// Shown subdirectories.
    pub(super) subdirs: u32,
}

/// Entries that cannot have the name that they want.
#[derive(Default, Encode, Decode)]
pub(super) struct Suffixed {
    #[n(0)]
    pub(super) wants: BTreeMap<Claimant, Want>,
    #[n(1)]
    pub(super) shown: BTreeMap<Name, Claimant>,
}

/// A name wanted by an entry that gets a suffix.
#[derive(Clone, PartialEq, Encode, Decode)]
pub(super) struct Want {
    #[n(0)]
    pub(super) base: Name,
    #[n(1)]
    pub(super) device: u32,
    #[n(2)]
    #[cbor(with = "minicbor::bytes")]
    pub(super) id: [u8; 16],
}

/// The claims of one name.
#[derive(Encode, Decode)]
pub(super) enum Slot {
    #[n(0)]
    One(#[n(0)] PlaceIx),
    #[n(1)]
    Many(#[n(0)] Box<ManySlot>),
}

/// Several claims of one name.
#[derive(Encode, Decode)]
pub(super) struct ManySlot {
    #[n(0)]
    pub(super) claims: Vec<PlaceIx>,
    /// Claims shown as one entry each, the representative first; the first group has the name.
    #[n(1)]
    pub(super) groups: Vec<Vec<PlaceIx>>,
}

/// A shown conflict copy.
#[derive(Clone, PartialEq, Encode, Decode)]
pub(super) struct CopyState {
    /// Class root of the inode that it is a copy of.
    #[n(0)]
    pub(super) holder: NodeIx,
    #[n(1)]
    pub(super) dir: NodeIx,
    #[n(2)]
    pub(super) copy: CopyEval,
    /// The directory that holds the place that it stands beside: `dir` shows it.
    #[n(3)]
    pub(super) parent: NodeIx,
}
