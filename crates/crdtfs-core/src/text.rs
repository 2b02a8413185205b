//! Three-way merge of texts by lines.
//!
//! Its results are shown on every device without anybody having written them, so they must be the same to the byte
//! everywhere and for good: the algorithm is this module's own (a library may change its heuristics with any release),
//! its limits are part of its definition, and golden vectors freeze it. Lines are compared by Myers' greedy algorithm
//! (E. Myers, "An O(ND) Difference Algorithm and Its Variations", 1986) after the common ends are set aside; changes are
//! put together as diff3 does (Khanna, Kunal, Pierce, "A Formal Investigation of Diff3", 2007), and where they touch,
//! nothing is guessed: the merge is refused.

use std::collections::BTreeMap;

/// The longest text that is merged, in bytes a side.
pub const MAX_TEXT: usize = 1024 * 1024;

/// The greatest number of lines by which one side may differ from the base.
const MAX_DISTANCE: usize = 4096;

/// A change of one side: base lines `start..end` became lines `from..to` of the side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Change {
    start: usize,
    end: usize,
    from: usize,
    to: usize,
}

/// Whether bytes are a text: valid UTF-8 without NUL, of at most [`MAX_TEXT`] bytes.
pub fn is_text(bytes: &[u8]) -> bool {
    bytes.len() <= MAX_TEXT && !bytes.contains(&0) && std::str::from_utf8(bytes).is_ok()
}

/// Merges two texts that were made from `base`: the bytes, or `None` where that is no text or not clean. Where
/// both appended, the tail of `ours` comes first.
pub fn merge(base: &[u8], ours: &[u8], theirs: &[u8]) -> Option<Vec<u8>> {
    if ![base, ours, theirs].into_iter().all(is_text) {
        return None;
    }
    if ours == theirs || theirs == base {
        return Some(ours.to_vec());
    }
    if ours == base {
        return Some(theirs.to_vec());
    }
    if let (Some(a), Some(b)) = (ours.strip_prefix(base), theirs.strip_prefix(base)) {
        // A tail without a line's end goes last, so that it is not run into the other.
        let (a, b) = if !a.ends_with(b"\n") && b.ends_with(b"\n") { (b, a) } else { (a, b) };
        return Some([base, a, b].concat());
    }
    let mut ids = BTreeMap::new();
    let [base_lines, our_lines, their_lines] = [base, ours, theirs].map(lines);
    let mut intern = |lines: &[&'_ [u8]]| -> Vec<u32> {
        let mut out = Vec::with_capacity(lines.len());
        for line in lines {
            let next = u32::try_from(ids.len()).expect("fewer than 2^32 lines");
            out.push(*ids.entry(line.to_vec()).or_insert(next));
        }
        out
    };
    let (b, o, t) = (intern(&base_lines), intern(&our_lines), intern(&their_lines));
    let (ours_changed, theirs_changed) = (diff(&b, &o)?, diff(&b, &t)?);
    weave(&base_lines, (&our_lines, &ours_changed), (&their_lines, &theirs_changed))
}

/// Lines with their ends; the last may have none.
fn lines(text: &[u8]) -> Vec<&[u8]> {
    text.split_inclusive(|byte| *byte == b'\n').collect()
}

/// The changes from `old` to `new`, in order; `None` beyond [`MAX_DISTANCE`].
fn diff(old: &[u32], new: &[u32]) -> Option<Vec<Change>> {
    let head = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    let tail = old[head..].iter().rev().zip(new[head..].iter().rev()).take_while(|(a, b)| a == b).count();
    let (a, b) = (&old[head..old.len() - tail], &new[head..new.len() - tail]);
    let mut changes: Vec<Change> = Vec::new();
    let (mut x, mut y) = (0, 0);
    for (match_a, match_b) in matches(a, b)?.into_iter().chain([(a.len(), b.len())]) {
        if match_a > x || match_b > y {
            changes.push(Change { start: head + x, end: head + match_a, from: head + y, to: head + match_b });
        }
        (x, y) = (match_a + 1, match_b + 1);
    }
    Some(changes)
}

