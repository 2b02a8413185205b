//! The record graph in memory: arenas addressed by small indices, so that a record costs tens of bytes and following a
//! link costs one array access.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::content::ContentRef;
use crate::id::{InodeId, PlaceId, RecordId};
use crate::name::Name;
use crate::node::{Kind, Owner, Time, Xattrs};

macro_rules! index {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub(super) struct $name(pub(super) u32);

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
pub(super) struct Rec {
    pub(super) id: RecordId,
    /// Longest path to a record without links: an ancestor's is smaller.
    pub(super) depth: u32,
    pub(super) body: Body,
    pub(super) links: Option<Box<Links>>,
}

/// How a record hangs together with others.
#[derive(Default)]
pub(super) struct Links {
    pub(super) replaces: Vec<RecIx>,
    pub(super) saw: Vec<RecIx>,
    pub(super) replaced_by: Vec<RecIx>,
}

/// What a record says.
pub(super) enum Body {
    Place(Box<PlaceRec>),
    Content(Box<ContentRec>),
    Birth {
        version: RecIx,
        node: NodeIx,
        place: PlaceIx,
    },
    Pin(Box<PinRec>),
    /// Means nothing; kept because others may refer to it.
    Void,
}

pub(super) struct PlaceRec {
    pub(super) place: PlaceIx,
    pub(super) node: NodeIx,
    pub(super) parent: NodeIx,
    pub(super) kind: Kind,
    pub(super) name: Name,
    pub(super) device: u32,
    pub(super) stamps: Option<Box<[Option<RecIx>; 2]>>,
    pub(super) state: State,
}

pub(super) enum State {
    Live,
    Deleted(Box<[RecIx]>),
    Merged { into: PlaceIx, pairs: Box<[(RecIx, RecIx)]> },
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

pub(super) struct ContentRec {
    pub(super) node: NodeIx,
    pub(super) via: PlaceIx,
    pub(super) device: u32,
    pub(super) mode: u32,
    pub(super) mtime: Time,
    pub(super) bytes: Option<Box<ContentRef>>,
    /// In the order of [`Field`]; absent if this record set them all.
    pub(super) stamps: Option<Box<[Option<RecIx>; 5]>>,
    pub(super) rare: Option<Box<Rare>>,
}

/// What few contents have.
#[derive(Default)]
pub(super) struct Rare {
    pub(super) owner: Option<Owner>,
    pub(super) xattrs: Arc<Xattrs>,
    pub(super) target: Arc<[u8]>,
    pub(super) rdev: u64,
}

pub(super) struct PinRec {
    pub(super) covers: Vec<RecIx>,
    pub(super) saw: Vec<RecIx>,
    pub(super) parent: NodeIx,
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
}

/// Where a place stands in the tree.
#[derive(Clone, Copy, PartialEq)]
pub(super) struct Claim {
    /// Class root of the directory that its records name (cycles broken).
    pub(super) parent: NodeIx,
    /// The directory that shows it.
    pub(super) dir: NodeIx,
    /// Shown as another place of its slot.
    pub(super) hidden: bool,
    /// Counted among the subdirectories.
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
#[derive(Default)]
pub(super) struct NodeExtra {
    /// All members, at the root of a class of more than one.
    pub(super) members: Vec<NodeIx>,
    /// Versions promoted away from it.
    pub(super) promoted: Vec<RecIx>,
    /// The version that it was born from.
    pub(super) root: Option<RecIx>,
}

/// What the contents of an inode class mean.
#[derive(Clone, PartialEq, Default)]
pub(super) enum NodeEval {
    /// Nothing to show.
    #[default]
    Nothing,
    /// One head, or several without a conflict.
    One(RecIx),
    /// Everything else.
    Many(Box<ManyEval>),
}

/// A content of several heads.
#[derive(Clone, PartialEq)]
pub(super) struct ManyEval {
    /// The record that supplies each field, in the order of [`Field`].
    pub(super) fields: [RecIx; 5],
    pub(super) bytes: Option<ContentRef>,
    /// Heads that the shown bytes stand for, the highest ranked first.
    pub(super) heads: Vec<RecIx>,
    pub(super) copies: Vec<CopyEval>,
    pub(super) pending: Vec<ContentRef>,
    /// Where it lives although every place of it was deleted.
    pub(super) revived: Option<PlaceIx>,
}

/// One conflict copy.
#[derive(Clone, PartialEq)]
pub(super) struct CopyEval {
    pub(super) id: InodeId,
    pub(super) origin: NodeIx,
    pub(super) version: RecIx,
    pub(super) heads: Vec<RecIx>,
    pub(super) content: ContentRef,
}

/// Who wants a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Claimant {
    Place(PlaceIx),
    Copy(InodeId),
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
#[derive(Default)]
pub(super) struct Suffixed {
    pub(super) wants: BTreeMap<Claimant, Want>,
    pub(super) shown: BTreeMap<Name, Claimant>,
}

/// A name wanted by an entry that gets a suffix.
#[derive(Clone, PartialEq)]
pub(super) struct Want {
    pub(super) base: Name,
    pub(super) device: u32,
    pub(super) id: [u8; 16],
}

/// The claims of one name.
pub(super) enum Slot {
    One(PlaceIx),
    Many(Box<ManySlot>),
}

/// Several claims of one name.
pub(super) struct ManySlot {
    pub(super) claims: Vec<PlaceIx>,
    /// Claims shown as one entry each, the representative first; the first group has the name.
    pub(super) groups: Vec<Vec<PlaceIx>>,
}

/// A shown conflict copy.
#[derive(Clone, PartialEq)]
pub(super) struct CopyState {
    /// Class root of the inode that it is a copy of.
    pub(super) holder: NodeIx,
    pub(super) dir: NodeIx,
    pub(super) copy: CopyEval,
}
