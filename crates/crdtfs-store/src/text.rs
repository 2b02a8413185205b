//! What counts as text: kept compressed as a base for later merges.

/// The longest text.
pub(crate) const TEXT_MAX: u64 = 1 << 20;

/// Valid UTF-8 without NUL, at most 1 MiB.
pub(crate) fn is_text(bytes: &[u8]) -> bool {
    bytes.len() as u64 <= TEXT_MAX && !bytes.contains(&0) && std::str::from_utf8(bytes).is_ok()
}
