//! Every row of SEMANTICS.md's table, by two devices that were apart: two mounts, two folders, and one of each.
//!
//! A row has a directory of its own. All rows are set up, the link is cut once, anna does what is on the left of each and
//! bert what is on the right, the link comes back, and each directory holds one of the trees that are written out here.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;

use crdtfs_tests::{Device, Lab, Mode, needs, same_trees};

const SETTLED: Duration = Duration::from_secs(60);

#[test]
fn rows_of_two_mounts() {
    needs!("rows_of_two_mounts", Fuse);
    all_rows(Mode::Mount, Mode::Mount);
}

#[test]
fn rows_of_two_folders() {
    needs!("rows_of_two_folders");
    all_rows(Mode::Watch, Mode::Watch);
}

#[test]
fn rows_of_a_mount_and_a_folder() {
    needs!("rows_of_a_mount_and_a_folder", Fuse);
    all_rows(Mode::Mount, Mode::Watch);
}

#[test]
fn rows_of_a_folder_and_a_mount() {
    needs!("rows_of_a_folder_and_a_mount", Fuse);
    all_rows(Mode::Watch, Mode::Mount);
}

type Act = fn(&Path);

/// What is in a directory: path and text (`/` of a directory, `-> target` of a symlink; permission bits are added where they
/// are not the usual ones). The version's id is left out of the names of conflict copies; what was made before they parted
/// is a version of anna's, whoever moved it.
type Expected = &'static [(&'static str, &'static str)];

/// One row, or one of its cases.
struct Row {
    name: &'static str,
    setup: Act,
    /// What was done on both sides, and met, before; for conflicts that are there already.
    earlier: Option<(Act, Act)>,
    anna: Act,
    bert: Act,
    /// What anna does after they have met.
    later: Act,
    /// One of these is what everybody has in the end.
    expected: &'static [Expected],
}

impl Row {
    const fn new(name: &'static str, setup: Act, anna: Act, bert: Act, expected: &'static [Expected]) -> Self {
        Self { name, setup, earlier: None, anna, bert, later: nothing, expected }
    }
}

fn nothing(_: &Path) {}

fn write(at: &Path, text: impl AsRef<[u8]>) {
    fs::create_dir_all(at.parent().unwrap()).unwrap();
    fs::write(at, text).unwrap();
}

fn append(at: &Path, text: &str) {
    OpenOptions::new().append(true).open(at).unwrap().write_all(text.as_bytes()).unwrap();
}

fn mode(at: &Path, bits: u32) {
    fs::set_permissions(at, fs::Permissions::from_mode(bits)).unwrap();
}

fn mv(d: &Path, from: &str, to: &str) {
    fs::rename(d.join(from), d.join(to)).unwrap();
}

fn rm(d: &Path, name: &str) {
    fs::remove_file(d.join(name)).unwrap();
}

/// Entries before their directory, as `rm -r` goes.
fn rm_r(d: &Path, name: &str) {
    fs::remove_dir_all(d.join(name)).unwrap();
}

fn swap(d: &Path, x: &str, y: &str) {
    mv(d, x, "in between");
    mv(d, y, x);
    mv(d, "in between", y);
}

/// As editors save: a new file, renamed over the old one.
fn save(d: &Path, name: &str, text: &str) {
    write(&d.join("save.tmp"), text);
    mv(d, "save.tmp", name);
}

/// As vim does: the old file moved aside, a new one written, the old one removed.
fn save_aside(d: &Path, name: &str, text: &str) {
    let backup = format!("{name}~");
    mv(d, name, &backup);
    write(&d.join(name), text);
    rm(d, &backup);
}

/// The conflict copy that is there.
fn copy(d: &Path) -> std::path::PathBuf {
    let mut names = fs::read_dir(d).unwrap().map(|entry| entry.unwrap().path());
    names.find(|path| path.to_string_lossy().contains(" (conflict ")).expect("there is a conflict copy")
}

fn ten(d: &Path) {
    write(&d.join("f.txt"), "1\n2\n3\n4\n5\n6\n7\n8\n9\n");
}

const FIRST: &str = "ONE\n2\n3\n4\n5\n6\n7\n8\n9\n";
const LAST: &str = "1\n2\n3\n4\n5\n6\n7\n8\nNINE\n";
const BOTH: &str = "ONE\n2\n3\n4\n5\n6\n7\n8\nNINE\n";

fn f(d: &Path) {
    write(&d.join("f"), "base");
}

fn f_and_g(d: &Path) {
    f(d);
    write(&d.join("g"), "other");
}

