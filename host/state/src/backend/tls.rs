//! TLS towards servers: whom to trust, what to show, and how strictly to check.
//!
//! Trust is in the operating system's roots or in those of a PEM file. A certificate of the
//! client's own is shown where the URL names one. The weaker checks are those that PostgreSQL's
//! `sslmode` defines (<https://www.postgresql.org/docs/current/libpq-ssl.html>).

mod advice;

use std::{
    fmt::Display,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _},
    server::ParsedCertificate,
};

pub(crate) use self::advice::{Parameters, client_certificate, explain};
use crate::error::OpenError;

/// What is checked of the server's certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Check {
    /// Nothing: encryption without knowing to whom.
    Nothing,
    /// That somebody trusted has signed it, for whatever name.
    Chain,
    /// That, and that it is for the host that was asked for.
    ChainAndName,
}

/// The PEM files that a URL names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Files {
    /// Who is trusted instead of the operating system's roots.
    pub(crate) roots: Option<PathBuf>,
    /// The client's certificate, and its private key.
    pub(crate) identity: Option<(PathBuf, PathBuf)>,
}

/// The configuration for a check with these files.
pub(crate) fn config(check: Check, files: &Files) -> Result<ClientConfig, OpenError> {
    let provider = Arc::new(ring::default_provider());
    let failed = |error| OpenError::Backend(format!("cannot set up TLS: {error}"));
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(failed)?;
    let lenient = |roots| Arc::new(Lenient { roots, provider });
    let roots = || roots(files.roots.as_deref());
    let builder = match check {
        Check::Nothing => builder.dangerous().with_custom_certificate_verifier(lenient(None)),
        Check::Chain => {
            builder.dangerous().with_custom_certificate_verifier(lenient(Some(roots()?)))
        }
        Check::ChainAndName => builder.with_root_certificates(roots()?),
    };
    let Some((certificate, key)) = &files.identity else {
        return Ok(builder.with_no_client_auth());
    };
    let chain = certificates(certificate)?;
    let private = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| unreadable("an unencrypted private key in PEM", key, &error))?;
    builder.with_client_auth_cert(chain, private).map_err(|error| {
        OpenError::Backend(format!(
            "the certificate in {} and the key in {} cannot be used together: {error}",
            certificate.display(),
            key.display()
        ))
    })
}

/// The operating system's roots, or those of a file.
fn roots(path: Option<&Path>) -> Result<RootCertStore, OpenError> {
    let mut store = RootCertStore::empty();
    let Some(path) = path else {
        store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        return Ok(store);
    };
    for certificate in certificates(path)? {
        store.add(certificate).map_err(|error| unreadable("certificates", path, &error))?;
    }
    Ok(store)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, OpenError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    let found: Vec<_> = read.map_err(|error| unreadable("certificates", path, &error))?;
    if found.is_empty() {
        return Err(unreadable("certificates", path, &"it holds none in PEM"));
    }
    Ok(found)
}

fn unreadable(what: &str, path: &Path, error: &dyn Display) -> OpenError {
    OpenError::Backend(format!("cannot read {what} from {}: {error}", path.display()))
}

/// Accepts a certificate for any name, signed by one of the roots where there are any; still
/// checks that the server holds its key.
#[derive(Debug)]
struct Lenient {
    roots: Option<RootCertStore>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Lenient {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Some(roots) = &self.roots {
            verify_server_cert_signed_by_trust_anchor(
                &ParsedCertificate::try_from(end_entity)?,
                roots,
                intermediates,
                now,
                self.provider.signature_verification_algorithms.all,
            )?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
