//! The names of entries that cannot have the name they want: `stem (conflict DEVICE SHORTID).ext`.

use std::collections::BTreeMap;

use super::View;
use super::arena::{Claimant, NodeIx, Want};
use crate::name::{MAX_LEN, Name};

/// The longest extension that is kept behind the suffix, its dot included.
const MAX_EXTENSION: usize = 32;

/// The name with a suffix, its stem cut so that it stays a legal one.
pub(super) fn suffixed(base: &Name, device: &str, digits: &str) -> Name {
    let bytes = base.as_bytes();
    let dot = bytes.iter().rposition(|b| *b == b'.').filter(|dot| *dot > 0 && bytes.len() - dot <= MAX_EXTENSION);
    let (stem, extension) = bytes.split_at(dot.unwrap_or(bytes.len()));
    let suffix = format!(" (conflict {device} {digits})");
    let mut room = MAX_LEN.saturating_sub(suffix.len() + extension.len()).min(stem.len());
    // Not within a character, where the name is text.
    while room > 0 && room < stem.len() && stem[room] & 0xc0 == 0x80 {
        room -= 1;
    }
    let name = [&stem[..room], suffix.as_bytes(), extension].concat();
    Name::new(&name[..name.len().min(MAX_LEN)]).expect("longer than dots, without separators")
}

/// What a name of a conflict copy is made of: `stem (conflict DEVICE DIGITS).ext`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suffixed<'a> {
    /// `stem.ext`: the name that the entry was to have, or what was left of it where it had to be cut.
    pub base: Vec<u8>,
    /// Name of the device that made the version.
    pub device: &'a str,
    /// How the version's id begins, in hexadecimal digits.
    pub digits: &'a str,
    /// All that follows the device's name: the digits, and what else it took to tell names apart.
    id: &'a str,
    /// The name itself.
    name: &'a [u8],
}

impl<'a> Suffixed<'a> {
    /// Takes a name apart; `None` if it is no such name. That it is one does not say that it ever stood for a conflict.
    pub fn parse(name: &'a [u8]) -> Option<Self> {
        const OPEN: &[u8] = b" (conflict ";
        let start = name.windows(OPEN.len()).rposition(|part| part == OPEN)?;
        let (stem, rest) = (&name[..start], &name[start + OPEN.len()..]);
        let end = rest.iter().position(|byte| *byte == b')')?;
        let extension = &rest[end + 1..];
        let (device, id) = std::str::from_utf8(&rest[..end]).ok()?.rsplit_once(' ')?;
        // Where that was not enough, more follows that is not the version's.
        let digits = id.split('-').next().filter(|digits| (8..=32).contains(&digits.len()))?;
        let hexadecimal = digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
        let fits = hexadecimal && (extension.is_empty() || extension[0] == b'.');
        fits.then(|| Self { base: [stem, extension].concat(), device, digits, id, name })
    }

    /// Whether an entry that was to have this name may be shown under the suffixed one: what had to be cut of it is not known.
    pub fn is_of(&self, wanted: &[u8]) -> bool {
        let cut =
            || Name::new(wanted).is_ok_and(|wanted| suffixed(&wanted, self.device, self.id).as_bytes() == self.name);
        wanted == self.base || cut()
    }
}

impl Want {
    /// The name tried in a round: ever more digits, never longer than the suffix allows; in the end with what nobody else in
    /// a directory has (`own`), since two names of one file show one version.
    fn candidate(&self, device: &str, own: &[u8; 16], round: usize) -> Name {
        let hex = |id| data_encoding::HEXLOWER.encode(id);
        let digits = match round {
            0..3 => hex(&self.id)[..8 << round].to_string(),
            _ => format!("{}-{}-{round}", hex(&self.id), hex(own)),
        };
        suffixed(&self.base, device, &digits)
    }
}

impl View {
    pub(super) fn set_want(&mut self, dir: NodeIx, claimant: Claimant, want: Want) {
        let data = self.nodes[dir.at()].dir.get_or_insert_default();
        let wants = &mut data.suffixed.get_or_insert_default().wants;
        if wants.get(&claimant) != Some(&want) {
            wants.insert(claimant, want);
            self.dirty.suffixes.insert(dir);
        }
    }

    /// Ends a want, if it is still for that name (a place may want another by now).
    pub(super) fn drop_want(&mut self, dir: NodeIx, claimant: Claimant, base: Option<&Name>) {
        let Some(suffixed) = self.nodes[dir.at()].dir.as_mut().and_then(|data| data.suffixed.as_mut()) else { return };
        if suffixed.wants.get(&claimant).is_some_and(|want| base.is_none_or(|base| want.base == *base)) {
            suffixed.wants.remove(&claimant);
            self.dirty.suffixes.insert(dir);
        }
    }