fn two_dirs(d: &Path) {
    write(&d.join("p/x"), "x");
    write(&d.join("q/y"), "y");
}

fn deep(d: &Path) {
    write(&d.join("p/x"), "x");
    write(&d.join("p/q/y"), "y");
    write(&d.join("p/q/z"), "z");
}

fn linked(d: &Path) {
    write(&d.join("a"), "base");
    fs::hard_link(d.join("a"), d.join("b")).unwrap();
}

/// The two bytes with which these begin make them no text.
fn binary(d: &Path) {
    write(&d.join("f.bin"), "\0\u{1}base");
}

const ANNA_KEEPS: Expected = &[("f.txt", "anna"), ("f (conflict bert).txt", "bert")];
const BERT_KEEPS: Expected = &[("f.txt", "bert"), ("f (conflict anna).txt", "anna")];

fn rows() -> Vec<Row> {
    let mut rows = files();
    rows.extend(deletions());
    rows.extend(names());
    rows.extend(directories());
    rows.extend(saves());
    rows
}

fn files() -> Vec<Row> {
    vec![
        Row::new(
            "create, create: same bytes",
            nothing,
            |d| write(&d.join("f"), "same"),
            |d| write(&d.join("f"), "same"),
            &[&[("f", "same")]],
        ),
        Row::new(
            "create, create: other bytes",
            nothing,
            |d| write(&d.join("f.txt"), "anna"),
            |d| write(&d.join("f.txt"), "bert"),
            &[ANNA_KEEPS, BERT_KEEPS],
        ),
        Row::new(
            "create file, create directory",
            nothing,
            |d| write(&d.join("f"), "file"),
            |d| write(&d.join("f/in"), "below"),
            &[&[("f", "/"), ("f/in", "below"), ("f (conflict anna)", "file")]],
        ),
        Row::new(
            "text, regions apart",
            ten,
            |d| write(&d.join("f.txt"), FIRST),
            |d| write(&d.join("f.txt"), LAST),
            &[&[("f.txt", BOTH)]],
        ),
        Row::new(
            "text, same region",
            ten,
            |d| write(&d.join("f.txt"), "anna"),
            |d| write(&d.join("f.txt"), "bert"),
            &[ANNA_KEEPS, BERT_KEEPS],
        ),
        Row::new(
            "binary",
            binary,
            |d| write(&d.join("f.bin"), "\0\u{1}anna"),
            |d| write(&d.join("f.bin"), "\0\u{1}bert"),
            &[
                &[("f.bin", "\0\u{1}anna"), ("f (conflict bert).bin", "\0\u{1}bert")],
                &[("f.bin", "\0\u{1}bert"), ("f (conflict anna).bin", "\0\u{1}anna")],
            ],
        ),
        Row::new(
            "append, append: text",
            |d| write(&d.join("f"), "base\n"),
            |d| append(&d.join("f"), "anna\n"),
            |d| append(&d.join("f"), "bert\n"),
            &[&[("f", "base\nanna\nbert\n")], &[("f", "base\nbert\nanna\n")]],
        ),
        Row::new(
            "append, append: binary",
            binary,
            |d| append(&d.join("f.bin"), "anna"),
            |d| append(&d.join("f.bin"), "bert"),
            &[
                &[("f.bin", "\0\u{1}baseanna"), ("f (conflict bert).bin", "\0\u{1}basebert")],
                &[("f.bin", "\0\u{1}basebert"), ("f (conflict anna).bin", "\0\u{1}baseanna")],
            ],
        ),
        Row::new(
            "append, truncate",
            |d| write(&d.join("f.txt"), "one\ntwo\n"),
            |d| append(&d.join("f.txt"), "three\n"),
            |d| write(&d.join("f.txt"), ""),
            &[
                &[("f.txt", "one\ntwo\nthree\n"), ("f (conflict bert).txt", "")],
                &[("f.txt", ""), ("f (conflict anna).txt", "one\ntwo\nthree\n")],
            ],
        ),
        Row::new(
            "edit, edit: same bytes",
            f,
            |d| write(&d.join("f"), "new"),
            |d| save(d, "f", "new"),
            &[&[("f", "new")]],
        ),
        Row::new(
            "chmod, edit",
            f,
            |d| mode(&d.join("f"), 0o600),
            |d| write(&d.join("f"), "edited"),
            &[&[("f", "edited [600]")]],
        ),
        Row {
            earlier: Some((|d| write(&d.join("f.txt"), "anna"), |d| write(&d.join("f.txt"), "bert"))),
            ..Row::new(
                "a conflict copy deleted, its holder edited",
                nothing,
                |d| fs::remove_file(copy(d)).unwrap(),
                |d| write(&d.join("f.txt"), "edited"),
                &[&[("f.txt", "edited")]],
            )
        },
        Row {
            earlier: Some((|d| write(&d.join("f.txt"), "same"), |d| write(&d.join("f.txt"), "other"))),
            ..Row::new(
                "a conflict copy deleted, its holder renamed",
                nothing,
                |d| fs::remove_file(copy(d)).unwrap(),
                |d| mv(d, "f.txt", "g.txt"),
                &[&[("g.txt", "same")], &[("g.txt", "other")]],
            )
        },
    ]
}

