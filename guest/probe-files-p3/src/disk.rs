//! What it does with files, by `wasi:filesystem` 0.3.

use probing::{Answer, Failure, pair};
use wasip3::{
    filesystem::{
        preopens,
        types::{Descriptor, DescriptorFlags, ErrorCode, OpenFlags, PathFlags},
    },
    wit_stream,
};

/// What is answered to a path.
pub async fn answer(path: &str, argument: &str) -> Answer {
    match path {
        "/directories" => Ok(directories()),
        "/read" => Ok(read(argument).await?),
        "/list" => list(argument).await,
        "/write" => write(argument).await,
        "/fill" => fill(argument).await,
        "/resize" => resize(argument).await,
        "/entries" => Ok(entries(argument).await),
        "/nest" => Ok(nest(argument).await),
        "/link" => link(argument).await,
        "/remove" => remove(argument).await,
        path => match path.strip_prefix("/site/") {
            Some(file) => read(&format!("/www/{file}")).await.map_err(|_| Failure::NoSuchPath),
            None => Err(Failure::NoSuchPath),
        },
    }
}

/// The paths of the directories that it is given.
fn directories() -> String {
    preopens::get_directories().into_iter().map(|(_, path)| path + "\n").collect()
}

/// The directory that a path is below, and what is left of the path.
fn find(path: &str) -> Result<(Descriptor, String), ErrorCode> {
    let below = |directory: &str| {
        let rest = path.strip_prefix(directory)?;
        rest.is_empty().then_some(".").or_else(|| rest.strip_prefix('/')).map(str::to_owned)
    };
    let mut directories = preopens::get_directories().into_iter();
    directories
        .find_map(|(directory, path)| Some((directory, below(&path)?)))
        .ok_or(ErrorCode::NoEntry)
}

async fn open(path: &str, how: OpenFlags, flags: DescriptorFlags) -> Result<Descriptor, ErrorCode> {
    let (directory, path) = find(path)?;
    directory.open_at(PathFlags::SYMLINK_FOLLOW, path, how, flags).await
}

async fn create(path: &str) -> Result<Descriptor, ErrorCode> {
    open(path, OpenFlags::CREATE | OpenFlags::TRUNCATE, DescriptorFlags::WRITE).await
}

async fn read(path: &str) -> Result<String, ErrorCode> {
    let file = open(path, OpenFlags::empty(), DescriptorFlags::READ).await?;
    let (contents, end) = file.read_via_stream(0);
    let contents = contents.collect().await;
    end.await?;
    Ok(String::from_utf8_lossy(&contents).into_owned())
}

async fn list(path: &str) -> Answer {
    let directory = open(path, OpenFlags::DIRECTORY, DescriptorFlags::READ).await?;
    let (names, end) = directory.read_directory();
    let mut names: Vec<_> = names.collect().await.into_iter().map(|entry| entry.name).collect();
    end.await?;
    names.sort();
    Ok(names.join(","))
}

/// Writes a text to a file, the second half of it at its end, and reads it again.
async fn write(argument: &str) -> Answer {
    let (path, text) = pair(argument);
    let file = create(&path).await?;
    let (first, second) = text.as_bytes().split_at(text.len() / 2);
    let (mut sender, contents) = wit_stream::new();
    let written = file.write_via_stream(contents, 0);
    sender.write_all(first.to_vec()).await;
    drop(sender);
    written.await?;
    let (mut sender, contents) = wit_stream::new();
    let written = file.append_via_stream(contents);
    sender.write_all(second.to_vec()).await;
    drop(sender);
    written.await?;
    Ok(read(&path).await?)
}

/// Writes to a file until it is refused, up to a number of KiB; the bytes that were written, and why it ended.
async fn fill(argument: &str) -> Answer {
    let (path, kibibytes) = pair(argument);
    let kibibytes: usize = kibibytes.parse()?;
    let file = create(&path).await?;
    let (mut sender, contents) = wit_stream::new();
    let ended = file.write_via_stream(contents, 0);
    let mut written = 0;
    while written < kibibytes && sender.write_all(vec![b'x'; 1 << 10]).await.is_empty() {
        written += 1;
    }
    drop(sender);
    Ok(match ended.await {
        Ok(()) => format!("{written} KiB"),
        Err(error) => format!("{written} KiB: {error:?}"),
    })
}

/// Makes a file longer without writing to it.
async fn resize(argument: &str) -> Answer {
    let (path, bytes) = pair(argument);
    let file = create(&path).await?;
    file.set_size(bytes.parse()?).await?;
    Ok(file.stat().await?.size.to_string())
}

/// Makes empty files, directories and links until it is refused; how many, and why it ended.
async fn entries(directory: &str) -> String {
    for number in 0..1_000 {
        let path = format!("{directory}/{number}");
        let made = match number % 3 {
            0 => create(&path).await.map(drop),
            1 => make_directory(&path).await,
            _ => link_first(directory, &path).await,
        };
        if let Err(error) = made {
            return format!("{number} entries: {error:?}");
        }
    }
    "1000 entries".into()
}

async fn make_directory(path: &str) -> Result<(), ErrorCode> {
    let (directory, path) = find(path)?;
    directory.create_directory_at(path).await
}

async fn link_first(directory: &str, path: &str) -> Result<(), ErrorCode> {
    let (from, first) = find(&format!("{directory}/0"))?;
    let (to, path) = find(path)?;
    from.link_at(PathFlags::empty(), first, &to, path).await
}

/// Makes directories within each other until it is refused; how many.
async fn nest(directory: &str) -> String {
    let mut path = directory.to_owned();
    for depth in 0..1_000 {
        path.push_str("/d");
        if make_directory(&path).await.is_err() {
            return depth.to_string();
        }
    }
    "1000".into()
}

/// Makes a symbolic link in the first directory, and reads through it.
async fn link(argument: &str) -> Answer {
    let (name, target) = pair(argument);
    let (directory, path) = preopens::get_directories().swap_remove(0);
    directory.symlink_at(target, name.clone()).await?;
    directory.stat_at(PathFlags::SYMLINK_FOLLOW, name.clone()).await?;
    Ok(read(&format!("{path}/{name}")).await?)
}

async fn remove(path: &str) -> Answer {
    let (directory, path) = find(path)?;
    directory.unlink_file_at(path).await?;
    Ok("removed".into())
}
