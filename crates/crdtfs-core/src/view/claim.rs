//! Claims: which places stand in the tree, and in which directory.

use super::View;
use super::arena::{Body, Claim, Claimant, CopyState, NodeEval, NodeIx, PlaceIx, RecIx, Slot, Want};
use crate::name::Name;
use crate::node::Kind;

impl View {
    /// The directory that shows what stands in `dir`: itself, or the one that a union is shown as.
    pub(super) fn home(&self, dir: NodeIx) -> NodeIx {
        self.nodes[self.nodes[dir.at()].class.at()].alias
    }

    /// Where a place stands by what its records and those of its inode mean now.
    fn desired_claim(&self, place: PlaceIx) -> Option<Claim> {
        let eval = self.places[place.at()].eval.as_ref()?;
        let node = self.node_of(place)?;
        let state = &self.nodes[node.at()];
        let mut parent = self.as_dir(eval.parent);
        let stands = if state.kind == Some(Kind::Dir) {
            if let Some(other) = self.displaced.get(&node) {
                parent = *other;
            }
            (eval.live || state.below > 0) && self.primary(node) == Some(place)
        } else {
            match &state.eval {
                NodeEval::Nothing => false,
                NodeEval::One(_) => eval.live,
                NodeEval::Many(many) => many.revived.map_or(eval.live, |revived| revived == place),
            }
        };
        let is_dir = state.kind == Some(Kind::Dir);
        stands.then(|| Claim { parent, dir: self.home(parent), hidden: false, is_dir })
    }

    /// Puts a place where it stands now.
    pub(super) fn update_claim(&mut self, place: PlaceIx) {
        if self.places[place.at()].class != place {
            return;
        }
        let desired = self.desired_claim(place);
        let current = self.places[place.at()].claim;
        let same = match (&current, &desired) {
            (Some(a), Some(b)) => a.parent == b.parent && a.dir == b.dir,
            (None, None) => true,
            _ => false,
        };
        if !same {
            self.unregister(place);
            if let Some(claim) = desired {
                self.register(place, claim);
            }
        }
    }

    fn register(&mut self, place: PlaceIx, claim: Claim) {
        let name = self.places[place.at()].eval.as_ref().expect("a claim has been evaluated").name.clone();
        let node = self.node_of(place).expect("a claim has an inode");
        self.touch_claim(place, claim.dir, &name, node);
        self.places[place.at()].claim = Some(claim);
        let data = self.nodes[claim.dir.at()].dir.get_or_insert_default();
        data.subdirs += u32::from(claim.is_dir);
        match data.slots.get_mut(&name) {
            None => {
                data.slots.insert(name.clone(), Slot::One(place));
            }
            Some(slot) => {
                slot.claims_mut().push(place);
                self.dirty.slots.insert((claim.dir, name.clone()));
            }
        }
        self.after_change(place, &claim, node);
        let parent = &mut self.nodes[claim.parent.at()];
        parent.below += 1;
        if parent.below == 1
            && let Some(above) = self.primary(claim.parent)
        {
            self.dirty.claims.insert(above);
        }
    }

    /// Takes a place out of the tree; where it stood.
    pub(super) fn unregister(&mut self, place: PlaceIx) -> Option<(NodeIx, Name)> {
        let claim = self.places[place.at()].claim?;
        let name = self.places[place.at()].eval.as_ref()?.name.clone();
        let node = self.node_of(place)?;
        self.touch_claim(place, claim.dir, &name, node);
        self.places[place.at()].claim = None;
        let data = self.nodes[claim.dir.at()].dir.get_or_insert_default();
        data.subdirs -= u32::from(claim.is_dir && !claim.hidden);
        match data.slots.get_mut(&name) {
            Some(Slot::One(_)) => {
                data.slots.remove(&name);
            }
            Some(slot) => {
                slot.claims_mut().retain(|other| *other != place);
                self.dirty.slots.insert((claim.dir, name.clone()));
            }
            None => {}
        }
        self.after_change(place, &claim, node);
        let parent = &mut self.nodes[claim.parent.at()];
        parent.below -= 1;
        if parent.below == 0
            && let Some(above) = self.primary(claim.parent)
        {
            self.dirty.claims.insert(above);
        }
        Some((claim.dir, name))
    }

    /// Marks what hangs on where a place stands.
    fn after_change(&mut self, place: PlaceIx, claim: &Claim, node: NodeIx) {
        let data = self.nodes[claim.dir.at()].dir.as_ref();
        if data.is_some_and(|data| data.suffixed.is_some()) {
            self.dirty.suffixes.insert(claim.dir);
        }
        let copies = matches!(&self.nodes[node.at()].eval, NodeEval::Many(many) if !many.copies.is_empty());
        if copies || self.copies_of.contains_key(&node) {
            self.dirty.copies.insert(node);
        }
        debug_assert!(self.places[place.at()].class == place);
    }

