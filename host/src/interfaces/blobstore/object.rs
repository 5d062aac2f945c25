//! How containers and objects are kept in a bucket.
//!
//! A bucket is a container once it holds the key [`CONTAINER`]. An object is one key, its *manifest*. A small
//! object is in its manifest. A larger one is in pieces under an id that no other object ever has, and its
//! manifest, which is written last, names the id: so whoever finds a manifest finds all of the object.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use tally_state::MAX_KEY_BYTES;

/// The key of a bucket that is a container: when it was made, in seconds since 1970.
pub(super) const CONTAINER: &str = ".blob/container";

/// What the keys of manifests begin with.
pub(super) const OBJECTS: &str = ".blob/o/";

/// Bytes of an object that are kept in its manifest: few enough to be recorded with a write.
pub(super) const INLINE_BYTES: usize = 64 << 10;

/// Bytes of a piece, half of what a value may have.
pub(super) const PIECE_BYTES: usize = 512 << 10;

/// What tells a manifest of this form.
const FORM: u8 = 1;

/// Names the pieces of an object.
pub(super) type Id = [u8; 16];

/// An object, as its key tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Manifest {
    /// Seconds since 1970.
    pub(super) created: u64,
    pub(super) size: u64,
    pub(super) content: Content,
}

/// Where the bytes of an object are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Content {
    Inline(Bytes),
    Pieces(Id),
}

/// What an object's key holds for the moment in which the object is deleted.
pub(super) const DELETED: &[u8] = &[FORM, 0];

/// The key of an object.
///
/// # Errors
/// A name that no object can have.
pub(super) fn key(name: &str) -> Result<String, String> {
    let most = MAX_KEY_BYTES.saturating_sub(OBJECTS.len());
    match name.len() {
        0 => Err("an object's name must not be empty".into()),
        length if length > most => {
            Err(format!("an object's name of {length} bytes is over the limit of {most} bytes"))
        }
        _ if name.contains('\0') => Err("an object's name must not hold a NUL character".into()),
        _ => Ok(format!("{OBJECTS}{name}")),
    }
}

/// The key of a piece.
pub(super) fn piece_key(id: &Id, number: u64) -> String {
    format!(".blob/p/{:032x}/{number}", u128::from_be_bytes(*id))
}

impl Manifest {
    /// Reads what an object's key holds: `None` for an object that is just being deleted.
    ///
    /// # Errors
    /// For what this host has not written.
    pub(super) fn decode(mut value: Bytes) -> Result<Option<Self>, String> {
        let unknown = || "the object is not in a form that this host knows".to_owned();
        if value == DELETED {
            return Ok(None);
        }
        if value.try_get_u8() != Ok(FORM) {
            return Err(unknown());
        }
        let kind = value.try_get_u8().map_err(|_| unknown())?;
        let created = value.try_get_u64().map_err(|_| unknown())?;
        let size = value.try_get_u64().map_err(|_| unknown())?;
        let content = match kind {
            1 if value.len() as u64 == size => Content::Inline(value),
            2 => Content::Pieces(*value.first_chunk().ok_or_else(unknown)?),
            _ => return Err(unknown()),
        };
        Ok(Some(Self { created, size, content }))
    }

    pub(super) fn encode(&self) -> Bytes {
        let mut value = BytesMut::new();
        value.put_u8(FORM);
        value.put_u8(match &self.content {
            Content::Inline(_) => 1,
            Content::Pieces(_) => 2,
        });
        value.put_u64(self.created);
        value.put_u64(self.size);
        match &self.content {
            Content::Inline(bytes) => value.put_slice(bytes),
            Content::Pieces(id) => value.put_slice(id),
        }
        value.freeze()
    }

    /// The keys of its pieces.
    pub(super) fn pieces(&self) -> Vec<String> {
        match &self.content {
            Content::Inline(_) => Vec::new(),
            Content::Pieces(id) => {
                (0..self.size.div_ceil(PIECE_BYTES as u64)).map(|n| piece_key(id, n)).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nothing_else() {
        let inline = Manifest { created: 7, size: 3, content: Content::Inline("abc".into()) };
        let pieces = Manifest { created: 7, size: 1_200_000, content: Content::Pieces([9; 16]) };
        for manifest in [inline.clone(), pieces.clone()] {
            assert_eq!(Manifest::decode(manifest.encode()), Ok(Some(manifest)));
        }
        assert_eq!(pieces.pieces().len(), 3);
        assert_eq!(Manifest::decode(DELETED.into()), Ok(None));
        let cut = inline.encode().slice(..19);
        for wrong in [Bytes::new(), "text".into(), cut, pieces.encode().slice(..30)] {
            assert!(Manifest::decode(wrong.clone()).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn names_leave_room_for_what_the_host_puts_before_them() {
        assert_eq!(key("a/b").unwrap(), ".blob/o/a/b");
        assert_eq!(key(&"n".repeat(992)).unwrap().len(), MAX_KEY_BYTES);
        for wrong in [String::new(), "n".repeat(993), "a\0b".into()] {
            assert!(key(&wrong).is_err());
        }
    }
}