fn deletions() -> Vec<Row> {
    vec![
        Row::new(
            "edit then chmod, delete",
            f,
            |d| {
                write(&d.join("f"), "edited");
                mode(&d.join("f"), 0o755);
            },
            |d| rm(d, "f"),
            &[&[("f", "edited [755]")]],
        ),
        Row::new("edit, delete", f, |d| write(&d.join("f"), "edited"), |d| rm(d, "f"), &[&[("f", "edited")]]),
        Row::new("delete, delete", f, |d| rm(d, "f"), |d| rm(d, "f"), &[&[]]),
        Row::new("chmod, delete", f, |d| mode(&d.join("f"), 0o600), |d| rm(d, "f"), &[&[]]),
        Row::new(
            "touch, delete",
            f,
            |d| {
                let file = OpenOptions::new().append(true).open(d.join("f")).unwrap();
                file.set_modified(std::time::UNIX_EPOCH + Duration::from_secs(1_000_000_000)).unwrap();
            },
            |d| rm(d, "f"),
            &[&[]],
        ),
        Row::new(
            "unlink of one hard link, edit through it",
            linked,
            |d| rm(d, "a"),
            |d| write(&d.join("a"), "edited"),
            &[&[("b", "edited")]],
        ),
        Row::new(
            "unlink of both hard links, edit through one",
            linked,
            |d| {
                rm(d, "a");
                rm(d, "b");
            },
            |d| write(&d.join("b"), "edited"),
            &[&[("b", "edited")]],
        ),
        Row::new("unlink of one hard link, of the other", linked, |d| rm(d, "a"), |d| rm(d, "b"), &[&[]]),
    ]
}

fn names() -> Vec<Row> {
    vec![
        Row::new("rename, edit", f, |d| mv(d, "f", "n"), |d| write(&d.join("f"), "edited"), &[&[("n", "edited")]]),
        Row::new("rename, delete", f, |d| mv(d, "f", "n"), |d| rm(d, "f"), &[&[("n", "base")]]),
        Row::new("rename, rename", f, |d| mv(d, "f", "n"), |d| mv(d, "f", "m"), &[&[("n", "base")], &[("m", "base")]]),
        Row::new(
            "rename, move",
            |d| {
                f(d);
                fs::create_dir(d.join("s")).unwrap();
            },
            |d| mv(d, "f", "n"),
            |d| mv(d, "f", "s/f"),
            &[&[("s", "/"), ("s/n", "base")]],
        ),
        Row::new(
            "move, move",
            |d| {
                f(d);
                fs::create_dir(d.join("s")).unwrap();
                fs::create_dir(d.join("t")).unwrap();
            },
            |d| mv(d, "f", "s/f"),
            |d| mv(d, "f", "t/f"),
            &[&[("s", "/"), ("s/f", "base"), ("t", "/")], &[("s", "/"), ("t", "/"), ("t/f", "base")]],
        ),
        Row::new(
            "two entries to one name",
            f_and_g,
            |d| mv(d, "f", "t"),
            |d| mv(d, "g", "t"),
            &[&[("t", "base"), ("t (conflict anna)", "other")], &[("t", "other"), ("t (conflict anna)", "base")]],
        ),
        Row::new(
            "swap, edit",
            f_and_g,
            |d| swap(d, "f", "g"),
            |d| write(&d.join("f"), "edited"),
            &[&[("f", "other"), ("g", "edited")]],
        ),
        Row::new(
            "names that differ in case",
            nothing,
            |d| write(&d.join("File"), "upper"),
            |d| write(&d.join("file"), "lower"),
            &[&[("File", "upper"), ("file", "lower")]],
        ),
        Row::new(
            "names that differ in normal form, or are forbidden elsewhere",
            nothing,
            |d| write(&d.join("caf\u{e9}"), "composed"),
            |d| {
                write(&d.join("cafe\u{301}"), "decomposed");
                write(&d.join("aux:"), "forbidden");
            },
            &[&[("caf\u{e9}", "composed"), ("cafe\u{301}", "decomposed"), ("aux:", "forbidden")]],
        ),
    ]
}

