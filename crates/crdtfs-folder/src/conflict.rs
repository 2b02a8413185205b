//! Names for what cannot have its own because something unseen has it.

use crdtfs_core::name::{MAX_LEN, Name};

/// How many names are tried before a change is given up (each is as good as random).
pub(crate) const TRIES: u32 = 8;

/// What follows the last dot is an extension up to so many bytes, the dot included.
pub(crate) const EXTENSION_MAX: usize = 16;

/// The part before the last dot, and the rest, where that looks like an extension.
pub(crate) fn split(name: &Name) -> (&[u8], &[u8]) {
    let bytes = name.as_bytes();
    let dot = bytes.iter().rposition(|b| *b == b'.').filter(|at| *at > 0 && bytes.len() - at <= EXTENSION_MAX);
    bytes.split_at(dot.unwrap_or(bytes.len()))
}

/// What all names begin with that are made from a name because something else has it; `None` of names that are too long.
pub(crate) fn prefix(name: &Name) -> Option<Name> {
    Name::new(&[split(name).0, b" (conflict "].concat()).ok()
}

/// `stem (conflict DEVICE SHORTID).ext`, of at most 255 bytes. `id` is hexadecimal; each further attempt shows more of it.
pub(crate) fn name(name: &Name, device: &str, id: &str, attempt: u32) -> Name {
    let (stem, ext) = split(name);
    let device: String = device.chars().map(|c| if c.is_control() || c == '/' { '_' } else { c }).take(32).collect();
    let digits = (8 + 4 * attempt as usize).min(id.len());
    let suffix = format!(" (conflict {device} {})", &id[..digits]);
    let mut keep = stem.len().min(MAX_LEN - suffix.len().min(200) - ext.len());
    // Not in the middle of a character.
    while keep > 0 && keep < stem.len() && (stem[keep] & 0xC0) == 0x80 {
        keep -= 1;
    }
    let full = [&stem[..keep], suffix.as_bytes(), ext].concat();
    Name::new(&full).unwrap_or_else(|_| Name::new(id.as_bytes()).expect("hexadecimal"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_keeps_its_extension_and_its_limit() {
        let of = |n: &str, attempt| {
            let name = name(&Name::try_from(n).expect("legal"), "lap/top", "0123456789abcdef", attempt);
            String::from_utf8(name.as_bytes().to_vec()).expect("text")
        };
        assert_eq!(of("a.txt", 0), "a (conflict lap_top 01234567).txt");
        assert_eq!(of(".bashrc", 1), ".bashrc (conflict lap_top 0123456789ab)");
        let made = name(&Name::try_from("a.txt").expect("legal"), "desk", "0123456789abcdef", 0);
        let begin = prefix(&Name::try_from("a.txt").expect("legal")).expect("short");
        assert!(made.as_bytes().starts_with(begin.as_bytes()));
        let long = of(&("ä".repeat(127)), 0);
        assert!(long.len() <= MAX_LEN && long.ends_with("(conflict lap_top 01234567)"));
    }
}
