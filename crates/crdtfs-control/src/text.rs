//! Paths in JSON: readable text, and the exact bytes beside it where the text cannot hold them. Sizes in sentences.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};

macro_rules! text {
    ($(#[$doc:meta])* $name:ident, $plain:literal, $exact:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub struct $name {
            #[serde(rename = $plain)]
            text: String,
            #[serde(rename = $exact, default, skip_serializing_if = "Option::is_none")]
            exact: Option<String>,
        }

        impl $name {
            /// Of the bytes of a path or name.
            pub fn from_bytes(bytes: &[u8]) -> Self {
                match std::str::from_utf8(bytes) {
                    Ok(text) => Self { text: text.to_owned(), exact: None },
                    Err(_) => {
                        Self { text: String::from_utf8_lossy(bytes).into_owned(), exact: Some(BASE64.encode(bytes)) }
                    }
                }
            }

            /// The exact bytes. A damaged base64 field counts as absent.
            pub fn to_bytes(&self) -> Vec<u8> {
                let exact = self.exact.as_ref().and_then(|exact| BASE64.decode(exact.as_bytes()).ok());
                exact.unwrap_or_else(|| self.text.clone().into_bytes())
            }

            /// The exact bytes as a path.
            pub fn to_path(&self) -> PathBuf {
                PathBuf::from(OsStr::from_bytes(&self.to_bytes()))
            }

            /// For people: the text, with replacement characters where it is no UTF-8.
            pub fn as_str(&self) -> &str {
                &self.text
            }
        }

        impl From<&Path> for $name {
            fn from(path: &Path) -> Self {
                Self::from_bytes(path.as_os_str().as_bytes())
            }
        }

        impl From<&PathBuf> for $name {
            fn from(path: &PathBuf) -> Self {
                Self::from(path.as_path())
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self { text: text.to_owned(), exact: None }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.text)
            }
        }
    };
}

text!(
    /// A path or a name: the field `path`, and `path_base64` beside it where the bytes are no UTF-8.
    PathText, "path", "path_base64"
);
text!(
    /// A directory that shows a share, absolute: the field `dir`, and `dir_base64` beside it where the bytes are no UTF-8.
    DirText, "dir", "dir_base64"
);
text!(
    /// Where something was before: the field `from`, and `from_base64` beside it where the bytes are no UTF-8.
    FromText, "from", "from_base64"
);
text!(
    /// Where something is to go: the field `to`, and `to_base64` beside it where the bytes are no UTF-8.
    ToText, "to", "to_base64"
);

/// A number of bytes as people read it: `1.2 GiB`, `0 B`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut value = bytes as f64;
    let mut unit = None;
    for next in UNITS {
        // 1023.95 would be printed as 1024.0.
        if value < if unit.is_none() { 1024.0 } else { 1023.95 } {
            break;
        }
        value /= 1024.0;
        unit = Some(next);
    }
    match unit {
        None => format!("{bytes} B"),
        Some(unit) => format!("{value:.1} {unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_that_is_utf8_is_one_field() {
        let json = serde_json::to_string(&PathText::from("ä/b")).expect("serializes");
        assert_eq!(json, r#"{"path":"ä/b"}"#);
    }

    #[test]
    fn bytes_that_are_no_utf8_survive() {
        let text = DirText::from_bytes(b"/a\xff\xfe");
        let json = serde_json::to_string(&text).expect("serializes");
        assert_eq!(json, "{\"dir\":\"/a\u{fffd}\u{fffd}\",\"dir_base64\":\"L2H//g==\"}");
        let back: DirText = serde_json::from_str(&json).expect("parses");
        assert_eq!(back.to_path().as_os_str().as_bytes(), b"/a\xff\xfe");
    }

    #[test]
    fn sizes_are_shown() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (1_048_575, "1.0 MiB"),
            (1 << 30, "1.0 GiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }
}
