//! `wasi:blobstore` over the store: a container is a bucket, opened by the same rules, and an object is a key
//! of it, and more keys if it is large. See `object` for how, and `upload` for why no reader ever finds half of
//! one.

mod object;
mod read;
mod upload;

use std::collections::{HashSet, VecDeque, hash_map::RandomState};
use std::hash::BuildHasher as _;

use tally_state::Bucket as StoreBucket;
use wasmtime::{
    Result,
    component::{HasSelf, Linker, Resource},
};
use wasmtime_wasi_io::streams::{DynInputStream, DynOutputStream};

use self::{
    object::{CONTAINER, Manifest, OBJECTS},
    read::Part,
    upload::{Place, Upload},
};
use super::{
    Context,
    bindings::{
        blobstore::wasi::blobstore::{blobstore, container, types},
        plugin::wasi::keyvalue::store,
    },
    keyvalue::Bucket,
};

/// Bytes that a name takes in the host besides its own.
const NAME_BYTES: usize = 64;

/// An object to be.
#[allow(unreachable_pub, reason = "the generated code re-exports it")]
pub struct Outgoing(Upload);

/// An object, or a part of one.
#[allow(unreachable_pub, reason = "the generated code re-exports it")]
pub struct Incoming(Part);

/// A walk through a container.
#[allow(unreachable_pub, reason = "the generated code re-exports it")]
pub struct Names {
    bucket: StoreBucket,
    cursor: Option<String>,
    /// Read, and not given out.
    names: VecDeque<String>,
    is_at_end: bool,
    /// Hashes of all names so far, as Redis may give one twice.
    seen: HashSet<u64>,
    hasher: RandomState,
}

impl Names {
    fn new(bucket: StoreBucket) -> Self {
        Self {
            bucket,
            cursor: None,
            names: VecDeque::new(),
            is_at_end: false,
            seen: HashSet::new(),
            hasher: RandomState::new(),
        }
    }
}

type Answer<T> = Result<Result<T, String>>;

/// Gives up with the reason that an answer has instead of a value.
macro_rules! ask {
    ($answer:expr) => {
        match $answer {
            Ok(value) => value,
            Err(reason) => return Ok(Err(reason.to_string())),
        }
    };
}

/// Offers `wasi:blobstore` to a linker.
///
/// # Errors
/// When one of its names is taken, which is a bug.
pub(super) fn add_to_linker(linker: &mut Linker<Context>) -> Result<()> {
    types::add_to_linker::<_, HasSelf<Context>>(linker, |context| context)?;
    container::add_to_linker::<_, HasSelf<Context>>(linker, |context| context)?;
    blobstore::add_to_linker::<_, HasSelf<Context>>(linker, |context| context)
}

impl Context {
    /// Opens the bucket that a container is.
    fn open_container(&mut self, name: &str) -> Result<Resource<Bucket>, String> {
        self.open_bucket(name).map(Resource::new_own).map_err(|error| match error {
            store::Error::NoSuchStore => {
                format!(
                    "there is no container '{name}', as the guest may open no bucket of that name"
                )
            }
            store::Error::AccessDenied => format!("access to the container '{name}' is denied"),
            store::Error::Other(reason) => reason,
        })
    }

    /// When a container was made, if it was.
    async fn created(&mut self, container: &Resource<Bucket>) -> Answer<Option<u64>> {
        let bucket = self.bucket(container)?;
        let reading = self.state.get(&bucket, CONTAINER);
        let mark = ask!(self.operator().reading(reading).await?);
        Ok(Ok(mark.map(|mark| {
            std::str::from_utf8(&mark).ok().and_then(|text| text.parse().ok()).unwrap_or(0)
        })))
    }

    /// An object as it is now.
    async fn object(&mut self, bucket: &StoreBucket, name: &str) -> Answer<Option<Manifest>> {
        let key = ask!(object::key(name));
        let reading = self.state.get(bucket, &key);
        match ask!(self.operator().reading(reading).await?) {
            Some(value) => Ok(Manifest::decode(value)),
            None => Ok(Ok(None)),
        }
    }

