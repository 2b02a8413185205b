//! Names that the folder's filesystem cannot hold: what they are called there instead.
//!
//! The share's names are kept exactly; only this folder shows some of them otherwise. An alias is a function of the name and
//! of those beside it that the filesystem takes for the same, so it is found back by looking at the names of the directory,
//! and nothing has to be remembered. Aliases look like `stem~0123456789.ext`; a name that looks so itself gets an alias,
//! too, so that none is ever taken for another.
//!
//! What Windows refuses: "Naming Files, Paths, and Namespaces" (learn.microsoft.com).

use std::io;

use crdtfs_core::id::Hash;
use crdtfs_core::name::{MAX_LEN, Name};
use icu_normalizer::DecomposingNormalizerBorrowed;

use crate::conflict::{EXTENSION_MAX, split};
use crate::disk::{Dir, TEMPORARY};

/// Digits of an alias's hash.
const DIGITS: usize = 10;

/// How a filesystem treats names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Platform {
    /// Names that differ in case only are one.
    pub(crate) folds_case: bool,
    /// Names that differ in their Unicode normal form only are one.
    pub(crate) folds_forms: bool,
    /// What Windows refuses is refused.
    pub(crate) windows: bool,
    /// Names are text.
    pub(crate) text_only: bool,
}

impl Platform {
    /// Finds out by trying, in a directory that may be written to.
    pub(crate) fn probe(dir: &Dir) -> io::Result<Self> {
        let name = |end: &[u8]| {
            let own = format!("probe-{}-", std::process::id());
            Name::new(&[TEMPORARY, own.as_bytes(), end].concat()).expect("short and without a separator")
        };
        let holds = |end: &[u8]| match dir.create(&name(end)) {
            Ok(_) => dir.unlink(&name(end)).map(|()| true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(true),
            Err(error) if matches!(error.raw_os_error(), Some(INVAL | ILSEQ | NOENT)) => Ok(false),
            Err(error) => Err(error),
        };
        let folds = |one: &str, other: &str| {
            match dir.create(&name(one.as_bytes())) {
                Err(error) if matches!(error.raw_os_error(), Some(INVAL | ILSEQ | NOENT)) => return Ok(false),
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
            let found = dir.stat(&name(other.as_bytes()));
            dir.unlink(&name(one.as_bytes()))?;
            found.map(|found| found.is_some())
        };
        Ok(Self {
            folds_case: folds("a", "A")?,
            folds_forms: folds("\u{e9}", "e\u{301}")?,
            windows: !holds(b":")?,
            text_only: !holds(b"\xff")?,
        })
    }

    /// Whether every name is held exactly.
    pub(crate) fn is_exact(self) -> bool {
        self == Self::default()
    }

    /// Whether one entry may be found by several names.
    pub(crate) fn folds(self) -> bool {
        self.folds_case || self.folds_forms
    }

    /// Names of one key are one to the filesystem, or may be.
    pub(crate) fn key(self, name: &Name) -> Vec<u8> {
        let Ok(text) = std::str::from_utf8(name.as_bytes()) else {
            let bytes = name.as_bytes();
            return if self.folds_case { bytes.to_ascii_lowercase() } else { bytes.to_vec() };
        };
        let mut key = text.to_owned();
        for _ in 0..2 {
            // Folding may leave what can be decomposed, and the other way round.
            if self.folds_forms {
                key = DecomposingNormalizerBorrowed::new_nfd().normalize(&key).into_owned();
            }
            if self.folds_case {
                key = key.to_lowercase().to_uppercase().to_lowercase();
            }
        }
        key.into_bytes()
    }

    /// Whether the filesystem takes the name as it is. What looks like an alias counts as refused.
    fn holds(self, name: &Name) -> bool {
        let bytes = name.as_bytes();
        let text = !self.text_only || std::str::from_utf8(bytes).is_ok();
        text && !looks_like_alias(name) && !(self.windows && refused_by_windows(bytes))
    }

    /// What a name is called here, beside the other names of its directory that have its key.
    pub(crate) fn local<'a>(self, name: &Name, same_key: impl IntoIterator<Item = &'a Name>) -> Name {
        if self.is_exact() {
            return name.clone();
        }
        let first = self.holds(name) && same_key.into_iter().all(|other| other >= name || !self.holds(other));
        if first { name.clone() } else { self.alias(name) }
    }

    /// What a name is called here if it cannot have itself.
    pub(crate) fn alias(self, name: &Name) -> Name {
        let digits = &Hash::of(name.as_bytes()).to_string()[..DIGITS];
        let (stem, ext) = split(name);
        let (stem, ext) = (self.cleaned(stem), self.cleaned(ext));
        let ext = Some(ext.trim_end_matches(['.', ' '])).filter(|ext| ext.len() <= EXTENSION_MAX).unwrap_or_default();
        // What begins like a device is one to Windows, whatever follows a dot.
        let stem = if refused_by_windows(stem.as_bytes()) { format!("_{stem}") } else { stem };
        let mut keep = stem.len().min(MAX_LEN - DIGITS - 1 - ext.len());
        while !stem.is_char_boundary(keep) {
            keep -= 1;
        }
        Name::new(format!("{}~{digits}{ext}", &stem[..keep]).as_bytes()).expect("cut to the limit, and cleaned")
    }

    /// Text that can stand in any name.
    fn cleaned(self, bytes: &[u8]) -> String {
        let text = String::from_utf8_lossy(bytes);
        text.chars().map(|c| if is_refused_by_windows(c) { '_' } else { c }).collect()
    }
}

const INVAL: i32 = rustix::io::Errno::INVAL.raw_os_error();
const ILSEQ: i32 = rustix::io::Errno::ILSEQ.raw_os_error();
/// What exFAT in user space says of a name that it refuses.
const NOENT: i32 = rustix::io::Errno::NOENT.raw_os_error();

/// Whether a part of the name up to a dot or the end is as an alias has it.
pub(crate) fn looks_like_alias(name: &Name) -> bool {
    let bytes = name.as_bytes();
    let mut tildes = (0..bytes.len()).filter(|at| bytes[*at] == b'~');
    tildes.any(|at| match bytes[at + 1..].split_at_checked(DIGITS) {
        Some((digits, rest)) => {
            digits.iter().all(u8::is_ascii_hexdigit) && rest.first().is_none_or(|next| *next == b'.')
        }
        None => false,
    })
}

fn is_refused_by_windows(c: char) -> bool {
    c.is_control() || matches!(c, '<' | '>' | ':' | '"' | '/' | '\\' | '|' | '?' | '*')
}

fn refused_by_windows(name: &[u8]) -> bool {
    let text = String::from_utf8_lossy(name);
    let base = text.split('.').next().unwrap_or_default().trim_end().to_ascii_uppercase();
    let device = matches!(base.as_str(), "CON" | "PRN" | "AUX" | "NUL")
        || ["COM", "LPT"].iter().any(|kind| {
            base.strip_prefix(kind).is_some_and(|number| {
                let mut digits = number.chars();
                matches!((digits.next(), digits.next()), (Some('0'..='9' | '\u{b9}' | '\u{b2}' | '\u{b3}'), None))
            })
        });
    device || text.chars().any(is_refused_by_windows) || text.ends_with(['.', ' '])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const STRICT: Platform = Platform { folds_case: true, folds_forms: true, windows: true, text_only: true };

    fn name(text: impl AsRef<[u8]>) -> Name {
        Name::new(text.as_ref()).unwrap()
    }

    /// All names of a directory with what they are called.
    fn all(platform: Platform, names: &BTreeSet<Name>) -> Vec<(Name, Name)> {
        let same =
            |name: &Name| names.iter().filter(|other| platform.key(other) == platform.key(name)).collect::<Vec<_>>();
        names.iter().map(|name| (name.clone(), platform.local(name, same(name)))).collect()
    }

    fn called(platform: Platform, names: &[&str]) -> Vec<String> {
        let all = all(platform, &names.iter().map(name).collect());
        let of = |text: &&str| all.iter().find(|(canonical, _)| *canonical == name(text)).unwrap().1.to_string();
        names.iter().map(of).collect()
    }

    #[test]
    fn names_that_differ_in_case_or_form() {
        let case = Platform { folds_case: true, ..Platform::default() };
        assert_eq!(called(case, &["Readme.md", "other"]), ["Readme.md", "other"]);
        let both = called(case, &["Readme.md", "readme.md"]);
        assert_eq!(both[0], "Readme.md", "the first by its bytes");
        assert!(both[1].starts_with("readme~") && both[1].ends_with(".md") && both[1].len() == 20, "{both:?}");
        assert_eq!(called(case, &["STRASSE", "other"])[0], "STRASSE");
        assert_ne!(called(case, &["STRASSE", "stra\u{df}e"])[1], "stra\u{df}e");
        assert_eq!(called(case, &["\u{e9}", "e\u{301}"]), ["\u{e9}", "e\u{301}"], "forms are told apart");
        let forms = Platform { folds_forms: true, ..Platform::default() };
        assert_eq!(called(forms, &["A", "a"]), ["A", "a"]);
        assert_ne!(called(forms, &["\u{e9}", "e\u{301}"])[0], "\u{e9}");
        assert_eq!(called(Platform::default(), &["A", "a", "x:y", "a~0123456789"]), ["A", "a", "x:y", "a~0123456789"]);
    }

    #[test]
    fn names_that_windows_refuses() {
        let windows = Platform { windows: true, ..Platform::default() };
        for refused in [
            "a:b",
            "what?",
            "dot.",
            "space ",
            "CON",
            "con.txt",
            "nul .c",
            "COM1",
            "lpt9.log",
            "com\u{b9}",
            "tab\t",
            "a\\b",
        ] {
            let local = &called(windows, &[refused])[0];
            assert!(local.contains('~') && !refused_by_windows(local.as_bytes()), "{refused:?} is {local:?}");
        }
        for fine in ["CONSOLE", "com10", "COM", "a.b", ".hidden", "a b", "\u{e9}"] {
            assert_eq!(called(windows, &[fine]), [fine]);
        }
    }

    #[test]
    fn an_alias_keeps_the_limit_and_the_extension() {
        let long = name("\u{e9}".repeat(120) + "?.jpeg");
        let alias = STRICT.alias(&long);
        assert!(alias.as_bytes().len() <= MAX_LEN && alias.as_bytes().ends_with(b".jpeg"), "{alias}");
        assert!(looks_like_alias(&alias) && !looks_like_alias(&long));
        assert!(std::str::from_utf8(STRICT.alias(&name(b"\xff\xfe.txt")).as_bytes()).is_ok());
    }

    #[test]
    fn this_filesystem_is_found_out_about() {
        let dir = tempfile::tempdir().unwrap();
        let root = crate::disk::Root::open(dir.path()).unwrap();
        let found = Platform::probe(&root.dir(&[]).unwrap()).unwrap();
        let there = |made: &str, asked: &str| {
            std::fs::write(dir.path().join(made), "").unwrap();
            dir.path().join(asked).exists()
        };
        assert_eq!(found.folds_case, there("x", "X"));
        assert_eq!(found.folds_forms, there("\u{f1}", "n\u{303}"));
        assert_eq!(found.windows, std::fs::write(dir.path().join("a:b"), "").is_err());
        let names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(names.iter().all(|name| !name.to_string_lossy().contains("probe")), "{names:?}");
    }

    /// Names that like to collide.
    fn any_name() -> impl Strategy<Value = Name> {
        let piece = prop_oneof![
            Just("a"),
            Just("A"),
            Just("\u{e9}"),
            Just("e\u{301}"),
            Just("E\u{301}"),
            Just("\u{df}"),
            Just("SS"),
            Just(":"),
            Just("."),
            Just(" "),
            Just("con"),
            Just("~0123456789"),
            Just("~ABCDEFabcd"),
            Just("\u{130}"),
            Just("\u{3c2}"),
            Just("\u{3c3}"),
            Just("\u{212a}"),
            Just("k"),
        ];
        let text = proptest::collection::vec(piece, 1..6).prop_map(|pieces| pieces.concat().into_bytes());
        let bytes = prop_oneof![8 => text, 1 => proptest::collection::vec(any::<u8>(), 1..8)];
        bytes.prop_filter_map("a name", |bytes| Name::new(&bytes).ok())
    }

    fn any_platform() -> impl Strategy<Value = Platform> {
        any::<[bool; 4]>().prop_map(|[folds_case, folds_forms, windows, text_only]| Platform {
            folds_case,
            folds_forms,
            windows,
            text_only,
        })
    }

    proptest! {
        /// Whatever is in a directory, everything in it has a name that the filesystem holds, and each one of its own.
        #[test]
        fn every_name_has_one_of_its_own(names in proptest::collection::btree_set(any_name(), 1..12), platform in any_platform()) {
            let all = all(platform, &names);
            let mut keys = BTreeSet::new();
            for (canonical, local) in &all {
                prop_assert!(keys.insert(platform.key(local)), "{canonical:?} and another are {local:?}");
                prop_assert!(!platform.text_only || std::str::from_utf8(local.as_bytes()).is_ok());
                prop_assert!(!platform.windows || !refused_by_windows(local.as_bytes()), "{local:?}");
                if local != canonical {
                    prop_assert!(looks_like_alias(local), "{local:?}");
                }
            }
        }

        /// It depends on nothing but the names, and on those of the same key only.
        #[test]
        fn others_do_not_matter(names in proptest::collection::btree_set(any_name(), 1..12), platform in any_platform()) {
            let whole = all(platform, &names);
            for (canonical, local) in &whole {
                let key = platform.key(canonical);
                let same: BTreeSet<Name> = names.iter().filter(|other| platform.key(other) == key).cloned().collect();
                prop_assert_eq!(platform.local(canonical, &same), local.clone());
            }
        }
    }
}