fn unite_left(d: &Path) {
    write(&d.join("u/a"), "a");
    write(&d.join("u/s/1"), "1");
    write(&d.join("u/same"), "same");
}

fn unite_right(d: &Path) {
    write(&d.join("u/b"), "b");
    write(&d.join("u/s/2"), "2");
    write(&d.join("u/same"), "same");
}

fn directories() -> Vec<Row> {
    vec![
        Row::new(
            "mkdir, mkdir",
            nothing,
            unite_left,
            unite_right,
            &[&[
                ("u", "/"),
                ("u/a", "a"),
                ("u/b", "b"),
                ("u/s", "/"),
                ("u/s/1", "1"),
                ("u/s/2", "2"),
                ("u/same", "same"),
            ]],
        ),
        Row {
            later: |d| mv(d, "u", "renamed"),
            ..Row::new(
                "mkdir, mkdir, then a rename",
                nothing,
                |d| write(&d.join("u/a"), "a"),
                |d| write(&d.join("u/b"), "b"),
                &[&[("renamed", "/"), ("renamed/a", "a"), ("renamed/b", "b")]],
            )
        },
        Row {
            later: |d| rm_r(d, "u"),
            ..Row::new("mkdir, mkdir, then a removal", nothing, unite_left, unite_right, &[&[]])
        },
        Row::new(
            "two directories moved to one name",
            two_dirs,
            |d| mv(d, "p", "t"),
            |d| mv(d, "q", "t"),
            &[
                &[("t", "/"), ("t/x", "x"), ("t (conflict anna)", "/"), ("t (conflict anna)/y", "y")],
                &[("t", "/"), ("t/y", "y"), ("t (conflict anna)", "/"), ("t (conflict anna)/x", "x")],
            ],
        ),
        Row::new(
            "moves that would make a cycle",
            two_dirs,
            |d| mv(d, "p", "q/p"),
            |d| mv(d, "q", "p/q"),
            &[
                &[("q", "/"), ("q/p", "/"), ("q/p/x", "x"), ("q/y", "y")],
                &[("p", "/"), ("p/q", "/"), ("p/q/y", "y"), ("p/x", "x")],
            ],
        ),
        Row::new(
            "create into a directory, delete of it",
            |d| fs::create_dir_all(d.join("p/q")).unwrap(),
            |d| write(&d.join("p/q/new"), "new"),
            |d| rm_r(d, "p"),
            &[&[("p", "/"), ("p/q", "/"), ("p/q/new", "new")]],
        ),
        Row::new(
            "move into a directory, delete of it",
            |d| {
                deep(d);
                f(d);
            },
            |d| mv(d, "f", "p/f"),
            |d| rm_r(d, "p"),
            &[&[("p", "/"), ("p/f", "base")]],
        ),
        Row::new(
            "rm -r, edit inside",
            deep,
            |d| rm_r(d, "p"),
            |d| write(&d.join("p/q/y"), "edited"),
            &[&[("p", "/"), ("p/q", "/"), ("p/q/y", "edited")]],
        ),
        Row::new("rm -r, move of a child out", deep, |d| rm_r(d, "p"), |d| mv(d, "p/q/y", "out"), &[&[("out", "y")]]),
        Row::new(
            "rm -r, rename of the directory",
            two_dirs,
            |d| rm_r(d, "p"),
            |d| mv(d, "p", "n"),
            &[&[("n", "/"), ("q", "/"), ("q/y", "y")]],
        ),
    ]
}

fn saves() -> Vec<Row> {
    vec![
        Row::new(
            "save by rename, edit",
            ten,
            |d| save(d, "f.txt", FIRST),
            |d| write(&d.join("f.txt"), LAST),
            &[&[("f.txt", BOTH)]],
        ),
        Row::new(
            "save by moving aside, save by rename",
            ten,
            |d| save_aside(d, "f.txt", FIRST),
            |d| save(d, "f.txt", LAST),
            &[&[("f.txt", BOTH)]],
        ),
        Row::new(
            "save by rename, edit of the same region",
            ten,
            |d| save(d, "f.txt", "anna"),
            |d| write(&d.join("f.txt"), "bert"),
            &[ANNA_KEEPS, BERT_KEEPS],
        ),
        Row::new(
            "replaced by a symlink, edit",
            f,
            |d| {
                rm(d, "f");
                symlink("target", d.join("f")).unwrap();
            },
            |d| write(&d.join("f"), "edited"),
            &[&[("f", "-> target"), ("f (conflict bert)", "edited")]],
        ),
        Row::new(
            "replaced by a directory, edit",
            f,
            |d| {
                rm(d, "f");
                write(&d.join("f/in"), "below");
            },
            |d| write(&d.join("f"), "edited"),
            &[&[("f", "/"), ("f/in", "below"), ("f (conflict bert)", "edited")]],
        ),
    ]
}