    /// The same of one that has to be there.
    async fn existing(&mut self, bucket: &StoreBucket, name: &str) -> Answer<Manifest> {
        let found = ask!(self.object(bucket, name).await?);
        Ok(found.ok_or_else(|| format!("there is no object '{name}'")))
    }

    /// A place for the next object that the request writes.
    fn next_place(&mut self, bucket: StoreBucket, name: String) -> Place {
        let ordinal = self.uploads;
        self.uploads = self.uploads.saturating_add(1);
        Place { bucket, name, ordinal }
    }

    /// Deletes all objects of a container, page by page.
    async fn clear_container(&mut self, bucket: &StoreBucket) -> Answer<()> {
        let mut cursor = None;
        loop {
            let reading = self.state.list(bucket, OBJECTS, cursor.as_deref());
            let page = ask!(self.operator().reading(reading).await?);
            if !page.keys.is_empty() {
                ask!(upload::delete(&self.own_operator(), bucket, &page.keys).await?);
            }
            match page.cursor {
                Some(next) => cursor = Some(next),
                None => return Ok(Ok(())),
            }
        }
    }

    /// Copies an object. Whoever reads the copy finds all of it, or what was there before.
    async fn copy(&mut self, src: &types::ObjectId, dest: &types::ObjectId) -> Answer<()> {
        let from = ask!(self.existing_container(&src.container).await?);
        let to = ask!(self.existing_container(&dest.container).await?);
        let (from, to) = (self.bucket(&from)?, self.bucket(&to)?);
        let manifest = ask!(self.existing(&from, &src.object).await?);
        if from == to && src.object == dest.object {
            return Ok(Ok(()));
        }
        ask!(object::key(&dest.object));
        let operator = self.own_operator();
        let upload = Upload::new(operator.clone(), usize::MAX);
        let place = self.next_place(to, dest.object.clone());
        ask!(upload.place(place));
        if manifest.size > 0 {
            let all = (0, manifest.size);
            let mut part = ask!(Part::new(operator, from, manifest, all));
            while part.len() > 0 {
                let bytes = ask!(part.next().await?);
                ask!(upload.push(&bytes).await?);
            }
        }
        upload.finish().await
    }

    async fn existing_container(&mut self, name: &str) -> Answer<Resource<Bucket>> {
        let container = ask!(self.open_container(name));
        match ask!(self.created(&container).await?) {
            Some(_) => Ok(Ok(container)),
            None => Ok(Err(format!("there is no container '{name}'; create it first"))),
        }
    }

    /// Reads names until there are so many, or no more.
    async fn read_names(&mut self, this: &Resource<Names>, wanted: usize) -> Answer<()> {
        loop {
            let names = self.table().get(this)?;
            if names.is_at_end || names.names.len() >= wanted {
                return Ok(Ok(()));
            }
            let (bucket, cursor) = (names.bucket.clone(), names.cursor.clone());
            let reading = self.state.list(&bucket, OBJECTS, cursor.as_deref());
            let page = ask!(self.operator().reading(reading).await?);
            let bytes = page.keys.iter().map(|key| key.len().saturating_add(NAME_BYTES)).sum();
            ask!(self.charge(bytes).map_err(|error| match error {
                store::Error::Other(reason) => reason,
                other => format!("{other:?}"),
            }));
            let names = self.table().get_mut(this)?;
            for key in page.keys {
                let Some(name) = key.strip_prefix(OBJECTS) else { continue };
                if names.seen.insert(names.hasher.hash_one(name)) {
                    names.names.push_back(name.to_owned());
                }
            }
            names.is_at_end = page.cursor.is_none();
            names.cursor = page.cursor;
        }
    }
}

impl blobstore::Host for Context {
    /// One that exists already stays as it is.
    async fn create_container(&mut self, name: String) -> Answer<Resource<Bucket>> {
        let container = ask!(self.open_container(&name));
        let bucket = self.bucket(&container)?;
        let now = upload::now().to_string().into();
        let creating = self.state.set_if_absent(&bucket, CONTAINER, now, None);
        ask!(self.operator().attempt(creating, |made| *made).await?);
        Ok(Ok(container))
    }

