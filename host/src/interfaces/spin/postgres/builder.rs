//! `connection-builder`, which version 4.1 has besides: a connection to a server with a certificate of an authority of
//! its own.

use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, TrustAnchor, pem::PemObject as _},
};
use wasmtime::{
    Result, StoreContextMut, bail,
    component::{LinkerInstance, Resource, ResourceType},
};

use super::{
    super::{Calls, Work, define_finished},
    Answer, Connection, Context, Error, finished, open,
};
use crate::interfaces::{outgoing::tls_config_with, spin::connections::MAX_CONNECTIONS};

/// Bytes of an address, and of the certificates of a builder: far more than either takes.
const MAX_BYTES: usize = 64 << 10;

/// A connection that is to be made.
#[derive(Debug)]
#[allow(unreachable_pub, reason = "it is the type of a resource")]
pub(in crate::interfaces::spin) struct Builder {
    address: String,
    /// Authorities to trust besides those of the operating system.
    roots: Vec<TrustAnchor<'static>>,
}

type Handle = Resource<Builder>;

/// The constructor. It cannot tell the guest of an error.
fn new(context: &mut Context, address: String) -> Result<Handle> {
    if address.len() > MAX_BYTES {
        bail!("an address of PostgreSQL has at most {MAX_BYTES} bytes");
    }
    let builder = Builder { address, roots: Vec::new() };
    match context.connections().postgres_builders.push(builder) {
        Some(handle) => Ok(handle),
        None => bail!("one request may have {MAX_CONNECTIONS} connection builders"),
    }
}

fn set_ca_root(context: &mut Context, this: &Handle, certificate: &str) -> Result<Answer<()>> {
    let builder = context.connections().postgres_builders.get_mut(this)?;
    Ok(match authorities(certificate) {
        Ok(roots) => {
            builder.roots = roots;
            Ok(())
        }
        Err(reason) => Err(Error::Other(reason)),
    })
}

/// The authorities in a text of certificates.
fn authorities(pem: &str) -> Result<Vec<TrustAnchor<'static>>, String> {
    if pem.len() > MAX_BYTES {
        return Err(format!("certificates may have {MAX_BYTES} bytes together"));
    }
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let added = match certificate {
            Ok(certificate) => roots.add(certificate).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        added.map_err(|error| format!("the certificate cannot be read: {error}"))?;
    }
    match roots.is_empty() {
        true => Err("there is no certificate in it; give it as PEM".into()),
        false => Ok(roots.roots),
    }
}

pub(super) fn build(context: &mut Context, (this,): (Handle,)) -> Result<Work<Answer<Connection>>> {
    let Builder { address, roots } = context.connections().postgres_builders.get(&this)?;
    let tls = match &**roots {
        [] => None,
        roots => tls_config_with(roots),
    };
    let address = address.clone();
    Ok(open(context, address, tls))
}

/// Adds it to the interface.
///
/// # Errors
/// When it is there already, which is a bug.
pub(super) fn add(instance: &mut LinkerInstance<'_, Context>) -> Result<()> {
    instance.resource(
        "connection-builder",
        ResourceType::host::<Builder>(),
        |mut store: StoreContextMut<'_, Context>, rep| {
            store.data_mut().connections().postgres_builders.remove(rep);
            Ok(())
        },
    )?;
    instance.func_wrap(
        "[constructor]connection-builder",
        |mut store: StoreContextMut<'_, Context>, (address,): (String,)| {
            Ok((new(store.data_mut(), address)?,))
        },
    )?;
    instance.func_wrap(
        "[method]connection-builder.set-ca-root",
        |mut store: StoreContextMut<'_, Context>, (this, certificate): (Handle, String)| {
            Ok((set_ca_root(store.data_mut(), &this, &certificate)?,))
        },
    )?;
    let name = "[method]connection-builder.build";
    define_finished(instance, Calls::InTurn, name, build, finished)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_read_or_explained() {
        for (text, part) in [
            ("", "no certificate"),
            ("nonsense", "no certificate"),
            ("-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n", "cannot be read"),
            ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "cannot be read"),
        ] {
            let told = authorities(text).unwrap_err();
            assert!(told.contains(part), "{text}: {told}");
        }
        assert!(authorities(&"x".repeat(MAX_BYTES + 1)).unwrap_err().contains("bytes"));
    }
}
