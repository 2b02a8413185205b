//! A folder whose filesystem cannot hold some of the share's names, beside one that can. The kernel at hand need not have
//! such a filesystem: the folder keeps the names apart before any of them comes to the disk.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crdtfs_core::id::{InodeId, ShareId};
use crdtfs_core::name::Name;
use crdtfs_core::node::Kind;
use crdtfs_core::port::{Adapter, Tree};
use crdtfs_engine::present::{PresentOptions, Presented, Presenter, SharePorts};
use crdtfs_testkit::MemoryShare;
use tempfile::TempDir;

use crate::FolderPresenter;
use crate::alias::{Platform, looks_like_alias};
use crate::aliased::Aliased;

const PATIENCE: Duration = Duration::from_secs(30);
const STRICT: Platform = Platform { folds_case: true, folds_forms: true, windows: true, text_only: true };

struct Side {
    tmp: TempDir,
    platform: Platform,
    share: Arc<MemoryShare>,
    shown: Option<Box<dyn Presented>>,
}

impl Side {
    fn new(device: &str, seed: u64, platform: Platform) -> Self {
        let tmp = tempfile::tempdir().unwrap();
        fs::create_dir(tmp.path().join("files")).unwrap();
        fs::create_dir(tmp.path().join("state")).unwrap();
        let mut side = Self { tmp, platform, share: MemoryShare::new(device, seed), shown: None };
        side.start();
        side
    }

    fn start(&mut self) {
        let ports = SharePorts {
            share: ShareId([7; 32]),
            adapter: Adapter(1),
            tree: Aliased::over(self.share.clone(), self.platform),
            content: self.share.clone(),
            device_name: "test".into(),
            state: self.tmp.path().join("state"),
            asked: true,
            progressed: Arc::new(|| ()),
        };
        self.shown = Some(FolderPresenter.present(ports, &self.dir(), &PresentOptions::default()).unwrap());
    }

    fn dir(&self) -> PathBuf {
        self.tmp.path().join("files")
    }

    fn settle(&self) {
        let shown = self.shown.as_ref().unwrap();
        assert!(shown.settle(Instant::now() + PATIENCE), "settles; {:?}", shown.problems());
    }

    fn write(&self, path: &str, text: &str) {
        fs::write(self.dir().join(path), text).unwrap();
    }

    /// The path of the file with this text.
    fn find(&self, text: &str) -> String {
        let all = files(&self.dir());
        let found = all.iter().find(|(_, other)| *other == text);
        found.unwrap_or_else(|| panic!("{text:?} is not there: {all:#?}")).0.clone()
    }

    /// Paths of the share with what is in them.
    fn viewed(&self) -> BTreeMap<String, String> {
        let mut found = BTreeMap::new();
        let mut todo = vec![(InodeId::ROOT, String::new())];
        while let Some((dir, prefix)) = todo.pop() {
            for entry in self.share.entries(dir, None, usize::MAX) {
                let path = format!("{prefix}{}", entry.name);
                let node = self.share.node(entry.inode).unwrap();
                match node.kind {
                    Kind::Dir => todo.push((entry.inode, format!("{path}/"))),
                    _ => {
                        let bytes = self.share.bytes(&node.content).unwrap();
                        found.insert(path, String::from_utf8_lossy(&bytes).into_owned());
                    }
                }
            }
        }
        found
    }
}