    /// Gives out the suffixed names of a directory again.
    ///
    /// In rounds: all that have no name yet try the next candidate; who tries a name that nobody else has or tries gets
    /// it. So the outcome does not depend on who came first.
    pub(super) fn update_suffixes(&mut self, dir: NodeIx) {
        let Some(data) = &self.nodes[dir.at()].dir else { return };
        let Some(suffixes) = &data.suffixed else { return };
        let mut left: Vec<_> = suffixes.wants.iter().collect();
        let mut given: BTreeMap<Name, Claimant> = BTreeMap::new();
        let mut round = 0;
        while !left.is_empty() {
            let mut tried: BTreeMap<Name, Vec<Claimant>> = BTreeMap::new();
            for (claimant, want) in &left {
                let own = match claimant {
                    Claimant::Place(place) => &self.places[place.at()].id.0,
                    Claimant::Copy(id) => &id.0,
                };
                let name = want.candidate(&self.devices[want.device as usize], own, round);
                tried.entry(name).or_default().push(**claimant);
            }
            for (name, claimants) in tried {
                if let [claimant] = claimants[..]
                    && !data.slots.contains_key(&name)
                    && !given.contains_key(&name)
                {
                    left.retain(|(other, _)| **other != claimant);
                    given.insert(name, claimant);
                }
            }
            round += 1;
            if round > 1000 {
                // No two claimants of one directory have one id, but a loop must end.
                break;
            }
        }
        self.give_suffixes(dir, given);
    }

    fn give_suffixes(&mut self, dir: NodeIx, given: BTreeMap<Name, Claimant>) {
        let old = self.nodes[dir.at()].dir.as_ref().and_then(|data| data.suffixed.as_ref());
        let old = old.map(|suffixed| suffixed.shown.clone()).unwrap_or_default();
        if old == given {
            self.tidy_suffixes(dir);
            return;
        }
        for (name, claimant) in old.iter().chain(&given) {
            self.touch_entry(dir, name);
            self.touch_claimant(*claimant);
        }
        for (name, claimant) in &old {
            if self.suffix_names.get(claimant).is_some_and(|(at, given)| *at == dir && given == name) {
                self.suffix_names.remove(claimant);
            }
        }
        for (name, claimant) in &given {
            self.suffix_names.insert(*claimant, (dir, name.clone()));
        }
        if let Some(suffixed) = self.nodes[dir.at()].dir.as_mut().and_then(|data| data.suffixed.as_mut()) {
            suffixed.shown = given;
        }
        self.tidy_suffixes(dir);
    }

    fn tidy_suffixes(&mut self, dir: NodeIx) {
        if let Some(data) = &mut self.nodes[dir.at()].dir
            && data.suffixed.as_ref().is_some_and(|suffixed| suffixed.wants.is_empty() && suffixed.shown.is_empty())
        {
            data.suffixed = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes_keep_the_extension_and_fit() {
        let name = |text: &str| Name::try_from(text).expect("legal");
        let make = |text: &str| suffixed(&name(text), "lap", "12345678").to_string();
        assert_eq!(make("a.txt"), "a (conflict lap 12345678).txt");
        assert_eq!(make(".profile"), ".profile (conflict lap 12345678)");
        assert_eq!(make("Makefile"), "Makefile (conflict lap 12345678)");
        for base in ["a.txt", ".profile", "Makefile"] {
            let base = Name::try_from(base).expect("legal");
            let made = suffixed(&base, "my lap", "12345678");
            let parsed = Suffixed::parse(made.as_bytes()).expect("one");
            assert_eq!((&parsed.base[..], parsed.device, parsed.digits), (base.as_bytes(), "my lap", "12345678"));
            assert!(parsed.is_of(base.as_bytes()) && !parsed.is_of(b"another") && !parsed.is_of(made.as_bytes()));
            let longer = suffixed(&base, "my lap", "0123456789abcdef-77-3");
            assert_eq!(Suffixed::parse(longer.as_bytes()).expect("one").digits, "0123456789abcdef");
        }
        for none in ["a.txt", "a (conflict lap).txt", "a (conflict lap 1234567).txt", "a (conflict lap 1234567g)", ""] {
            assert_eq!(Suffixed::parse(none.as_bytes()), None, "{none}");
        }
        let long = make(&"ä".repeat(127));
        assert!(long.len() <= 255 && long.ends_with("ä (conflict lap 12345678)"), "{long}");
    }

    #[test]
    fn a_name_that_was_cut_is_known_by_what_is_left_of_it() {
        let wanted = format!("{}.txt", "ä".repeat(125));
        for digits in ["12345678", "0123456789abcdef-77-3"] {
            let made = suffixed(&Name::try_from(&*wanted).expect("legal"), "lap", digits);
            let parsed = Suffixed::parse(made.as_bytes()).expect("one");
            assert!(parsed.base.len() < wanted.len() && parsed.is_of(wanted.as_bytes()), "{made}");
            let shorter = format!("{}.txt", "ä".repeat(100));
            let others = [&*shorter, &wanted.replace(".txt", ".md"), &wanted.replacen("ä", "a", 1)].map(str::to_owned);
            assert!(!others.iter().any(|other| parsed.is_of(other.as_bytes())), "{made}");
        }
    }
}
