//! Identifiers: fixed-size byte strings, each with a type of its own so that none is taken for another.

use std::fmt;

use minicbor::{Decode, Decoder, Encode, Encoder};

/// Makes a newtype over `[u8; N]` that encodes as a CBOR byte string and prints as lower-case hexadecimal.
macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $len:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $len]);

        impl $name {
            /// Length in bytes.
            pub const LEN: usize = $len;

            /// The bytes of the identifier.
            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }

            /// Reads an identifier from exactly [`Self::LEN`] bytes; `None` for any other length.
            pub fn from_slice(bytes: &[u8]) -> Option<Self> {
                bytes.try_into().ok().map(Self)
            }

            /// Reads the hexadecimal form that `Display` writes.
            pub fn from_hex(text: &str) -> Option<Self> {
                let bytes = data_encoding::HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok()?;
                Self::from_slice(&bytes)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), &data_encoding::HEXLOWER.encode(&self.0)[..8])
            }
        }

        impl<C> Encode<C> for $name {
            fn encode<W: minicbor::encode::Write>(
                &self,
                e: &mut Encoder<W>,
                _: &mut C,
            ) -> Result<(), minicbor::encode::Error<W::Error>> {
                e.bytes(&self.0)?.ok()
            }
        }

        impl<'b, C> Decode<'b, C> for $name {
            fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
                let at = d.position();
                Self::from_slice(d.bytes()?)
                    .ok_or_else(|| minicbor::decode::Error::message("identifier of a wrong length").at(at))
            }
        }
    };
}

id!(
    /// A share: blake3 of its genesis (creator's key, nonce, parameters).
    ShareId, 32
);
id!(
    /// A device: its ed25519 public key, which is also its iroh `EndpointId`.
    DeviceId, 32
);
id!(
    /// A blake3 digest of bytes: of a chunk, of a manifest node, of a whole content, of a membership record.
    Hash, 32
);
id!(
    /// A file, directory, symlink or other node, for life. Random, but for births (see [`crate::record::Birth`]) and the
    /// root ([`InodeId::ROOT`]).
    InodeId, 16
);
id!(
    /// One name of an inode in a directory. Random; a birth's equals its inode's.
    PlaceId, 16
);
id!(
    /// The first 16 bytes of the blake3 of an encoded record.
    RecordId, 16
);
id!(
    /// What tells two lives of one device apart: fresh whenever the state could be a copy or an older backup of itself.
    Incarnation, 16
);
id!(
    /// The author of a chain of changes: blake3 of (share, device, incarnation).
    ActorId, 32
);
id!(
    /// An automerge change: the SHA-256 that automerge gives it.
    ChangeHash, 32
);

impl InodeId {
    /// The root directory of every share. No record speaks of it and none may.
    pub const ROOT: Self = Self([0; 16]);
}

impl RecordId {
    /// The id of a record with these encoded bytes.
    pub fn of(encoded: &[u8]) -> Self {
        let mut id = [0; 16];
        id.copy_from_slice(&blake3::hash(encoded).as_bytes()[..16]);
        Self(id)
    }
}

impl Hash {
    /// The blake3 of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

impl ActorId {
    /// The actor of one incarnation of a device in a share.
    pub fn derive(share: &ShareId, device: &DeviceId, incarnation: &Incarnation) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("crdtfs 2026 actor v1");
        hasher.update(&share.0).update(&device.0).update(&incarnation.0);
        Self(*hasher.finalize().as_bytes())
    }
}
