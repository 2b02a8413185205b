//! Names of entries: one path component, kept exactly as its author wrote it.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use minicbor::{Decode, Decoder, Encode, Encoder};
use thiserror::Error;

/// The longest name, in bytes (Linux `NAME_MAX`).
pub const MAX_LEN: usize = 255;

/// Why bytes are no name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum NameError {
    /// The empty string.
    #[error("a name cannot be empty")]
    Empty,
    /// More than [`MAX_LEN`] bytes.
    #[error("a name has at most {MAX_LEN} bytes")]
    TooLong,
    /// `/` or NUL within.
    #[error("a name cannot contain '/' or NUL")]
    Separator,
    /// `.` or `..`.
    #[error("'.' and '..' are not names")]
    Dots,
}

/// 1 to 255 bytes, any but `/` and NUL, neither `.` nor `..`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<[u8]>);

impl Name {
    /// Checks and keeps the bytes.
    pub fn new(bytes: &[u8]) -> Result<Self, NameError> {
        match bytes {
            [] => Err(NameError::Empty),
            b"." | b".." => Err(NameError::Dots),
            _ if bytes.len() > MAX_LEN => Err(NameError::TooLong),
            _ if bytes.iter().any(|b| matches!(b, 0 | b'/')) => Err(NameError::Separator),
            _ => Ok(Self(bytes.into())),
        }
    }

    /// The bytes as they were written.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl TryFrom<&str> for Name {
    type Error = NameError;

    fn try_from(text: &str) -> Result<Self, NameError> {
        Self::new(text.as_bytes())
    }
}

impl Borrow<[u8]> for Name {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<[u8]> for Name {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

impl<C> Encode<C> for Name {
    fn encode<W: minicbor::encode::Write>(
        &self,
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        e.bytes(&self.0)?.ok()
    }
}

impl<'b, C> Decode<'b, C> for Name {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
        let at = d.position();
        Self::new(d.bytes()?).map_err(|_| minicbor::decode::Error::message("illegal name").at(at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_single_components_are_names() {
        for bad in [&b""[..], b".", b"..", b"a/b", b"/", b"a\0", &[b'x'; 256]] {
            assert!(Name::new(bad).is_err(), "{bad:?}");
        }
        for good in [&b"a"[..], b"...", b".a", b"\xff\xfe", "ä".as_bytes(), &[b'x'; 255]] {
            assert_eq!(Name::new(good).expect("legal").as_bytes(), good);
        }
    }
}