    async fn get_container(&mut self, name: String) -> Answer<Resource<Bucket>> {
        self.existing_container(&name).await
    }

    async fn delete_container(&mut self, name: String) -> Answer<()> {
        let container = ask!(self.open_container(&name));
        let bucket = self.bucket(&container)?;
        ask!(self.clear_container(&bucket).await?);
        let deleting = self.state.delete(&bucket, CONTAINER);
        ask!(self.operator().writing(deleting).await?);
        Ok(Ok(()))
    }

    async fn container_exists(&mut self, name: String) -> Answer<bool> {
        let container = match self.open_bucket(&name) {
            Ok(place) => Resource::new_own(place),
            Err(store::Error::NoSuchStore) => return Ok(Ok(false)),
            Err(_) => return Ok(Err(format!("access to the container '{name}' is denied"))),
        };
        Ok(Ok(ask!(self.created(&container).await?).is_some()))
    }

    async fn copy_object(&mut self, src: types::ObjectId, dest: types::ObjectId) -> Answer<()> {
        self.copy(&src, &dest).await
    }

    async fn move_object(&mut self, src: types::ObjectId, dest: types::ObjectId) -> Answer<()> {
        ask!(self.copy(&src, &dest).await?);
        let from = ask!(self.open_container(&src.container));
        let to = ask!(self.open_container(&dest.container));
        let (from, to) = (self.bucket(&from)?, self.bucket(&to)?);
        if from == to && src.object == dest.object {
            return Ok(Ok(()));
        }
        let key = ask!(object::key(&src.object));
        upload::delete(&self.own_operator(), &from, &[key]).await
    }
}

impl container::Host for Context {}

impl container::HostContainer for Context {
    async fn name(&mut self, this: Resource<Bucket>) -> Answer<String> {
        Ok(Ok(self.bucket_name(&this)?))
    }

    async fn info(&mut self, this: Resource<Bucket>) -> Answer<container::ContainerMetadata> {
        let name = self.bucket_name(&this)?;
        let created = ask!(self.created(&this).await?);
        let created_at = ask!(created.ok_or_else(|| format!("there is no container '{name}'")));
        Ok(Ok(container::ContainerMetadata { name, created_at }))
    }

    async fn get_data(
        &mut self,
        this: Resource<Bucket>,
        name: String,
        start: u64,
        end: u64,
    ) -> Answer<Resource<Incoming>> {
        let bucket = self.bucket(&this)?;
        let manifest = ask!(self.existing(&bucket, &name).await?);
        let part = ask!(Part::new(self.own_operator(), bucket, manifest, (start, end)));
        Ok(Ok(self.table().push(Incoming(part))?))
    }

    async fn write_data(
        &mut self,
        this: Resource<Bucket>,
        name: String,
        data: Resource<Outgoing>,
    ) -> Answer<()> {
        let bucket = self.bucket(&this)?;
        ask!(object::key(&name));
        let place = self.next_place(bucket, name);
        Ok(self.table().get(&data)?.0.place(place))
    }

    async fn list_objects(&mut self, this: Resource<Bucket>) -> Answer<Resource<Names>> {
        let bucket = self.bucket(&this)?;
        Ok(Ok(self.table().push(Names::new(bucket))?))
    }

    async fn delete_object(&mut self, this: Resource<Bucket>, name: String) -> Answer<()> {
        container::HostContainer::delete_objects(self, this, vec![name]).await
    }

    async fn delete_objects(&mut self, this: Resource<Bucket>, names: Vec<String>) -> Answer<()> {
        let bucket = self.bucket(&this)?;
        let keys: Result<Vec<_>, _> = names.iter().map(|name| object::key(name)).collect();
        let mut keys = ask!(keys);
        // One that is named twice is deleted once.
        keys.sort_unstable();
        keys.dedup();
        if keys.is_empty() {
            return Ok(Ok(()));
        }
        upload::delete(&self.own_operator(), &bucket, &keys).await
    }

    async fn has_object(&mut self, this: Resource<Bucket>, name: String) -> Answer<bool> {
        let bucket = self.bucket(&this)?;
        Ok(Ok(ask!(self.object(&bucket, &name).await?).is_some()))
    }

