//! Names that programs give to files which they mean to rename or remove at once.
//!
//! A save by temporary file and rename, or a lock file, is of interest to nobody else: whoever publishes local changes
//! holds those under such names back for a moment, so that the save travels as one edit and the temporary name never appears.
//! A name is no proof: what is still there after that moment is published like any other. So a name that is taken for
//! temporary and is none costs a moment, and one that is not recognised shows up elsewhere briefly; neither loses anything.

/// Whether a name looks like that of a temporary file, a lock or an unfinished download; `in_git` says that it lies in a
/// directory `.git`, at any depth, where git's own names count as well.
///
/// Known are: vim (`.f.swp`, `.f.swx`, `4913`, `f~`), nano (`.f.swp`), emacs (`.#f`, `#f#`, `f~`), kate, JetBrains, GLib
/// (`.goutputstream-…`), LibreOffice (`.~lock.f#`) and MS Office (`~$f`), `sed -i` (`sedXXXXXX`), rsync (`.f.XXXXXX`), browsers
/// (`.part`, `.crdownload`), NFS and FUSE (files that were removed while open), and `*.tmp`.
pub fn looks_temporary(name: &[u8], in_git: bool) -> bool {
    const STARTS: [&[u8]; 5] = [b".#", b"~$", b".goutputstream-", b".fuse_hidden", b".nfs0"];
    const ENDS: [&[u8]; 8] =
        [b"~", b".tmp", b".part", b".crdownload", b".kate-swp", b"___jb_tmp___", b"___jb_old___", b".swpx"];
    STARTS.iter().any(|start| name.starts_with(start))
        || ENDS.iter().any(|end| name.ends_with(end))
        || name == b"4913"
        || is_swap(name)
        || between(name, b"#", b"#")
        || between(name, b".~lock.", b"#")
        || name.strip_prefix(b"sed").is_some_and(is_random)
        || is_hidden_and_random(name)
        || (in_git && is_of_git(name))
}

/// Whether a name looks like that of a backup of the file `of`, which goes when that is written again: as temporary ones do, what
/// is called so (`f.bak`, `old`), or the file's name with something added. A number or a date says that it is to stay (`log.1`).
pub fn looks_like_backup(name: &[u8], of: &[u8]) -> bool {
    const WORDS: [&[u8]; 9] = [b"backup", b"bak", b"old", b"new", b"orig", b"original", b"aside", b"tmp", b"temp"];
    let is_word = |part: &[u8]| WORDS.iter().any(|word| part.eq_ignore_ascii_case(word));
    let added = || {
        let at = name.windows(of.len()).position(|at| at == of);
        at.is_some_and(|at| {
            let mut rest = name[..at].iter().chain(&name[at + of.len()..]);
            rest.any(|byte| !byte.is_ascii_digit() && !b".-_:".contains(byte))
        })
    };
    looks_temporary(name, false) || name.split(|byte| !byte.is_ascii_alphanumeric()).any(is_word) || added()
}

/// vim's `.f.swp`, the next ones being `.f.swo`, `.f.swn` …
fn is_swap(name: &[u8]) -> bool {
    match name {
        [b'.', .., b'.', b's', b'w', last] => last.is_ascii_lowercase(),
        _ => false,
    }
}

fn between(name: &[u8], start: &[u8], end: &[u8]) -> bool {
    name.len() > start.len() + end.len() && name.starts_with(start) && name.ends_with(end)
}

/// What mkstemp(3) puts for `XXXXXX`, but for the one in two hundred that could be the end of a word.
fn is_random(letters: &[u8]) -> bool {
    letters.len() == 6 && letters.iter().all(u8::is_ascii_alphanumeric) && !letters.iter().all(u8::is_ascii_lowercase)
}

/// rsync's `.f.XXXXXX`.
fn is_hidden_and_random(name: &[u8]) -> bool {
    let Some(at) = name.len().checked_sub(7) else { return false };
    at > 1 && name[0] == b'.' && name[at] == b'.' && is_random(&name[at + 1..])
}

fn is_of_git(name: &[u8]) -> bool {
    name.ends_with(b".lock")
        || name.starts_with(b"tmp_obj_")
        || name.starts_with(b"tmp_pack_")
        || name.starts_with(b"tmp_idx_")
}

#[cfg(test)]
mod tests {
    use super::{looks_like_backup, looks_temporary};

    #[test]
    fn what_backups_are_called() {
        for name in ["notes.txt~", "notes.txt.bak", ".notes.txt.new", "Backup", "old.1", "4913", "notes.txt (copy)"] {
            assert!(looks_like_backup(name.as_bytes(), b"notes.txt"), "{name}");
        }
        for name in ["notes.txt.1", "notes.txt-2026-11-20", "report.txt", "notes", "0notes.txt", "folder", "news.txt"] {
            assert!(!looks_like_backup(name.as_bytes(), b"notes.txt"), "{name}");
        }
    }

    #[test]
    fn what_programs_call_their_temporary_files() {
        for name in [
            ".notes.txt.swp",
            ".notes.txt.swx",
            ".notes.txt.swo",
            ".notes.txt.swpx",
            "4913",
            "notes.txt~",
            ".#notes.txt",
            "#notes.txt#",
            ".~lock.notes.odt#",
            "~$notes.docx",
            "notes.tmp",
            "sedA1b2C3",
            ".notes.txt.a9ZQk1",
            "film.mkv.part",
            "film.mkv.crdownload",
            ".goutputstream-2Q3XYZ",
            ".notes.txt.kate-swp",
            "a.rs___jb_tmp___",
            ".fuse_hidden0000000100000001",
            ".nfs000000000000000100000001",
        ] {
            assert!(looks_temporary(name.as_bytes(), false), "{name}");
        }
        for name in ["index.lock", "HEAD.lock", "tmp_obj_x8Qm2L", "tmp_pack_Ab12Cd", "tmp_idx_Ab12Cd"] {
            assert!(looks_temporary(name.as_bytes(), true), "{name}");
            assert!(!looks_temporary(name.as_bytes(), false), "{name}");
        }
    }

    #[test]
    fn what_people_call_their_files() {
        for name in [
            "notes.txt",
            "Cargo.lock",
            ".bashrc",
            ".gitignore",
            "sed",
            "sed.txt",
            "seduction",
            "49130",
            "tmp",
            "a.swp",
            "#",
            "##",
            ".swp",
            ".vimrc.lua",
            "chapter.partial",
            "x.part1",
            "..abcdef",
            ".abcdef",
            "index",
        ] {
            assert!(!looks_temporary(name.as_bytes(), false), "{name}");
        }
        for name in ["HEAD", "config", "COMMIT_EDITMSG", "pack-1234.idx", "index"] {
            assert!(!looks_temporary(name.as_bytes(), true), "{name}");
        }
    }
}
