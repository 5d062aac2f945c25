//! The files of TLS: read at the start, and again when they change or SIGHUP asks for it.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustls::{
    Error, InconsistentKeys, RootCertStore, ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier},
    sign::CertifiedKey,
};
use x509_cert::{Certificate, der::Decode as _};

use super::guests::{Seen, look};
use crate::{config::TlsConfig, edge::Tls};

/// How often files are looked at: certificates change every few weeks.
const LOOK: Duration = Duration::from_secs(1);

/// Why files of TLS cannot be used. The text names the file, and what is wrong with it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct TlsError(String);

/// Reads a configuration for TLS from its files.
///
/// # Errors
/// [`TlsError`].
pub(super) fn read(files: &TlsConfig) -> Result<ServerConfig, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let failed = |error: Error| TlsError(format!("cannot set up TLS: {error}"));
    let names = Names::read(&files.identities, &provider)?;
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(failed)?;
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let trusted = Arc::new(read_roots(path)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(trusted, provider).build();
            builder.with_client_cert_verifier(verifier.map_err(|error| {
                TlsError(format!("tls-client-ca: {} cannot be used: {error}", path.display()))
            })?)
        }
    };
    let mut config = builder.with_cert_resolver(Arc::new(names));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // A client that returns takes up its session, with any worker. After a reload it cannot: who was let in
    // by other certificates has to show one again.
    config.ticketer = ring::Ticketer::new().map_err(failed)?;
    Ok(config)
}

/// Which certificate a client gets, by the name that it asks for (SNI).
#[derive(Debug)]
struct Names {
    /// By the names in them, in lower case, some of which are of the form `*.example.com`.
    named: HashMap<String, Vec<Arc<CertifiedKey>>>,
    /// In the order of the configuration: for other names, and for clients that say none.
    all: Vec<Arc<CertifiedKey>>,
}

impl Names {
    fn read(
        identities: &[(PathBuf, PathBuf)],
        provider: &CryptoProvider,
    ) -> Result<Self, TlsError> {
        let mut names = Self { named: HashMap::new(), all: Vec::new() };
        for (certificate, key) in identities {
            let identity = Arc::new(read_identity(certificate, key, provider)?);
            let leaf = identity.cert.first();
            let leaf = leaf.and_then(|leaf| webpki::EndEntityCert::try_from(leaf).ok());
            for name in leaf.iter().flat_map(|leaf| leaf.valid_dns_names()) {
                let found = names.named.entry(name.to_ascii_lowercase()).or_default();
                found.push(Arc::clone(&identity));
            }
            names.all.push(identity);
        }
        Ok(names)
    }

    /// Those for a name: its own, or those for all names beside it (RFC 6125, 6.4.3).
    fn of(&self, name: &str) -> Option<&Vec<Arc<CertifiedKey>>> {
        let name = name.to_ascii_lowercase();
        self.named.get(&name).or_else(|| {
            let (_, rest) = name.split_once('.')?;
            self.named.get(&format!("*.{rest}"))
        })
    }
}

impl ResolvesServerCert for Names {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let usable = |keys: &Vec<Arc<CertifiedKey>>| {
            let schemes = hello.signature_schemes();
            keys.iter().find(|key| key.key.choose_scheme(schemes).is_some()).cloned()
        };
        let named = hello.server_name().and_then(|name| self.of(name));
        named.and_then(usable).or_else(|| usable(&self.all))
    }
}

