//! Signatures: ed25519 (RFC 8032), each over a domain and a message so that none is taken for another kind.

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};

use crate::id::DeviceId;

/// Length of a signature in bytes.
pub const SIGNATURE_LEN: usize = 64;

/// What a device, or a ticket, signs with. Prints nothing of itself; wiped when dropped.
#[derive(Clone)]
pub struct Key(SigningKey);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Key of {:?}", self.id())
    }
}

impl Key {
    /// The key of a 32-byte secret (RFC 8032's private key).
    pub fn new(secret: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(secret))
    }

    /// The public half; a device's id.
    pub fn id(&self) -> DeviceId {
        DeviceId(self.0.verifying_key().to_bytes())
    }

    /// The secret.
    pub fn secret(&self) -> [u8; 32] {
        self.0.to_bytes()
    }

    /// Signs a message of a domain.
    pub fn sign(&self, domain: &str, message: &[u8]) -> [u8; SIGNATURE_LEN] {
        self.0.sign(&digest(domain, message)).to_bytes()
    }
}

/// Whether `signature` is `signer`'s on the message of a domain. Strict: no small-order keys, one form of each signature.
pub fn verify(signer: &DeviceId, domain: &str, message: &[u8], signature: &[u8; SIGNATURE_LEN]) -> bool {
    VerifyingKey::from_bytes(&signer.0)
        .is_ok_and(|key| key.verify_strict(&digest(domain, message), &Signature::from_bytes(signature)).is_ok())
}

fn digest(domain: &str, message: &[u8]) -> [u8; 32] {
    blake3::derive_key(domain, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_of_one_key_domain_and_message() {
        let key = Key::new(&[1; 32]);
        let signature = key.sign("a", b"m");
        assert!(verify(&key.id(), "a", b"m", &signature));
        assert!(!verify(&key.id(), "b", b"m", &signature));
        assert!(!verify(&key.id(), "a", b"n", &signature));
        assert!(!verify(&Key::new(&[2; 32]).id(), "a", b"m", &signature));
        assert!(!verify(&DeviceId([0; 32]), "a", b"m", &signature));
        assert!(!format!("{key:?}").contains("0101010101"));
    }
}
