//! What is configured of TLS towards clients.

use std::{path::PathBuf, time::Duration};

use super::ConfigError;

/// TLS towards clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsConfig {
    /// The files of certificates and their keys; one at least.
    pub identities: Vec<(PathBuf, PathBuf)>,
    /// The file of who signs clients' certificates, which they must show then.
    pub client_ca: Option<PathBuf>,
    /// Longest time for a handshake.
    pub handshake_timeout: Duration,
}

/// What the options come to, if there `is_listener` with TLS.
///
/// # Errors
/// [`ConfigError`] for a certificate without its key, and where one has no use.
pub(super) fn resolve(
    is_listener: bool,
    certificates: Vec<PathBuf>,
    keys: Vec<PathBuf>,
    client_ca: Option<PathBuf>,
    handshake_timeout: Duration,
) -> Result<Option<TlsConfig>, ConfigError> {
    let failed = |text: &str| Err(ConfigError(text.into()));
    if certificates.len() != keys.len() {
        return Err(ConfigError(format!(
            "tls-certificate and tls-key: each certificate has its key, in the same order; there are {} and {}",
            certificates.len(),
            keys.len()
        )));
    }
    match (is_listener, certificates.is_empty(), client_ca.is_some()) {
        (true, true, _) => failed(
            "tls-listen: give a certificate and its key, with --tls-certificate FILE and --tls-key FILE",
        ),
        (false, false, _) => failed(
            "tls-certificate: nothing is served over TLS; say where, with --tls-listen ADDRESS",
        ),
        (false, true, true) => failed(
            "tls-client-ca: nothing is served over TLS; say where, with --tls-listen ADDRESS",
        ),
        (false, true, false) => Ok(None),
        (true, false, _) => {
            let identities = certificates.into_iter().zip(keys).collect();
            Ok(Some(TlsConfig { identities, client_ca, handshake_timeout }))
        }
    }
}