fn read_identity(
    certificate: &Path,
    key: &Path,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, TlsError> {
    let chain = read_certificates("tls-certificate", certificate)?;
    warn_of_time(certificate, chain.first());
    let failed = |reason: &str| TlsError(format!("tls-key: {}: {reason}", key.display()));
    let bytes = fs::read(key).map_err(|error| failed(&format!("cannot read it: {error}")))?;
    let private = PrivateKeyDer::from_pem_slice(&bytes).map_err(|_| {
        let is_encrypted = String::from_utf8_lossy(&bytes).contains("ENCRYPTED");
        failed(match is_encrypted {
            true => "the key is encrypted, and there is nobody to ask for its password; openssl pkey -in FILE -out NEW writes it without",
            false => "it holds no private key in PEM",
        })
    })?;
    CertifiedKey::from_der(chain, private, provider).map_err(|error| match error {
        Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => failed(&format!(
            "it is not the key of the first certificate in {}; the server's own comes first there, then those of who signed it",
            certificate.display()
        )),
        Error::InvalidCertificate(error) => TlsError(format!(
            "tls-certificate: {}: the first certificate cannot be read: {error:?}",
            certificate.display()
        )),
        error => failed(&format!("it cannot be used: {error}")),
    })
}

/// Says of a certificate outside its time, which clients refuse. It is served all the same: a host that does
/// not start helps nobody, and a clock can be wrong.
fn warn_of_time(path: &Path, certificate: Option<&CertificateDer<'_>>) {
    let certificate = certificate.and_then(|der| Certificate::from_der(der).ok());
    let Some(validity) = certificate.map(|it| it.tbs_certificate.validity) else { return };
    let now = SystemTime::now();
    if validity.not_after.to_system_time() < now {
        tracing::warn!("the certificate in {} expired at {}", path.display(), validity.not_after);
    } else if validity.not_before.to_system_time() > now {
        tracing::warn!(
            "the certificate in {} is valid from {}",
            path.display(),
            validity.not_before
        );
    }
}

fn read_certificates(key: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let failed = |reason: &str| TlsError(format!("{key}: {}: {reason}", path.display()));
    let bytes = fs::read(path).map_err(|error| failed(&format!("cannot read it: {error}")))?;
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let found = read.map_err(|error| failed(&format!("it is no PEM: {error}")))?;
    if found.is_empty() {
        let has_key = String::from_utf8_lossy(&bytes).contains("PRIVATE KEY");
        return Err(failed(match has_key {
            true => "it holds a private key, and no certificate; were the files exchanged?",
            false => "it holds no certificate in PEM",
        }));
    }
    Ok(found)
}

fn read_roots(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in read_certificates("tls-client-ca", path)? {
        roots.add(certificate).map_err(|error| {
            TlsError(format!(
                "tls-client-ca: {}: a certificate in it cannot be used: {error}",
                path.display()
            ))
        })?;
    }
    Ok(roots)
}

/// Reads the files again, and uses them for new connections. If they cannot be used, those before stay.
pub(super) async fn reload(files: &TlsConfig, tls: &Tls) -> Result<(), String> {
    let files = files.clone();
    // They may be on a disk that hangs, which must stop nothing else.
    let read = tokio::task::spawn_blocking(move || read(&files)).await;
    let config = read.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
    tls.exchange(config);
    Ok(())
}

/// Reloads whenever files have changed and no longer do, until dropped. `loaded` is what they were before they
/// were read.
pub(super) async fn watch(files: TlsConfig, tls: Arc<Tls>, loaded: Vec<Option<Seen>>) {
    let (mut loaded, mut last) = (loaded.clone(), loaded);
    loop {
        tokio::time::sleep(LOOK).await;
        let paths = files.clone();
        let Ok(now) = tokio::task::spawn_blocking(move || look_at(&paths)).await else { continue };
        // A certificate and its key are written one after the other.
        let settled = now == last;
        last.clone_from(&now);
        if !settled || now == loaded {
            continue;
        }
        loaded = now;
        match reload(&files, &tls).await {
            Ok(()) => tracing::info!("certificates have changed, and are in use"),
            Err(reason) => {
                tracing::error!(
                    "certificates have changed, and those before stay in use: {reason}"
                );
            }
        }
    }
}

/// What the files are now.
pub(super) fn look_at(files: &TlsConfig) -> Vec<Option<Seen>> {
    let identities = files.identities.iter().flat_map(|(certificate, key)| [certificate, key]);
    identities.chain(&files.client_ca).map(|path| look(path)).collect()
}
