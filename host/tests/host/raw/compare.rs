//! The same table asked of others: plain hyper as it comes, and nginx and HAProxy in front of that, where
//! they are installed. `./just compare-http` prints what each did; nothing passes or fails.

use std::{
    convert::Infallible,
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
};

use super::{ask_all, case, host, http1, http2};

/// Longest wait for each thing that a server is asked for: those that hang are many.
const LONGEST: Duration = Duration::from_secs(2);

/// What the guest of these tests does, without a host.
async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let (parts, body) = request.into_parts();
    let text = match parts.uri.path() {
        "/hello" => "Hello, World!".into(),
        "/length" => body.collect().await?.to_bytes().len().to_string(),
        "/authority" => {
            let host = parts.headers.get("host").and_then(|host| host.to_str().ok());
            let authority = parts.uri.authority().map(http::uri::Authority::as_str);
            authority.or(host).unwrap_or("(none)").to_owned()
        }
        "/header" => {
            let values = parts.headers.get_all(parts.uri.query().unwrap_or_default()).iter();
            let values: Vec<_> =
                values.map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
            values.join(", ")
        }
        _ => {
            let mut response = Response::new(Full::from("nothing is here"));
            *response.status_mut() = http::StatusCode::NOT_FOUND;
            return Ok(response);
        }
    };
    Ok(Response::new(Full::from(text)))
}

/// Serves with hyper's defaults for as long as the process lives.
fn plain_hyper() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let builder = Builder::new(TokioExecutor::new());
                    let service = service_fn(answer);
                    // A client that speaks nonsense is what this is about.
                    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
                });
            }
            Ok::<_, Infallible>(())
        })
    });
    address
}

/// A server that is stopped when dropped.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Starts a program with a file of settings. None where it is not installed.
fn start(
    dir: &Path,
    program: &str,
    flags: &[&str],
    settings: &str,
    address: SocketAddr,
) -> Option<Program> {
    let file = dir.join(program);
    std::fs::write(&file, settings).unwrap();
    let mut command = Command::new(program);
    command.current_dir(dir).args(flags).arg(&file);
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).stdin(Stdio::null()).spawn();
    let program = Program(child.ok()?);
    let started = Instant::now();
    while TcpStream::connect(address).is_err() {
        if started.elapsed() > Duration::from_secs(10) {
            return None;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Some(program)
}

/// In the foreground, so that it ends with its process.
fn nginx(dir: &Path, behind: SocketAddr, listen: &str) -> Option<(SocketAddr, Program)> {
    let (address, dir_name) = (free(), dir.display());
    let settings = format!(
        "daemon off; master_process off; pid {dir_name}/pid; error_log {dir_name}/errors;
         events {{}}
         http {{
             access_log off; client_body_temp_path {dir_name}/bodies; proxy_temp_path {dir_name}/temp;
             fastcgi_temp_path {dir_name}/f; uwsgi_temp_path {dir_name}/u; scgi_temp_path {dir_name}/s;
             server {{
                 listen {address}{listen};
                 location / {{ proxy_pass http://{behind}; proxy_set_header Host $http_host; proxy_http_version 1.1; }}
             }}
         }}"
    );
    let program = start(dir, "nginx", &["-c"], &settings, address)?;
    Some((address, program))
}

fn haproxy(dir: &Path, behind: SocketAddr) -> Option<(SocketAddr, Program)> {
    let address = free();
    let settings = format!(
        "defaults\n mode http\n timeout client 5s\n timeout server 5s\n timeout connect 5s\n\
         listen all\n bind {address}\n server one {behind}\n"
    );
    let program = start(dir, "haproxy", &["-f"], &settings, address)?;
    Some((address, program))
}

/// A server's name, and what it did with each case: whether that is right, and in words.
type Column = (&'static str, Vec<(bool, String)>);

/// Prints a table; gives the cases in which the first column is worse than the second.
fn print(names: &[String], wanted: &[&str], columns: &[Column]) -> Vec<String> {
    let mut worse = Vec::new();
    println!(
        "{:<60} {:<44}",
        "",
        columns.iter().map(|(name, _)| format!("{name:<24}")).collect::<String>()
    );
    for (row, name) in names.iter().enumerate() {
        let cells: String = columns
            .iter()
            .map(|(_, seen)| {
                let (is_right, text) = &seen[row];
                format!("{}{text:<22} ", if *is_right { ' ' } else { '!' })
            })
            .collect();
        println!("{name:<60} {cells} {}", wanted[row]);
        if let [(_, ours), (_, plain), ..] = columns
            && !ours[row].0
            && plain[row].0
        {
            worse.push(name.clone());
        }
    }
    for (name, seen) in columns {
        let right = seen.iter().filter(|(is_right, _)| *is_right).count();
        println!("{name}: {right} of {} as the RFCs ask", seen.len());
    }
    worse
}

#[test]
#[ignore = "takes minutes, and prints rather than passes: ./just compare-http"]
fn others_are_asked_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let (host, plain) = (host(), plain_hyper());
    let folder = |name: &str| {
        let path = dir.path().join(name);
        std::fs::create_dir(&path).unwrap();
        path
    };
    let nginx1 = nginx(&folder("nginx1"), plain, "");
    let nginx2 = nginx(&folder("nginx2"), plain, " http2");
    let haproxy = haproxy(&folder("haproxy"), plain);
    let mut servers = vec![("tally", host.address, host.address), ("hyper", plain, plain)];
    if let (Some((first, _)), Some((second, _))) = (&nginx1, &nginx2) {
        servers.push(("nginx", *first, *second));
    }
    if let Some((address, _)) = &haproxy {
        servers.push(("haproxy", *address, *address));
    }

    let cases = http1::cases();
    let columns: Vec<Column> = servers
        .iter()
        .map(|(name, address, _)| {
            let ask = |case: &case::Case| {
                let seen = http1::observe(*address, case, usize::MAX, LONGEST);
                (case::is_met(case.wanted, &seen), seen.to_string())
            };
            (*name, ask_all(&cases, ask))
        })
        .collect();
    let names: Vec<String> = cases.iter().map(|case| case.name.clone()).collect();
    let wanted: Vec<&str> = cases.iter().map(|case| case.wanted).collect();
    let mut worse = print(&names, &wanted, &columns);

    let cases = http2::cases();
    let columns: Vec<Column> = servers
        .iter()
        .map(|(name, _, address)| {
            let ask = |case: &http2::Case| {
                let seen = http2::observe(*address, case, LONGEST);
                (http2::is_met(case.wanted, &seen), seen.to_string())
            };
            (*name, ask_all(&cases, ask))
        })
        .collect();
    let names: Vec<String> = cases.iter().map(|case| case.name.clone()).collect();
    let wanted: Vec<&str> = cases.iter().map(|case| case.wanted).collect();
    worse.extend(print(&names, &wanted, &columns));
    println!("worse than plain hyper: {worse:?}");
}
