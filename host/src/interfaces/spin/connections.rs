//! The connections to databases that one request has open, and what it may still read through them.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use wasmtime::{Result, bail, component::Resource};

use super::{Context, postgres, redis, sqlite};

/// Connections of one kind that a request may have open at once.
pub(super) const MAX_CONNECTIONS: usize = 16;

/// The connections of one request.
pub(in crate::interfaces) struct Connections {
    pub(super) sqlite: Handles<sqlite::Connection>,
    pub(super) redis: Handles<redis::Connection>,
    pub(super) postgres: Handles<postgres::Connection>,
    pub(super) postgres_builders: Handles<postgres::Builder>,
    pub(super) readable: Readable,
}

impl Connections {
    fn new(readable: usize) -> Self {
        Self {
            sqlite: Handles::default(),
            redis: Handles::default(),
            postgres: Handles::default(),
            postgres_builders: Handles::default(),
            readable: Readable::of(readable),
        }
    }
}

impl Context {
    /// The request's connections.
    pub(super) fn connections(&mut self) -> &mut Connections {
        let memory = self.memory.limit();
        self.connections.get_or_insert_with(|| Box::new(Connections::new(memory)))
    }
}

/// Handles of resources of one kind, by number.
pub(super) struct Handles<T>(Vec<Option<T>>);

impl<T> Default for Handles<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Handles<T> {
    /// Whether there is room for another one.
    pub(super) fn has_room(&self) -> bool {
        self.0.len() < MAX_CONNECTIONS || self.0.iter().any(Option::is_none)
    }

    /// A handle, unless there are too many.
    pub(super) fn push(&mut self, value: T) -> Option<Resource<T>>
    where
        T: 'static,
    {
        let free = match self.0.iter().position(Option::is_none) {
            Some(free) => free,
            None if self.0.len() < MAX_CONNECTIONS => {
                self.0.push(None);
                self.0.len().checked_sub(1)?
            }
            None => return None,
        };
        *self.0.get_mut(free)? = Some(value);
        Some(Resource::new_own(u32::try_from(free).ok()?))
    }

    /// What a handle stands for.
    ///
    /// # Errors
    /// When it was never given out, which stops the guest.
    pub(super) fn get(&self, handle: &Resource<T>) -> Result<&T>
    where
        T: 'static,
    {
        let place = usize::try_from(handle.rep())?;
        match self.0.get(place).and_then(Option::as_ref) {
            Some(value) => Ok(value),
            None => bail!("a handle of a connection that was never given out"),
        }
    }

    /// What a handle stands for, to change it.
    ///
    /// # Errors
    /// As [`Handles::get`].
    pub(super) fn get_mut(&mut self, handle: &Resource<T>) -> Result<&mut T>
    where
        T: 'static,
    {
        let place = usize::try_from(handle.rep())?;
        match self.0.get_mut(place).and_then(Option::as_mut) {
            Some(value) => Ok(value),
            None => bail!("a handle of a connection that was never given out"),
        }
    }

    /// Forgets a handle.
    pub(super) fn remove(&mut self, rep: u32) {
        if let Some(value) = usize::try_from(rep).ok().and_then(|place| self.0.get_mut(place)) {
            *value = None;
        }
    }
}

/// Bytes that a request may still read from databases: the host holds them on their way to the
/// guest, whose own memory they would not fit into either.
#[derive(Clone)]
pub(super) struct Readable(Arc<Budget>);

struct Budget {
    left: AtomicUsize,
    /// More was asked for than was left.
    is_exceeded: AtomicBool,
}

/// A request has read more than its memory holds.
#[derive(Debug, thiserror::Error)]
#[error(
    "this request has read more from databases than its memory holds; ask for fewer rows, or raise memory-limit"
)]
pub(super) struct TooMuch;

impl Readable {
    /// Of so many bytes.
    pub(super) fn of(bytes: usize) -> Self {
        let (left, is_exceeded) = (AtomicUsize::new(bytes), AtomicBool::new(false));
        Self(Arc::new(Budget { left, is_exceeded }))
    }

    /// Charges the request for bytes that were read.
    ///
    /// # Errors
    /// [`TooMuch`], when it may not read so many any more.
    pub(super) fn charge(&self, bytes: usize) -> Result<(), TooMuch> {
        let left = &self.0.left;
        let charged =
            left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes));
        charged.map(|_| ()).map_err(|_| {
            self.0.is_exceeded.store(true, Ordering::Release);
            TooMuch
        })
    }

    /// Whether more was asked for than was left: a connection ends then, and its client is only told
    /// that it ended.
    pub(super) fn exceeded(&self) -> Option<TooMuch> {
        self.0.is_exceeded.load(Ordering::Acquire).then_some(TooMuch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_are_bounded_and_used_again() {
        let mut handles = Handles::default();
        for number in 0..MAX_CONNECTIONS {
            assert_eq!(handles.push(number).unwrap().rep() as usize, number);
        }
        assert!(!handles.has_room() && handles.push(99).is_none());
        handles.remove(3);
        handles.remove(1_000);
        assert!(handles.get(&Resource::new_borrow(3)).is_err());
        assert!(handles.has_room());
        assert_eq!(handles.push(7).unwrap().rep(), 3);
        assert_eq!(*handles.get(&Resource::new_borrow(3)).unwrap(), 7);
    }

    #[test]
    fn what_is_read_is_counted_over_all_connections() {
        let readable = Connections::new(10).readable;
        let other = readable.clone();
        readable.charge(6).unwrap();
        assert!(readable.exceeded().is_none());
        other.charge(5).unwrap_err();
        assert!(readable.exceeded().is_some(), "whichever of them asked");
        other.charge(4).unwrap();
        readable.charge(1).unwrap_err();
    }
}
