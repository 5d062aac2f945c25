//! Files of guests: directories that the configuration maps, and a directory for one request.

use std::{
    os::unix::fs::symlink,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use crate::{
    client::{Client, Response, get},
    command_line::fails_to_serve,
    host::{Host, guest},
};

/// A guest that uses files and sockets.
#[derive(Clone, Copy)]
pub struct Probe {
    name: &'static str,
    /// The version of WASI whose interfaces it takes.
    interfaces: &'static str,
}

impl Probe {
    pub const OF_0_2: Self = Self { name: "probe-files", interfaces: "0.2" };
    pub const OF_0_3: Self = Self { name: "probe-files-p3", interfaces: "0.3" };
    /// As the standard library of a guest of 0.3 has it.
    pub const OF_0_3_BY_0_2: Self = Self { name: "probe-files-p3", interfaces: "0.2" };

    /// What it takes of a guest's configuration.
    fn configured(self) -> String {
        let (file, interfaces) = (guest(self.name), self.interfaces);
        format!("guest = \"{}\"\nenv = {{ INTERFACES = \"{interfaces}\" }}\n", file.display())
    }

    /// What it takes on the command line besides its file.
    fn flags(self) -> [String; 2] {
        ["--env".into(), format!("INTERFACES={}", self.interfaces)]
    }

    /// Serves it, with further flags.
    pub fn serve(self, flags: &[&str]) -> Host {
        Host::start_with(self.name, |command| {
            command.args(["--store", "memory:"]).args(self.flags()).args(flags);
        })
    }
}

/// The tests of each probe, in a module of its own.
#[macro_export]
macro_rules! of_each_probe {
    ($($test:ident)*) => {
        $crate::of_each_probe! { @module of_0_2 OF_0_2 $($test)* }
        $crate::of_each_probe! { @module of_0_3 OF_0_3 $($test)* }
        $crate::of_each_probe! { @module of_0_3_by_0_2 OF_0_3_BY_0_2 $($test)* }
    };
    (@module $module:ident $probe:ident $($test:ident)*) => {
        mod $module {
            $(
                #[tokio::test]
                async fn $test() {
                    super::$test($crate::files::Probe::$probe).await;
                }
            )*
        }
    };
}

of_each_probe! {
    a_mapped_directory_is_read_and_never_written_to_or_left
    a_guest_has_no_files_unless_they_are_its_own
    a_scratch_directory_is_one_requests_own_and_bounded
    a_request_opens_and_makes_no_more_files_than_it_may
    guests_hold_a_quarter_of_the_files_that_the_process_may_open
    a_file_that_hangs_keeps_nobody_waiting_but_its_reader_and_that_not_for_long
    a_directory_that_is_not_there_is_told_and_the_guest_fails_when_it_asks_for_it
}

/// A folder with a site, and a file beside it.
fn site(dir: &Path) {
    std::fs::create_dir_all(dir.join("site/inner")).unwrap();
    std::fs::write(dir.join("secret"), "planted").unwrap();
    std::fs::write(dir.join("site/index.html"), "welcome").unwrap();
    std::fs::write(dir.join("site/inner/page"), "a page").unwrap();
    symlink("inner/page", dir.join("site/within")).unwrap();
    symlink("../secret", dir.join("site/out")).unwrap();
    symlink(dir.join("secret"), dir.join("site/absolute")).unwrap();
    symlink("..", dir.join("site/up")).unwrap();
}

/// Serves the probe with files, in a folder with a site and a place for scratch directories.
fn host(probe: Probe, config: &str) -> Host {
    let dir = tempfile::tempdir().unwrap();
    site(dir.path());
    let config = format!("store = \"memory:\"\n{}{config}", probe.configured());
    Host::start_configured(dir, &config)
}

#[track_caller]
fn refused(response: &Response) {
    assert_eq!(response.status, 500, "{response:?}");
    assert!(!response.text().contains("planted"), "{response:?}");
    assert_eq!(response.headers["content-type"], "text/plain; charset=utf-8", "by the guest");
}

pub async fn a_mapped_directory_is_read_and_never_written_to_or_left(probe: Probe) {
    let host = host(probe, "files = [\"/www=site\"]\n");
    let mut client = Client::connect(host.address).await;
    assert_eq!(client.get("/site/index.html").await.text(), "welcome");
    assert_eq!(client.get("/site/inner/page").await.text(), "a page");
    assert_eq!(client.get("/site/within").await.text(), "a page", "a link that stays within");
    assert_eq!(client.get("/site/nothing").await.status, 404);
    assert_eq!(client.get("/directories").await.text(), "/www\n");
    assert_eq!(client.get("/list?/www/inner").await.text(), "page");
    for path in [
        "/www/out",
        "/www/absolute",
        "/www/up/secret",
        "/www/../secret",
        "/www/inner/../../secret",
        "/secret",
        "secret",
        "/etc/passwd",
    ] {
        refused(&client.get(&format!("/read?{path}")).await);
    }
    for target in [
        "/write?/www/new=text",
        "/write?/www/index.html=text",
        "/fill?/www/new=1",
        "/resize?/www/index.html=0",
        "/entries?/www",
        "/link?new=index.html",
        "/remove?/www/index.html",
    ] {
        let response = client.get(target).await;
        let made = response.status == 200 && !response.text().starts_with("0 entries");
        assert!(!made, "{target}: {response:?}");
    }
    let mut names: Vec<_> = std::fs::read_dir(host.dir().join("site")).unwrap().collect();
    names.sort_by_key(|entry| entry.as_ref().unwrap().file_name());
    assert_eq!(names.len(), 6, "{names:?}");
    assert_eq!(client.get("/site/index.html").await.text(), "welcome");
    // What is exchanged is found by the next request.
    std::fs::rename(host.dir().join("site"), host.dir().join("before")).unwrap();
    std::fs::create_dir(host.dir().join("site")).unwrap();
    std::fs::write(host.dir().join("site/index.html"), "another").unwrap();
    assert_eq!(client.get("/site/index.html").await.text(), "another");
}

pub async fn a_guest_has_no_files_unless_they_are_its_own(probe: Probe) {
    let dir = tempfile::tempdir().unwrap();
    site(dir.path());
    let probe = probe.configured();
    let host = Host::start_configured(
        dir,
        &format!(
            "store = \"memory:\"\nfiles = [\"/www=site\"]\nscratch = \"1MiB\"\n{probe}\
             [[route]]\nname = \"other\"\nhost = \"other\"\n{probe}"
        ),
    );
    let mut client = Client::connect(host.address).await;
    assert_eq!(client.get("/directories").await.text(), "/www\n/tmp\n");
    let mut request = client.request(http::Method::GET, "/directories");
    request.headers_mut().insert("host", "other".parse().unwrap());
    assert_eq!(client.try_send(request).await.unwrap().text(), "");
}

pub async fn a_scratch_directory_is_one_requests_own_and_bounded(probe: Probe) {
    let dir = tempfile::tempdir().unwrap();
    let temporary = tempfile::tempdir().unwrap();
    site(dir.path());
    let host = Host::start_with(probe.name, |command| {
        command.args(["--store", "memory:", "--scratch", "64KiB"]).args(probe.flags());
        command.env("TMPDIR", temporary.path());
    });
    let mut client = Client::connect(host.address).await;
    assert_eq!(client.get("/write?/tmp/a=text").await.text(), "text");
    assert_eq!(client.get("/list?/tmp").await.text(), "", "another request's");
    assert_eq!(client.get("/fill?/tmp/a=32").await.text(), "32 KiB");
    // What a file itself counts for is not left for its contents.
    let full = client.get("/fill?/tmp/a=1000").await;
    assert!(full.text().starts_with("60 KiB: "), "{full:?}");
    let full = client.get("/entries?/tmp").await;
    assert!(full.text().starts_with("16 entries: "), "{full:?}");
    refused(&client.get("/resize?/tmp/a=1000000").await);
    assert_eq!(client.get("/resize?/tmp/a=50000").await.text(), "50000");
    for target in ["/etc/passwd", "../../etc/passwd", "/proc/self/environ"] {
        refused(&client.get(&format!("/link?a={target}")).await);
    }
    let nested = client.get("/nest?/tmp").await;
    assert_eq!(nested.text(), "16", "{nested:?}");
    // Nothing is left, also not of requests that were given up.
    let started = Instant::now();
    let left = || std::fs::read_dir(temporary.path()).unwrap().count();
    while left() > 0 {
        assert!(started.elapsed() < Duration::from_secs(60), "{} directories are left", left());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub async fn a_request_opens_and_makes_no_more_files_than_it_may(probe: Probe) {
    let temporary = tempfile::tempdir().unwrap();
    let host = Host::start_with(probe.name, |command| {
        command.args(["--store", "memory:", "--scratch", "64MiB"]).args(probe.flags());
        command.env("TMPDIR", temporary.path());
    });
    let mut client = Client::connect(host.address).await;
    // The directory itself is one of 200.
    for _ in 0..2 {
        let full = client.get("/entries?/tmp").await;
        assert!(full.text().starts_with("199 entries: "), "{full:?}");
        assert_eq!(client.get("/nest?/tmp").await.text(), "199");
    }
    let started = Instant::now();
    while std::fs::read_dir(temporary.path()).unwrap().count() > 0 {
        assert!(started.elapsed() < Duration::from_secs(60), "directories are left");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub async fn guests_hold_a_quarter_of_the_files_that_the_process_may_open(probe: Probe) {
    let [env, interfaces] = probe.flags();
    let flags = ["--scratch", "64MiB", "--workers", "1", &env, &interfaces];
    let host = Host::start_limited("-n 400", probe.name, "memory:", &flags);
    let mut client = Client::connect(host.address).await;
    for _ in 0..2 {
        let full = client.get("/entries?/tmp").await;
        assert!(full.text().starts_with("99 entries: "), "{full:?}");
    }
    assert_eq!(client.get("/write?/tmp/a=text").await.text(), "text");
}

/// A pipe that nobody writes to is a file on a disk that hangs.
pub async fn a_file_that_hangs_keeps_nobody_waiting_but_its_reader_and_that_not_for_long(
    probe: Probe,
) {
    let host = host(probe, "files = [\"/www=site\"]\nworkers = 1\nwall-limit = \"500ms\"\n");
    let pipe = host.dir().join("site/pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let address = host.address;
    let reading = tokio::spawn(async move { get(address, "/read?/www/pipe").await });
    let mut others = 0;
    while !reading.is_finished() {
        assert_eq!(get(address, "/site/index.html").await.text(), "welcome");
        others += 1;
    }
    assert!(others > 0, "the one worker serves others meanwhile");
    reading.await.unwrap().problem(504, "wall_limit");
    // Whoever opened it for reading may go.
    drop(std::fs::OpenOptions::new().read(true).write(true).open(pipe).unwrap());
}

#[test]
fn files_that_cannot_be_are_explained() {
    let dir = tempfile::tempdir().unwrap();
    let probe = guest("probe-files");
    let probe = probe.to_str().unwrap();
    for (flags, part) in [
        (["--files", "www=/srv"], "/GUEST/PATH=DIRECTORY"),
        (["--files", "/srv"], "/GUEST/PATH=DIRECTORY"),
        (["--scratch", "0"], "scratch"),
        (["--tcp", "http://a"], "tcp: "),
    ] {
        let error =
            fails_to_serve(dir.path(), &[&["--store", "memory:", probe], &flags[..]].concat());
        assert!(error.contains(part), "{error}");
    }
}

pub async fn a_directory_that_is_not_there_is_told_and_the_guest_fails_when_it_asks_for_it(
    probe: Probe,
) {
    let host = host(probe, "files = [\"/www=nowhere\"]\n");
    host.wait_for_log("the directory nowhere of its files cannot be read");
    let mut client = Client::connect(host.address).await;
    client.get("/site/index.html").await.problem(500, "trap");
    host.wait_for_log("the directory nowhere cannot be opened");
    std::fs::rename(host.dir().join("site"), host.dir().join("nowhere")).unwrap();
    assert_eq!(client.get("/site/index.html").await.text(), "welcome");
}