    /// Remembers what a change of this claim can alter.
    fn touch_claim(&mut self, place: PlaceIx, dir: NodeIx, name: &Name, node: NodeIx) {
        if self.changes.off {
            return;
        }
        self.touch_entry(dir, name);
        if let Some((at, suffixed)) = self.suffix_names.get(&Claimant::Place(place)).cloned() {
            self.touch_entry(at, &suffixed);
        }
        let alias = self.nodes[node.at()].alias;
        self.touch_node(node);
        self.touch_node(alias);
        if self.nodes[node.at()].kind == Some(Kind::Dir) {
            self.touch_node(dir);
        }
    }

    /// Places that stand in an inode, wherever they are shown.
    pub(super) fn children_of(&self, dir: NodeIx) -> Vec<PlaceIx> {
        if self.nodes[dir.at()].below == 0 {
            return Vec::new();
        }
        let mut homes = vec![dir, self.nodes[dir.at()].alias];
        // A union that is being taken apart may still show them at a former home.
        homes.extend(self.former_homes.get(&dir).into_iter().flatten());
        homes.sort_unstable();
        homes.dedup();
        let claims = homes.iter().filter_map(|home| self.nodes[home.at()].dir.as_ref()).flat_map(|data| {
            data.slots.values().flat_map(|slot| match slot {
                Slot::One(place) => std::slice::from_ref(place),
                Slot::Many(many) => &many.claims,
            })
        });
        claims
            .copied()
            .filter(|place| matches!(&self.places[place.at()].claim, Some(claim) if claim.parent == dir))
            .collect()
    }

    /// Puts the conflict copies of a node where they stand now.
    pub(super) fn update_copies(&mut self, node: NodeIx) {
        let wanted = match &self.nodes[node.at()].eval {
            NodeEval::Many(many) if self.nodes[node.at()].class == node => many.copies.clone(),
            _ => Vec::new(),
        };
        let old = self.copies_of.remove(&node).unwrap_or_default();
        let mut new = Vec::new();
        let mut places = if wanted.is_empty() { Vec::new() } else { self.place_classes(node) };
        places.sort_by_cached_key(|place| self.age(*place));
        for copy in wanted {
            if let Some((Claim { parent, dir, .. }, base)) = self.stands_beside(&places, copy.version) {
                let device = self.content_rec(copy.version).map_or(0, |rec| rec.device);
                let want = Want { base, device, id: self.rec(copy.version).id.0 };
                new.push(copy.id);
                self.set_copy(CopyState { holder: node, dir, copy, parent }, want);
            }
        }
        for id in old {
            let gone = !new.contains(&id) && self.copies.get(&id).is_some_and(|state| state.holder == node);
            if gone && let Some(state) = self.copies.get(&id).cloned() {
                self.touch_copy(&state);
                self.copies.remove(&id);
                self.drop_want(state.dir, Claimant::Copy(id), None);
            }
        }
        if !new.is_empty() {
            self.copies_of.insert(node, new);
        }
    }

    /// Where a version of a file stands that is shown beside it: next to the name that it was written through, of several, also
    /// when others are added; next to the first of `places` if that one is gone.
    fn stands_beside(&self, places: &[PlaceIx], version: RecIx) -> Option<(Claim, Name)> {
        let via = self.content_rec(version).map(|rec| self.places[rec.via.at()].class);
        let own = via.into_iter().filter(|via| places.contains(via));
        own.chain(places.iter().copied()).find_map(|place| {
            let state = &self.places[place.at()];
            Some((state.claim?, state.eval.as_ref()?.name.clone()))
        })
    }

    /// The depth of the first record of a place. Who gives a file a name more saw the names that it had, so that it comes after
    /// them; ids of places say nothing of that.
    fn age(&self, place: PlaceIx) -> u32 {
        let members = self.place_members(place).into_iter();
        let recs = members.flat_map(|member| self.places[member.at()].recs.iter().copied());
        let said = recs.filter(|ix| matches!(self.rec(*ix).body, Body::Place(_) | Body::Birth { .. }));
        said.map(|ix| self.rec(ix).depth).min().unwrap_or(0)
    }

    fn set_copy(&mut self, state: CopyState, want: Want) {
        let id = state.copy.id;
        let old = self.copies.get(&id).cloned();
        let claimant = Claimant::Copy(id);
        match &old {
            Some(old) if *old == state => {}
            Some(old) => {
                self.touch_copy(old);
                if old.dir != state.dir {
                    self.drop_want(old.dir, claimant, None);
                }
            }
            None => self.touch_copy(&state),
        }
        let dir = state.dir;
        self.copies.insert(id, state);
        self.set_want(dir, claimant, want);
    }

    /// Notes that all copies of a node will be shown otherwise.
    pub(super) fn touch_copies(&mut self, node: NodeIx) {
        for id in self.copies_of.get(&node).cloned().unwrap_or_default() {
            if let Some(state) = self.copies.get(&id).cloned() {
                self.touch_copy(&state);
            }
        }
    }

    fn touch_copy(&mut self, state: &CopyState) {
        self.touch_id(state.copy.id);
        if let Some((at, name)) = self.suffix_names.get(&Claimant::Copy(state.copy.id)).cloned() {
            self.touch_entry(at, &name);
        }
    }
}
