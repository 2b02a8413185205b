//! Replacing and exchanging where the filesystem only renames (FAT and its kin): step by step. For an instant there is then
//! nothing at a name; whoever looks in that instant sees nothing, and a crash in it is mended by the next start, which puts
//! back what it finds aside and at no place.

use std::io;

use crdtfs_core::id::InodeId;
use crdtfs_core::name::Name;

use crate::apply::{Applier, Result, tried};
use crate::disk::Dir;
use crate::plan::parked_name;
use crate::synced::{Place, Synced};

impl Applier<'_> {
    /// Puts what lies at `temp` in the root in the place of a file that we know, and gives that one up.
    pub(crate) fn take_place_stepwise(
        &mut self,
        temp: &Name,
        at: &Place,
        of: InodeId,
        old: &Synced,
        key: Option<InodeId>,
    ) -> Result<()> {
        let (root, dir) = (self.dir(InodeId::ROOT)?, self.dir(at.0)?);
        let ours = self.stat(&root, temp)?.stamp.ident;
        let aside = self.aside_name(of);
        dir.rename(&at.1, &root, &aside).map_err(tried("cannot be replaced"))?;
        let placed = root.rename(temp, &dir, &at.1).map_err(tried("cannot be put into place"));
        let result = placed.and_then(|()| self.give_up(&root, &aside, at, old, key));
        if result.is_err() {
            if self.stat(&dir, &at.1).is_ok_and(|there| there.stamp.ident == ours) {
                dir.rename(&at.1, &root, temp).map_err(tried("cannot be taken back"))?;
            }
            self.put_back(root.rename(&aside, &dir, &at.1), &root, &aside)?;
        }
        result
    }

    /// Swaps two entries, the first being the node `x`'s.
    pub(crate) fn exchange(
        &mut self,
        (x, a, a_name): (InodeId, &Dir, &Name),
        (b, b_name): (&Dir, &Name),
    ) -> io::Result<()> {
        if self.root.abilities().exchanges {
            return a.exchange(a_name, b, b_name);
        }
        // The next start knows what lies there.
        let (root, parked) = (self.root.dir(&[])?, parked_name(x, 0));
        a.rename(a_name, &root, &parked)?;
        if let Err(error) = b.rename(b_name, a, a_name) {
            root.rename(&parked, a, a_name)?;
            return Err(error);
        }
        root.rename(&parked, b, b_name)
    }
}
