//! Who this side is: one key pair, made once, never leaving its directory.

use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use aws_lc_rs::hmac;
use journal::disk::{FileDisk, read_file, replace_file};
use journal::error::{Error, Result};
use journal::wire::Pin;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

const KEY_FILE: &str = "key.pem";
/// A key of this kind is about 240 bytes.
const KEY_FILE_BYTES: u64 = 4096;

/// A key pair and what is derived from it. Only the key is stored: the certificate around it is made at each start, for
/// nobody looks at anything but the key.
pub struct Identity {
    key: KeyPair,
    certificate: CertificateDer<'static>,
}

impl Identity {
    /// The identity kept in `dir`, made there on first use. The key file is never seen half written, and is for its owner
    /// only; one that others may read is refused as [`Invalid`](journal::error::ErrorKind::Invalid).
    pub fn open(dir: &Path) -> Result<Self> {
        let disk = FileDisk::create(dir)?;
        let path = dir.join(KEY_FILE);
        let found = read_file(&disk, KEY_FILE, KEY_FILE_BYTES)?;
        let identity = match found {
            Some(pem) => {
                check_owner_only(&path)?;
                let pem = String::from_utf8(pem).map_err(|_| Error::corrupt("not a key").with_path(&path))?;
                let key = KeyPair::from_pem_and_sign_algo(&pem, &PKCS_ECDSA_P256_SHA256)
                    .map_err(|error| Error::corrupt("not a key").with_path(&path).with_source(error))?;
                Self::of(key)?
            }
            None => {
                let identity = Self::generate()?;
                replace_file(&disk, KEY_FILE, identity.key.serialize_pem().as_bytes())?;
                check_owner_only(&path)?;
                identity
            }
        };
        Ok(identity)
    }

    /// A new identity that is stored nowhere.
    pub fn generate() -> Result<Self> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
            .map_err(|error| Error::unsupported("cannot make a key").with_source(error))?;
        Self::of(key)
    }

    fn of(key: KeyPair) -> Result<Self> {
        let certificate = CertificateParams::new(["backspool".to_owned()])
            .and_then(|params| params.self_signed(&key))
            .map_err(|error| Error::unsupported("cannot make a certificate").with_source(error))?;
        Ok(Self { certificate: certificate.der().clone(), key })
    }

    /// What others know it by.
    pub fn pin(&self) -> Pin {
        Pin::of_spki(&self.key.subject_public_key_info())
    }

    pub(crate) fn certificate(&self) -> CertificateDer<'static> {
        self.certificate.clone()
    }

    pub(crate) fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.serialize_der()).into()
    }

    /// Signs stateless resets: the same after a restart, so that a restarted receiver tells its agents at once that it
    /// knows nothing of their connections.
    pub(crate) fn reset_key(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, &blake3::derive_key("backspool 1 stateless reset", self.key.serialized_der()))
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.pin())
    }
}

fn check_owner_only(path: &Path) -> Result<()> {
    let mode = path.metadata().map_err(|error| Error::from(error).with_path(path))?.permissions().mode();
    match mode & 0o077 {
        0 => Ok(()),
        _ => Err(Error::invalid("the private key can be read by others: chmod 600 it").with_path(path)),
    }
}

/// Random bytes from the system, for ids and secrets.
///
/// # Panics
/// If the system has no randomness: nothing can be done safely without.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system's source of randomness works once it is seeded");
    bytes
}
