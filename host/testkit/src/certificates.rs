//! Certificates of a test's own.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Result;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use tempfile::TempDir;

/// An authority, its certificate in a file, and what it has signed beside it.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    dir: TempDir,
}

/// The PEM files of a server or a client.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// Whom a server with TLS lets in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clients {
    /// Whoever logs in.
    Any,
    /// Those who also show a certificate of the server's authority.
    WithCertificate,
}

/// How a server uses TLS.
#[derive(Clone, Debug)]
pub struct Tls {
    /// Who signs the certificates that it trusts.
    pub authority: PathBuf,
    /// Its own.
    pub identity: Identity,
    /// Whom it lets in.
    pub clients: Clients,
}

impl Authority {
    /// A new authority, which nobody trusts yet.
    ///
    /// # Errors
    /// When its files cannot be written.
    pub fn new() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        // Each has a name of its own, by which those who check tell them apart.
        let name = dir.path().display().to_string();
        params.distinguished_name.push(DnType::CommonName, format!("authority {name}"));
        let key = KeyPair::generate()?;
        fs::write(dir.path().join("authority.pem"), params.self_signed(&key)?.pem())?;
        Ok(Self { issuer: Issuer::new(params, key), dir })
    }

    /// The file with its certificate.
    #[must_use]
    pub fn certificate(&self) -> PathBuf {
        self.path().join("authority.pem")
    }

    /// Signs a certificate for hosts and addresses, or for a client where there are none.
    ///
    /// # Errors
    /// When its files cannot be written.
    pub fn sign(&self, names: &[&str]) -> Result<Identity> {
        self.sign_until(names, 4096)
    }

    /// As [`Authority::sign`], with a certificate that is valid until the first day of a year.
    ///
    /// # Errors
    /// As [`Authority::sign`].
    pub fn sign_until(&self, names: &[&str], year: i32) -> Result<Identity> {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let file =
            if names.is_empty() { "client".into() } else { names.join("-").replace('*', "any") };
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name.push(DnType::CommonName, "a test");
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        let key = KeyPair::generate()?;
        let identity = Identity {
            certificate: self.path().join(format!("{file}.pem")),
            key: self.path().join(format!("{file}.key")),
        };
        fs::write(&identity.certificate, params.signed_by(&key, &self.issuer)?.pem())?;
        fs::write(&identity.key, key.serialize_pem())?;
        Ok(identity)
    }

    /// TLS for a server at these hosts and addresses.
    ///
    /// # Errors
    /// As [`Authority::sign`].
    pub fn tls(&self, names: &[&str], clients: Clients) -> Result<Tls> {
        Ok(Tls { authority: self.certificate(), identity: self.sign(names)?, clients })
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }
}

impl Tls {
    /// The settings of Redis and Sentinel: names and values.
    pub(crate) fn redis_settings(&self, port: u16) -> Vec<(&'static str, String)> {
        let clients = if self.clients == Clients::WithCertificate { "yes" } else { "no" };
        let path = |path: &Path| path.display().to_string();
        vec![
            ("tls-port", port.to_string()),
            ("tls-cert-file", path(&self.identity.certificate)),
            ("tls-key-file", path(&self.identity.key)),
            ("tls-ca-cert-file", path(&self.authority)),
            ("tls-auth-clients", clients.into()),
        ]
    }
}