/// Pairs of equal lines of a longest common subsequence, by Myers' greedy forward search.
fn matches(a: &[u32], b: &[u32]) -> Option<Vec<(usize, usize)>> {
    let (n, m) = (a.len() as isize, b.len() as isize);
    if n == 0 || m == 0 {
        return Some(Vec::new());
    }
    let limit = MAX_DISTANCE.min(a.len() + b.len()) as isize;
    // For each distance the furthest `x` on the diagonals -d, -d+2, …, d.
    let mut trace: Vec<Vec<u32>> = Vec::new();
    for d in 0..=limit {
        let mut row = Vec::with_capacity(d as usize + 1);
        for i in 0..=d {
            let k = -d + 2 * i;
            let mut x = start_of(&trace, d, k);
            let mut y = x - k;
            while x < n && y < m && x >= 0 && y >= 0 && a[x as usize] == b[y as usize] {
                (x, y) = (x + 1, y + 1);
            }
            row.push(x as u32);
            if x >= n && y >= m {
                trace.push(row);
                return Some(walk_back(&trace, d, n, m));
            }
        }
        trace.push(row);
    }
    None
}

/// Furthest `x` known on diagonal `k` after `d` steps.
fn furthest(trace: &[Vec<u32>], d: isize, k: isize) -> isize {
    if d < 0 || k < -d || k > d { -1 } else { trace[d as usize][((k + d) / 2) as usize] as isize }
}

/// Where the search on diagonal `k` begins at distance `d`: a line of `a` left out, or one of `b` put in, whichever is
/// further on.
fn start_of(trace: &[Vec<u32>], d: isize, k: isize) -> isize {
    if d == 0 {
        return 0;
    }
    let (down, right) = (furthest(trace, d - 1, k + 1), furthest(trace, d - 1, k - 1));
    if k == -d || (k != d && right < down) { down } else { right + 1 }
}

fn walk_back(trace: &[Vec<u32>], d: isize, n: isize, m: isize) -> Vec<(usize, usize)> {
    let mut pairs = Vec::new();
    let (mut x, mut y) = (n, m);
    for d in (0..=d).rev() {
        let k = x - y;
        let start = start_of(trace, d, k);
        while x > start {
            (x, y) = (x - 1, y - 1);
            pairs.push((x as usize, y as usize));
        }
        if d > 0 {
            // One step back: from the diagonal above (a line put in) or below (a line left out).
            let (down, right) = (furthest(trace, d - 1, k + 1), furthest(trace, d - 1, k - 1));
            (x, y) = if k == -d || (k != d && right < down) { (down, down - k - 1) } else { (right, right - k + 1) };
        }
    }
    pairs.reverse();
    pairs
}

/// Puts the changes of both sides together; `None` where they overlap or touch and are not the same.
fn weave(base: &[&[u8]], ours: (&[&[u8]], &[Change]), theirs: (&[&[u8]], &[Change])) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let mut at = 0;
    let (mut i, mut j) = (0, 0);
    loop {
        let (side, change) = match (ours.1.get(i), theirs.1.get(j)) {
            (None, None) => break,
            (Some(a), Some(b)) if a.start <= b.end && b.start <= a.end => {
                let same = (a.start, a.end) == (b.start, b.end) && ours.0[a.from..a.to] == theirs.0[b.from..b.to];
                if !same {
                    return None;
                }
                (i, j) = (i + 1, j + 1);
                (ours.0, a)
            }
            (Some(a), b) if b.is_none_or(|b| a.end < b.start) => {
                i += 1;
                (ours.0, a)
            }
            (_, Some(b)) => {
                j += 1;
                (theirs.0, b)
            }
            (Some(_), None) => unreachable!("a change without a counterpart was taken above"),
        };
        for line in &base[at..change.start] {
            out.extend_from_slice(line);
        }
        for line in &side[change.from..change.to] {
            out.extend_from_slice(line);
        }
        at = change.end;
    }
    for line in &base[at..] {
        out.extend_from_slice(line);
    }
    // A last line without an end must not run into one that was put behind it.
    let ends = |lines: &[&[u8]]| lines.iter().rev().skip(1).all(|line| line.ends_with(b"\n"));
    debug_assert!(ends(base) && ends(ours.0) && ends(theirs.0));
    Some(out)
}

#[cfg(test)]
mod tests;