/// What is in a directory, as it is written out in the rows.
fn found(dir: &Path) -> BTreeMap<String, String> {
    fn walk(dir: &Path, below: &str, found: &mut BTreeMap<String, String>) {
        for entry in fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            let (path, meta) = (entry.path(), entry.metadata().unwrap());
            let name = format!("{below}{}", without_id(&entry.file_name().into_string().unwrap()));
            let bits = meta.permissions().mode() & 0o777;
            let (text, usual) = if meta.is_dir() {
                walk(&path, &format!("{name}/"), found);
                ("/".to_owned(), 0o755)
            } else if meta.is_symlink() {
                (format!("-> {}", fs::read_link(&path).unwrap().display()), 0o777)
            } else {
                (fs::read_to_string(&path).unwrap(), 0o644)
            };
            let text = if bits == usual { text } else { format!("{text} [{bits:o}]") };
            assert_eq!(found.insert(name.clone(), text), None, "{name} is twice in {}", dir.display());
        }
    }
    let mut all = BTreeMap::new();
    walk(dir, "", &mut all);
    all
}

/// `stem (conflict anna 1a2b).ext` is `stem (conflict anna).ext`.
fn without_id(name: &str) -> String {
    let Some((stem, rest)) = name.split_once(" (conflict ") else { return name.to_owned() };
    let (inside, ext) = rest.split_once(')').unwrap();
    format!("{stem} (conflict {}){ext}", inside.split_once(' ').unwrap().0)
}

/// Each has told its engine, and they have not met.
fn told(devices: [(&Device, &Path); 2]) {
    for (device, dir) in devices {
        device.fails(3, &["wait", dir.to_str().unwrap(), "--timeout", "1s"]);
    }
}

fn all_rows(left: Mode, right: Mode) {
    let lab = Lab::new();
    let (segment, [mut a, mut b], [one, other]) = lab.pair(["anna", "bert"], [left, right]);
    let rows = rows();
    let dirs: Vec<String> = rows.iter().map(|row| row.name.replace([' ', ','], "-")).collect();
    let each = |root: &Path, act: &dyn Fn(&Row) -> Act| {
        for (row, dir) in rows.iter().zip(&dirs) {
            act(row)(&root.join(dir));
        }
    };
    let meet = || {
        a.wait(&one, "all");
        b.wait(&other, "all");
        same_trees(&[&one, &other], SETTLED)
    };
    for dir in &dirs {
        fs::create_dir(one.join(dir)).unwrap();
    }
    each(&one, &|row| row.setup);
    meet();

    segment.cut(&b);
    each(&one, &|row| row.earlier.map_or(nothing, |(anna, _)| anna));
    each(&other, &|row| row.earlier.map_or(nothing, |(_, bert)| bert));
    told([(&a, &one), (&b, &other)]);
    segment.heal(&b);
    meet();

    segment.cut(&b);
    each(&one, &|row| row.anna);
    each(&other, &|row| row.bert);
    told([(&a, &one), (&b, &other)]);
    segment.heal(&b);
    meet();
    each(&one, &|row| row.later);
    let tree = meet();

    let mut wrong = Vec::new();
    for (row, dir) in rows.iter().zip(&dirs) {
        let found = found(&one.join(dir));
        let is = |expected: &Expected| {
            let expected: BTreeMap<String, String> =
                expected.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect();
            expected == found
        };
        if !row.expected.iter().any(is) {
            wrong.push(format!("{}: {found:#?}\nexpected one of {:#?}", row.name, row.expected));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    // Looking wrote nothing, and it is the same after a restart.
    a.stop();
    b.stop();
    a.show(left, None, &one);
    b.show(right, None, &other);
    assert_eq!(meet_again(&a, &one, &b, &other).differences(&tree), [""; 0]);
    a.check();
    b.check();
    a.stop();
    b.stop();
}

fn meet_again(a: &Device, one: &Path, b: &Device, other: &Path) -> crdtfs_tests::Tree {
    a.wait(one, "all");
    b.wait(other, "all");
    same_trees(&[one, other], SETTLED)
}
