//! TLS 1.3 with pinned keys: no authority, no names, no dates; a certificate is only the envelope of a public key.

use std::sync::Arc;

use journal::error::Error;
use journal::wire::Pin;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, ParsedCertificate};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme};

use crate::identity::Identity;

type Verdict<T> = Result<T, rustls::Error>;

/// What a connection is for; agreed in the TLS handshake (ALPN).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Journals, from an agent that is enrolled.
    Session,
    /// Enrolment.
    Join,
}

impl Purpose {
    /// Its name in the TLS handshake.
    pub fn alpn(self) -> &'static [u8] {
        match self {
            Self::Session => b"backspool/1",
            Self::Join => b"backspool-join/1",
        }
    }

    pub(crate) fn from_alpn(name: &[u8]) -> Option<Self> {
        [Self::Session, Self::Join].into_iter().find(|purpose| purpose.alpn() == name)
    }
}

/// The client's side: trusts the holder of `pin`, and nobody else.
pub(crate) fn client_config(identity: &Identity, pin: Pin, purpose: Purpose) -> Result<QuicClientConfig, Error> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(no_tls)?
        .dangerous()
        .with_custom_certificate_verifier(pinned(pin))
        .with_client_auth_cert(vec![identity.certificate()], identity.private_key())
        .map_err(no_tls)?;
    config.alpn_protocols = vec![purpose.alpn().to_vec()];
    // Each connection proves both keys anew, and nothing is ever sent before that.
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    config.enable_sni = false;
    QuicClientConfig::try_from(config).map_err(|error| Error::unsupported("no TLS for QUIC").with_source(error))
}

/// Trusts the holder of `pin`.
pub(crate) fn pinned(pin: Pin) -> Arc<dyn ServerCertVerifier> {
    Arc::new(Pinned { pin, signatures: Signatures(provider()) })
}

/// The server's side: any key may connect, if it is really the client's. Who holds it is asked right after.
pub(crate) fn server_config(identity: &Identity) -> Result<QuicServerConfig, Error> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(no_tls)?
        .with_client_cert_verifier(Arc::new(AnyKey { signatures: Signatures(provider()) }))
        .with_single_cert(vec![identity.certificate()], identity.private_key())
        .map_err(no_tls)?;
    config.alpn_protocols = [Purpose::Session, Purpose::Join].map(|purpose| purpose.alpn().to_vec()).into();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    QuicServerConfig::try_from(config).map_err(|error| Error::unsupported("no TLS for QUIC").with_source(error))
}

fn no_tls(error: rustls::Error) -> Error {
    Error::unsupported("cannot set up TLS").with_source(error)
}

/// Named, never taken from the process: two providers in one tree would otherwise be a panic at run time.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// The pin of a certificate's key.
pub(crate) fn pin_of(certificate: &CertificateDer<'_>) -> Verdict<Pin> {
    let parsed = ParsedCertificate::try_from(certificate)?;
    Ok(Pin::of_spki(&parsed.subject_public_key_info()))
}

/// Checks that whoever shows a certificate holds its key.
#[derive(Debug)]
struct Signatures(Arc<CryptoProvider>);

impl Signatures {
    fn verify(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Verdict<HandshakeSignatureValid> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// TLS 1.2 is not offered; if it came all the same, nothing of it would be believed.
fn no_tls12() -> Verdict<HandshakeSignatureValid> {
    Err(rustls::Error::General("TLS 1.2 is not spoken".into()))
}

#[derive(Debug)]
struct Pinned {
    pin: Pin,
    signatures: Signatures,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Verdict<ServerCertVerified> {
        let found = pin_of(end_entity)?;
        match found == self.pin {
            true => Ok(ServerCertVerified::assertion()),
            false => Err(rustls::Error::General(format!("the receiver's key is {found}, not {} as pinned", self.pin))),
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Verdict<HandshakeSignatureValid> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Verdict<HandshakeSignatureValid> {
        self.signatures.verify(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.signatures.schemes()
    }
}

#[derive(Debug)]
struct AnyKey {
    signatures: Signatures,
}

impl ClientCertVerifier for AnyKey {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Verdict<ClientCertVerified> {
        // A certificate without a key that can be pinned has no place in what follows.
        pin_of(end_entity).map_err(|_| CertificateError::BadEncoding)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Verdict<HandshakeSignatureValid> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Verdict<HandshakeSignatureValid> {
        self.signatures.verify(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.signatures.schemes()
    }
}