fn files(dir: &Path) -> BTreeMap<String, String> {
    fn walk(dir: &Path, prefix: &str, found: &mut BTreeMap<String, String>) {
        for entry in fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            let path = format!("{prefix}{}", entry.file_name().to_string_lossy());
            match entry.file_type().unwrap().is_dir() {
                true => walk(&entry.path(), &format!("{path}/"), found),
                false => _ = found.insert(path, fs::read_to_string(entry.path()).unwrap()),
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(dir, "", &mut found);
    found
}

/// Until both have all and show it.
fn meet(exact: &Side, strict: &Side) {
    for _ in 0..4 {
        let before = (exact.share.records().len(), strict.share.records().len());
        exact.settle();
        strict.settle();
        MemoryShare::exchange(&exact.share, &strict.share);
        exact.settle();
        strict.settle();
        let after = (exact.share.records().len(), strict.share.records().len());
        if before == after && after.0 == after.1 {
            break;
        }
    }
    assert_eq!(exact.viewed(), strict.viewed(), "the views agree");
    assert_eq!(files(&exact.dir()), exact.viewed(), "exactly");
    // The other one has the same texts, each under a name of its own that its filesystem could hold.
    let there = files(&strict.dir());
    let texts = |files: &BTreeMap<String, String>| {
        let mut texts: Vec<String> = files.values().cloned().collect();
        texts.sort_unstable();
        texts
    };
    assert_eq!(texts(&there), texts(&exact.viewed()), "{there:#?}");
    let mut keys = BTreeMap::new();
    for path in there.keys() {
        let key: Vec<_> = path.split('/').map(|name| STRICT.key(&Name::try_from(name).unwrap())).collect();
        assert_eq!(keys.insert(key, path), None, "{path}");
        for name in path.split('/').map(|name| Name::try_from(name).unwrap()) {
            assert!(STRICT.local(&name, []) == name || looks_like_alias(&name), "{path}");
        }
    }
}

#[test]
fn what_cannot_be_held_has_an_alias_that_is_never_written_back() {
    let exact = Side::new("one", 1, Platform::default());
    let mut strict = Side::new("two", 2, STRICT);
    fs::create_dir(exact.dir().join("dir.")).unwrap();
    let names =
        ["Readme", "readme", "README", "a:b.txt", "dir./x", "\u{e9}", "e\u{301}", "con.txt", "plain", "x~0123456789"];
    for name in names {
        exact.write(name, &format!("this is {name:?}\n"));
    }
    meet(&exact, &strict);
    let is = |name: &str| format!("this is {name:?}\n");
    assert_eq!((strict.find(&is("README")), strict.find(&is("plain"))), ("README".into(), "plain".into()));
    assert!(strict.find(&is("a:b.txt")).starts_with("a_b~") && strict.find(&is("a:b.txt")).ends_with(".txt"));

    // What is done to an alias is done to what it stands for.
    strict.write(&strict.find(&is("readme")), "edited\n");
    fs::remove_file(strict.dir().join(strict.find(&is("con.txt")))).unwrap();
    fs::rename(strict.dir().join(strict.find(&is("a:b.txt"))), strict.dir().join("renamed")).unwrap();
    let below = PathBuf::from(strict.find(&is("dir./x")));
    strict.write(below.with_file_name("new").to_str().unwrap(), "new\n");
    meet(&exact, &strict);
    let view = exact.viewed();
    assert_eq!(view["readme"], "edited\n");
    assert_eq!(view["renamed"], is("a:b.txt"));
    assert_eq!(view["dir./new"], "new\n");
    assert!(!view.contains_key("con.txt") && !view.contains_key("a:b.txt"), "{view:#?}");
    assert!(!view.keys().any(|name| name.contains('~') && name != "x~0123456789"), "{view:#?}");

    // Once the name is free, the next one has it.
    fs::remove_file(exact.dir().join("README")).unwrap();
    meet(&exact, &strict);
    assert_eq!(strict.find(&is("Readme")), "Readme");

    // Another look, also after a restart, finds nothing to write.
    let records = strict.share.records().len();
    let before = files(&strict.dir());
    strict.shown.take().unwrap().stop().unwrap();
    strict.start();
    meet(&exact, &strict);
    assert_eq!((strict.share.records().len(), files(&strict.dir())), (records, before));
}

#[test]
fn names_that_come_to_differ_in_case_only() {
    let (exact, strict) = (Side::new("one", 1, Platform::default()), Side::new("two", 2, STRICT));
    strict.write("note", "from the strict one\n");
    exact.write("Note", "from the exact one\n");
    meet(&exact, &strict);
    assert_eq!(exact.viewed().keys().collect::<Vec<_>>(), ["Note", "note"]);
    fs::rename(exact.dir().join("Note"), exact.dir().join("other")).unwrap();
    meet(&exact, &strict);
    assert_eq!(strict.find("from the strict one\n"), "note");
    // In case only, here.
    fs::rename(strict.dir().join("note"), strict.dir().join("NOTE")).unwrap();
    meet(&exact, &strict);
    assert_eq!(exact.viewed().keys().collect::<Vec<_>>(), ["NOTE", "other"]);
}
