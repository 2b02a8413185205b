//! Records made by hand, for what no operation makes: each says as little as it can, and a test changes what it is about.

use crdtfs_core::content::ContentRef;
use crdtfs_core::id::{InodeId, PlaceId};
use crdtfs_core::name::Name;
use crdtfs_core::node::{Kind, Time, Xattrs};
use crdtfs_core::record::{Content, Place, PlaceState};

/// The inode of this number.
pub fn inode(n: u8) -> InodeId {
    InodeId([n; 16])
}

/// The creation of the place of this number, a name of the inode of the same.
///
/// # Panics
///
/// If the name is no legal one: that is for bytes that are no record.
pub fn place(n: u8, parent: InodeId, name: &str, kind: Kind) -> Place {
    Place {
        place: PlaceId([n; 16]),
        inode: inode(n),
        kind,
        parent,
        parent_stamp: None,
        name: Name::try_from(name).expect("a legal name"),
        name_stamp: None,
        device: "dev".into(),
        state: PlaceState::Live,
        replaces: Vec::new(),
        saw: Vec::new(),
    }
}

/// The creation of the content of the inode of this number, written through the place of the same.
pub fn content(n: u8, bytes: &[u8]) -> Content {
    Content {
        inode: inode(n),
        via: PlaceId([n; 16]),
        device: "dev".into(),
        bytes: Some(ContentRef::single(bytes)),
        bytes_stamp: None,
        mode: 0o644,
        mode_stamp: None,
        owner: None,
        owner_stamp: None,
        mtime: Time::default(),
        mtime_stamp: None,
        xattrs: Xattrs::new(),
        xattrs_stamp: None,
        target: None,
        rdev: None,
        replaces: Vec::new(),
        saw: Vec::new(),
    }
}