    async fn object_info(
        &mut self,
        this: Resource<Bucket>,
        name: String,
    ) -> Answer<container::ObjectMetadata> {
        let bucket = self.bucket(&this)?;
        let Manifest { created, size, .. } = ask!(self.existing(&bucket, &name).await?);
        let container = self.bucket_name(&this)?;
        Ok(Ok(container::ObjectMetadata { name, container, created_at: created, size }))
    }

    async fn clear(&mut self, this: Resource<Bucket>) -> Answer<()> {
        let bucket = self.bucket(&this)?;
        self.clear_container(&bucket).await
    }

    async fn drop(&mut self, _this: Resource<Bucket>) -> Result<()> {
        Ok(())
    }
}

impl container::HostStreamObjectNames for Context {
    async fn read_stream_object_names(
        &mut self,
        this: Resource<Names>,
        len: u64,
    ) -> Answer<(Vec<String>, bool)> {
        let wanted = usize::try_from(len).unwrap_or(usize::MAX);
        ask!(self.read_names(&this, wanted).await?);
        let names = self.table().get_mut(&this)?;
        let given = names.names.drain(..wanted.min(names.names.len())).collect();
        Ok(Ok((given, names.is_at_end && names.names.is_empty())))
    }

    async fn skip_stream_object_names(
        &mut self,
        this: Resource<Names>,
        num: u64,
    ) -> Answer<(u64, bool)> {
        let read = container::HostStreamObjectNames::read_stream_object_names(self, this, num);
        let (names, is_at_end) = ask!(read.await?);
        Ok(Ok((names.len() as u64, is_at_end)))
    }

    async fn drop(&mut self, this: Resource<Names>) -> Result<()> {
        self.table().delete(this)?;
        Ok(())
    }
}

impl types::Host for Context {}

impl types::HostOutgoingValue for Context {
    async fn new_outgoing_value(&mut self) -> Result<Resource<Outgoing>> {
        let upload = Upload::new(self.own_operator(), self.settings.blob_limit);
        Ok(self.table().push(Outgoing(upload))?)
    }

    async fn outgoing_value_write_body(
        &mut self,
        this: Resource<Outgoing>,
    ) -> Result<Result<Resource<DynOutputStream>, ()>> {
        let Some(body) = self.table().get(&this)?.0.body() else { return Ok(Err(())) };
        let body: DynOutputStream = Box::new(body);
        Ok(Ok(self.table().push(body)?))
    }

    async fn finish(&mut self, this: Resource<Outgoing>) -> Answer<()> {
        let Outgoing(upload) = self.table().delete(this)?;
        upload.finish().await
    }

    async fn drop(&mut self, this: Resource<Outgoing>) -> Result<()> {
        self.table().delete(this)?;
        Ok(())
    }
}

impl types::HostIncomingValue for Context {
    async fn incoming_value_consume_sync(&mut self, this: Resource<Incoming>) -> Answer<Vec<u8>> {
        let Incoming(mut part) = self.table().delete(this)?;
        let length = usize::try_from(part.len()).unwrap_or(usize::MAX);
        ask!(self.charge(length).map_err(|_| {
            format!(
                "{length} bytes are more than this request may read at once; read them as a stream"
            )
        }));
        let mut bytes = Vec::with_capacity(length);
        while part.len() > 0 {
            bytes.extend_from_slice(&ask!(part.next().await?));
        }
        Ok(Ok(bytes))
    }

    async fn incoming_value_consume_async(
        &mut self,
        this: Resource<Incoming>,
    ) -> Answer<Resource<DynInputStream>> {
        let Incoming(part) = self.table().delete(this)?;
        let body: DynInputStream = Box::new(read::Body::new(part));
        Ok(Ok(self.table().push(body)?))
    }

    async fn size(&mut self, this: Resource<Incoming>) -> Result<u64> {
        Ok(self.table().get(&this)?.0.len())
    }

    async fn drop(&mut self, this: Resource<Incoming>) -> Result<()> {
        self.table().delete(this)?;
        Ok(())
    }
}
