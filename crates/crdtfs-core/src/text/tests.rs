#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

fn merged(base: &str, ours: &str, theirs: &str) -> Option<String> {
    merge(base.as_bytes(), ours.as_bytes(), theirs.as_bytes()).map(|bytes| String::from_utf8(bytes).unwrap())
}

/// Golden vectors: what these give is shown on devices of all versions, for good. Never change one.
#[test]
fn golden() {
    let cases: &[(&str, &str, &str, Option<&str>)] = &[
        // Regions apart.
        ("a\nb\nc\n", "A\nb\nc\n", "a\nb\nC\n", Some("A\nb\nC\n")),
        ("a\nb\nc\n", "x\na\nb\nc\n", "a\nb\nc\ny\n", Some("x\na\nb\nc\ny\n")),
        ("a\nb\nc\nd\ne\n", "a\nc\nd\ne\n", "a\nb\nc\nd\nE\n", Some("a\nc\nd\nE\n")),
        // The same line, or lines that touch.
        ("a\nb\nc\n", "a\nB\nc\n", "a\nß\nc\n", None),
        ("a\nb\nc\n", "A\nb\nc\n", "a\nB\nc\n", None),
        ("a\nb\nc\n", "a\nx\nb\nc\n", "a\ny\nb\nc\n", None),
        // The same change on both sides, and one more.
        ("a\nb\nc\nd\n", "A\nb\nc\nd\n", "A\nb\nc\nD\n", Some("A\nb\nc\nD\n")),
        ("a\nb\nc\nd\n", "a\nd\n", "a\nd\nE\n", Some("a\nd\nE\n")),
        // Tails.
        ("a\n", "a\nx\n", "a\ny\n", Some("a\nx\ny\n")),
        ("", "x\n", "y\n", Some("x\ny\n")),
        ("a\n", "a\nx", "a\ny\n", Some("a\ny\nx")),
        ("a", "a\nx\n", "a\ny\n", Some("a\nx\n\ny\n")),
        // A tail and a rewrite; a truncation.
        ("a\nb\n", "a\nb\nx\n", "a\nB\n", None),
        ("a\nb\n", "a\nb\nx\n", "", None),
        ("a\nb\nc\n", "a\nb\nc\nx\n", "A\nb\nc\n", Some("A\nb\nc\nx\n")),
        // One side as it was; both alike.
        ("a\n", "a\n", "b\n", Some("b\n")),
        ("a\n", "b\n", "b\n", Some("b\n")),
        // No line end at the end.
        ("a\nb\nc", "A\nb\nc", "a\nb\nC", Some("A\nb\nC")),
        // CRLF is part of a line.
        ("a\r\nb\r\nc\r\n", "A\r\nb\r\nc\r\n", "a\r\nb\r\nC\r\n", Some("A\r\nb\r\nC\r\n")),
        // Which of equal lines was taken out.
        ("{\n}\n{\n}\nend\n", "{\n}\nend\n", "{\n}\n{\n}\nEND\n", None),
        ("{\n}\n{\n}\nx\nend\n", "{\n}\nx\nend\n", "{\n}\n{\n}\nx\nEND\n", Some("{\n}\nx\nEND\n")),
        // No text.
        ("a\0\nb\n", "A\0\nb\n", "a\0\nB\n", None),
    ];
    for (base, ours, theirs, expected) in cases {
        assert_eq!(merged(base, ours, theirs).as_deref(), *expected, "{base:?} {ours:?} {theirs:?}");
    }
}

/// Many more golden vectors, of which only the hash of all results is kept: texts of up to 60 lines out of few words, so that
/// lines repeat, each changed in some places by two sides.
#[test]
fn golden_in_bulk() {
    let mut state: u64 = 1;
    let mut random = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let mut clean = 0;
    let mut hasher = blake3::Hasher::new();
    for _ in 0..2000 {
        let base: Vec<u64> = (0..random(60)).map(|_| random(20)).collect();
        let sides = [(); 2].map(|()| {
            let mut side = base.clone();
            for _ in 0..random(5) {
                let at = random(side.len() as u64 + 1) as usize;
                match random(3) {
                    0 => side.insert(at, 100 + random(5)),
                    1 if at < side.len() => _ = side.remove(at),
                    _ if at < side.len() => side[at] = 200 + random(5),
                    _ => {}
                }
            }
            side
        });
        let text = |lines: &[u64]| lines.iter().map(|line| format!("{line}\n")).collect::<String>();
        let merged = merged(&text(&base), &text(&sides[0]), &text(&sides[1]));
        clean += usize::from(merged.is_some());
        hasher.update(merged.unwrap_or_else(|| "refused".into()).as_bytes()).update(b"\0");
    }
    let hash = hasher.finalize().to_hex();
    assert_eq!((clean, &hash.as_str()[..16]), (1519, "abb7d78e9c9215a0"));
}

#[test]
fn invalid_utf8_and_long_texts_are_refused() {
    assert_eq!(merge(b"a\nb\nc\n", b"\xff\nb\nc\n", b"a\nb\nC\n"), None);
    let long = vec![b'x'; MAX_TEXT + 1];
    assert_eq!(merge(b"a\n", &long, b"a\nb\n"), None);
}

#[test]
fn the_limit_on_distance_is_part_of_the_definition() {
    let text = |from: usize, len: usize| (from..from + len).map(|n| format!("{n}\n")).collect::<String>();
    // Half of the distance is lines left out, half lines put in.
    let base = format!("first\nsecond\n{}", text(0, 2048));
    let theirs = base.replace("first", "FIRST");
    let within = format!("first\nsecond\n{}", text(10_000, 2048));
    assert!(merged(&base, &within, &theirs).is_some());
    let beyond = format!("first\nsecond\n{}", text(10_000, 2049));
    assert_eq!(merged(&base, &beyond, &theirs), None);
}

proptest! {
    #[test]
    fn a_difference_gives_the_new_text(old in lines_of(), new in lines_of()) {
        let changes = diff(&old, &new).unwrap();
        let (mut out, mut at) = (Vec::new(), 0);
        for change in &changes {
            prop_assert!(change.start >= at);
            out.extend_from_slice(&old[at..change.start]);
            out.extend_from_slice(&new[change.from..change.to]);
            at = change.end;
        }
        out.extend_from_slice(&old[at..]);
        prop_assert_eq!(out, new);
    }

    #[test]
    fn one_side_unchanged_gives_the_other(base in text_of(), side in text_of()) {
        prop_assert_eq!(merged(&base, &side, &base), Some(side.clone()));
        prop_assert_eq!(merged(&base, &base, &side), Some(side));
    }

    #[test]
    fn whether_it_is_clean_does_not_depend_on_the_order(base in text_of(), a in text_of(), b in text_of()) {
        let (ab, ba) = (merged(&base, &a, &b), merged(&base, &b, &a));
        prop_assert_eq!(ab.is_some(), ba.is_some());
        if !(a.starts_with(&base) && b.starts_with(&base)) {
            prop_assert_eq!(ab, ba);
        }
    }
}

fn lines_of() -> impl Strategy<Value = Vec<u32>> {
    prop::collection::vec(0u32..6, 0..30)
}

fn text_of() -> impl Strategy<Value = String> {
    prop::collection::vec("[abc]{0,2}", 0..12).prop_map(|lines| lines.join("\n"))
}
