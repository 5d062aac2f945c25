//! What to do about a failed handshake.

use std::{error::Error, io, sync::Arc};

use rustls::{AlertDescription, CertificateError};

/// What a backend's URL calls the PEM files.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parameters {
    pub(crate) roots: &'static str,
    pub(crate) certificate: &'static str,
    pub(crate) key: &'static str,
    /// How to have any name accepted, where that can be said.
    pub(crate) any_name: Option<&'static str>,
}

/// What went wrong with TLS, if that is what an error comes from, and what to do about it.
pub(crate) fn explain(error: &(dyn Error + 'static), parameters: Parameters) -> Option<String> {
    let error = cause(error)?;
    let Parameters { roots, .. } = parameters;
    let advice = match error {
        rustls::Error::InvalidCertificate(certificate) => match certificate {
            // The latter is an authority of the same name and another key.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => format!(
                "nobody this host trusts has signed the server's certificate; name a PEM file with the certificate of its authority by {roots}=PATH in the store URL"
            ),
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                let or = parameters.any_name.map(|write| format!(", or write {write}"));
                format!(
                    "the server's certificate is for other names; write one of those as the host in the store URL, or give the server a certificate for this one{}",
                    or.unwrap_or_default()
                )
            }
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => {
                "renew the server's certificate, or set this machine's clock".into()
            }
            _ => format!(
                "give the server a certificate for servers, signed by an authority that {roots} names"
            ),
        },
        rustls::Error::AlertReceived(alert) => match alert {
            AlertDescription::CertificateRequired
            | AlertDescription::HandshakeFailure
            | AlertDescription::NoCertificate => client_certificate(parameters, false),
            AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::DecryptError
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateRevoked
            | AlertDescription::UnsupportedCertificate => client_certificate(parameters, true),
            _ => return Some(format!("TLS: {error}")),
        },
        rustls::Error::InvalidMessage(_) => {
            "no TLS was answered; check that the port is the server's port for TLS".into()
        }
        _ => return Some(format!("TLS: {error}")),
    };
    Some(format!("TLS: {error}: {advice}"))
}

/// What to do about the client's certificate, where a server may have refused it or its absence.
/// It can do so after the handshake has ended for the client, and its reason can be lost when it
/// then closes the connection.
pub(crate) fn client_certificate(parameters: Parameters, shown: bool) -> String {
    let Parameters { certificate, key, .. } = parameters;
    match shown {
        false => format!(
            "if the server demands a client certificate, name its PEM files by {certificate}=PATH and {key}=PATH in the store URL"
        ),
        true => "the server may not accept the client certificate of the store URL; name one that an authority it trusts has signed".into(),
    }
}

/// The error of TLS among an error and its causes.
fn cause<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        // Both of these pass over what they hold, and give its cause for theirs.
        let held = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        let shared = error.downcast_ref::<Arc<dyn Error + Send + Sync>>();
        next = match (held, shared) {
            (Some(held), _) => Some(held),
            (None, Some(shared)) => Some(&**shared),
            (None, None) => error.source(),
        };
    }
    None
}
