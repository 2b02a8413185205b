//! Every kind of entry, with odd names, times, modes and holes, arrives as it was, both ways.
#![allow(clippy::unwrap_used)]

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use crdtfs_tests::{Lab, Mode, Tree, bytes, needs, same_trees};
use rustix::fs::{SeekFrom, XattrFlags, seek, setxattr};

const LIMIT: Duration = Duration::from_secs(20);

/// Fills a directory with what a share can hold in any presentation.
fn zoo(dir: &Path, seed: u64) {
    fs::create_dir(dir).unwrap();
    let put = |name: &[u8], bytes: &[u8]| fs::write(dir.join(OsStr::from_bytes(name)), bytes).unwrap();
    put(b"plain", b"plain\n");
    put(b"empty", b"");
    put(b" spaces  and\ttabs ", b"1");
    put(b"new\nline", b"2");
    put("ünïcödé 🌍 \u{202e}".as_bytes(), b"3");
    put(b"not utf-8 \xff\xfe", b"4");
    put(b"-rf", b"5");
    put(b"...", b"6");
    put(b"back\\slash", b"7");
    put(&[b'x'; 255], b"8");
    put(b"Case", b"upper");
    put(b"case", b"lower");
    // The sizes around a chunk's and a manifest's.
    for len in [1, 4095, 4096, 65_535, 65_536, 65_537, 262_144, 1 << 20, (1 << 20) + 1, 5_000_000] {
        put(format!("size-{len}").as_bytes(), &bytes(seed + len as u64, len));
    }
    put(b"zeros", &vec![0; 3 << 20]);

    fs::create_dir_all(dir.join("deep/er/and/deep/er/still/down/here")).unwrap();
    fs::write(dir.join("deep/er/and/deep/er/still/down/here/f"), "deep\n").unwrap();
    fs::create_dir(dir.join("empty dir")).unwrap();
    fs::create_dir(dir.join("closed dir")).unwrap();
    fs::set_permissions(dir.join("closed dir"), fs::Permissions::from_mode(0o700)).unwrap();
    symlink("plain", dir.join("link")).unwrap();
    symlink("/nowhere/at all", dir.join("dangling")).unwrap();
    symlink(OsStr::from_bytes(b"\xff"), dir.join("odd target")).unwrap();

    for mode in [0o400, 0o600, 0o755, 0o444, 0o000] {
        let name = dir.join(format!("mode-{mode:o}"));
        fs::write(&name, "m").unwrap();
        fs::set_permissions(&name, fs::Permissions::from_mode(mode)).unwrap();
    }
    let times = [
        ("year-2001", SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789)),
        ("year-2100", SystemTime::UNIX_EPOCH + Duration::new(4_102_444_800, 1)),
        ("year-1969", SystemTime::UNIX_EPOCH - Duration::new(86_400, 500_000_000)),
    ];
    for (name, time) in times {
        fs::write(dir.join(name), "t").unwrap();
        File::options().write(true).open(dir.join(name)).unwrap().set_modified(time).unwrap();
    }
    // Nearly all of it is a hole.
    let sparse = File::create(dir.join("sparse")).unwrap();
    sparse.set_len(256 << 20).unwrap();
    sparse.write_all_at(b"island", 100 << 20).unwrap();
    fs::write(dir.join("attributes"), "x").unwrap();
    setxattr(dir.join("attributes"), "user.colour", b"red", XattrFlags::empty()).unwrap();
    setxattr(dir.join("attributes"), "user.binary", &[0, 255, 7], XattrFlags::empty()).unwrap();
}

fn arrives_as_it_was(left: Mode, right: Mode) {
    let lab = Lab::new();
    let (_segment, [mut a, mut b], [one, other]) = lab.pair(["a", "b"], [left, right]);
    zoo(&one.join("from a"), 1);
    zoo(&other.join("from b"), 2);
    // What was written is what is there, before anybody else is asked.
    let model = lab.root().join("model");
    zoo(&model, 1);
    let (written, wanted) = (Tree::read(&one.join("from a")).unwrap(), Tree::read(&model).unwrap());
    assert_eq!(timeless(&written), timeless(&wanted));
    assert!(written.has("year-1969") && written.0[Path::new("year-1969")] == wanted.0[Path::new("year-1969")]);

    a.wait(&one, "all");
    b.wait(&other, "all");
    let tree = same_trees(&[&one, &other], LIMIT);
    let of = |name: &str| Tree::read(&other.join(name)).unwrap();
    assert_eq!(timeless(&of("from a")), timeless(&wanted));
    assert_eq!(timeless(&of("from b")).len(), wanted.0.len());
    assert!(tree.names().iter().all(|name| !name.contains("conflict")));
    for dir in [&one, &other] {
        for name in ["from a/sparse", "from b/sparse"] {
            let file = File::open(dir.join(name)).unwrap();
            let blocks = file.metadata().unwrap().blocks() * 512;
            assert!(blocks < 16 << 20, "{name}: {blocks} bytes on disk for an island");
            let island = seek(&file, SeekFrom::Data(0)).unwrap();
            assert!((80 << 20..=100 << 20).contains(&island), "{name}: data at {island}");
            assert!(seek(&file, SeekFrom::Hole(100 << 20)).unwrap() < 120 << 20, "{name}");
        }
    }
    a.check();
    b.check();
    a.stop();
    b.stop();
}

/// Without the times of those that were written just now.
fn timeless(tree: &Tree) -> Vec<(String, u32, String, usize)> {
    let told = |item: &crdtfs_tests::Item| match &item.kind {
        crdtfs_tests::Kind::File(len, hash, _) => format!("file {len} {hash}"),
        other => format!("{other:?}"),
    };
    tree.0.iter().map(|(path, item)| (format!("{path:?}"), item.mode, told(item), item.xattrs.len())).collect()
}

#[test]
fn between_a_mount_and_a_folder() {
    needs!("between_a_mount_and_a_folder", Fuse);
    arrives_as_it_was(Mode::Mount, Mode::Watch);
}

#[test]
fn between_two_folders() {
    needs!("between_two_folders");
    arrives_as_it_was(Mode::Watch, Mode::Watch);
}
