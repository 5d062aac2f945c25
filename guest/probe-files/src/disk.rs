//! What it does with files, by the standard library and by `wasi:filesystem` 0.2.

use std::{fs, io::Write as _};

use probing::{Answer, Failure, pair};
use wasip2::filesystem::{preopens, types::PathFlags};

/// What is answered to a path.
pub fn answer(path: &str, argument: &str) -> Answer {
    match path {
        "/directories" => Ok(directories()),
        "/read" => Ok(fs::read_to_string(argument)?),
        "/list" => list(argument),
        "/write" => write(argument),
        "/fill" => fill(argument),
        "/resize" => resize(argument),
        "/entries" => entries(argument),
        "/nest" => nest(argument),
        "/link" => link(argument),
        "/remove" => Ok(fs::remove_file(argument).map(|()| "removed".into())?),
        path => match path.strip_prefix("/site/") {
            Some(file) => {
                fs::read_to_string(format!("/www/{file}")).map_err(|_| Failure::NoSuchPath)
            }
            None => Err(Failure::NoSuchPath),
        },
    }
}

/// The paths of the directories that it is given.
fn directories() -> String {
    preopens::get_directories().into_iter().map(|(_, path)| path + "\n").collect()
}

fn list(directory: &str) -> Answer {
    let names = fs::read_dir(directory)?
        .map(|entry| Ok(entry?.file_name().into_string().unwrap_or_default()));
    let mut names = names.collect::<std::io::Result<Vec<_>>>()?;
    names.sort();
    Ok(names.join(","))
}

/// Writes a text to a file, and reads it again.
fn write(argument: &str) -> Answer {
    let (path, text) = pair(argument);
    fs::write(&path, text)?;
    Ok(fs::read_to_string(path)?)
}

/// Writes to a file until it is refused, up to a number of KiB; the bytes that were written, and why it ended.
fn fill(argument: &str) -> Answer {
    let (path, kibibytes) = pair(argument);
    let kibibytes: usize = kibibytes.parse()?;
    let mut file = fs::File::create(path)?;
    for written in 0..kibibytes {
        if let Err(error) = file.write_all(&[b'x'; 1 << 10]) {
            return Ok(format!("{written} KiB: {error}"));
        }
    }
    Ok(format!("{kibibytes} KiB"))
}

/// Makes a file longer without writing to it.
fn resize(argument: &str) -> Answer {
    let (path, bytes) = pair(argument);
    fs::File::create(&path)?.set_len(bytes.parse()?)?;
    Ok(fs::metadata(path)?.len().to_string())
}

/// Makes empty files, directories and links until it is refused; how many, and why it ended.
fn entries(directory: &str) -> Answer {
    for number in 0..1_000 {
        let path = format!("{directory}/{number}");
        let made = match number % 3 {
            0 => fs::write(path, ""),
            1 => fs::create_dir(path),
            _ => fs::hard_link(format!("{directory}/0"), path),
        };
        if let Err(error) = made {
            return Ok(format!("{number} entries: {error}"));
        }
    }
    Ok("1000 entries".into())
}

/// Makes directories within each other until it is refused; how many.
fn nest(directory: &str) -> Answer {
    let mut path = directory.to_owned();
    for depth in 0..1_000 {
        path.push_str("/d");
        if fs::create_dir(&path).is_err() {
            return Ok(depth.to_string());
        }
    }
    Ok("1000".into())
}

/// Makes a symbolic link in the first directory, and reads through it.
fn link(argument: &str) -> Answer {
    let (name, target) = pair(argument);
    let (directory, path) = preopens::get_directories().swap_remove(0);
    directory.symlink_at(&target, &name)?;
    directory.stat_at(PathFlags::SYMLINK_FOLLOW, &name)?;
    Ok(fs::read_to_string(format!("{path}/{name}"))?)
}
