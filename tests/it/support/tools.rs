//! Programs of the machine that play clients and origins: curl, openssl, nginx and others.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::denied::{self, Denied};
use super::{free_port, wait_until};

/// Whether this program is there. Says so when not; fails when `ATLAS_REQUIRE` names it.
pub fn has(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|folder: PathBuf| folder.join(program).is_file());
    if !found {
        let required = std::env::var("ATLAS_REQUIRE").unwrap_or_default();
        assert!(
            !required.split(',').any(|name| name.trim() == program),
            "ATLAS_REQUIRE names {program}, which this machine does not have"
        );
        eprintln!("skipped: this machine has no {program}");
    }
    found
}

/// Whether a moment lasts as long here as elsewhere. In a guest of `tests/vm` the clients have to share
/// one slow CPU with Atlas, and its clock ticks every 10 ms: what is measured there is the guest.
pub fn measures_time() -> bool {
    !is_guest()
}

/// Whether this is a guest of `tests/vm`, too slow for what needs time or much of a machine.
pub fn is_guest() -> bool {
    let is_guest = std::env::var_os("KTLS_VM").is_some();
    if is_guest {
        eprintln!("skipped: a guest is too slow for it");
    }
    is_guest
}

/// How long a thread (its folder in /proc) has been ready to run so far while something else had the core.
/// A thread that is ready and has not got it yet is not counted for that before it has.
pub fn held_up(thread: &Path) -> Duration {
    let text = std::fs::read_to_string(thread.join("schedstat")).expect("the kernel counts it");
    let nanoseconds = text.split_whitespace().nth(1);
    Duration::from_nanos(
        nanoseconds
            .and_then(|number| number.parse().ok())
            .expect("it is a number"),
    )
}

/// How long a program may take; none of the tests' takes more than seconds, but in a guest that is starved.
const PROGRAM_TIMEOUT: Duration = Duration::from_secs(300);

/// Runs a program to its end, with this on its standard input.
pub fn command(program: &str, arguments: &[&str], input: &[u8]) -> Output {
    command_without(&[], program, arguments, input)
}

/// As [`command`], without some system calls.
pub fn command_without(denied: &[Denied], program: &str, arguments: &[&str], input: &[u8]) -> Output {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = denied::spawn(command, denied);
    let mut stdin = child.stdin.take().expect("it is piped");
    let input = input.to_vec();
    // A program that stops reading early is fine.
    std::thread::spawn(move || drop(stdin.write_all(&input)));
    let stdout = drain(child.stdout.take().expect("it is piped"));
    let stderr = drain(child.stderr.take().expect("it is piped"));
    let started = Instant::now();
    let status = loop {
        match child.try_wait().expect("it is our child") {
            Some(status) => break status,
            None if started.elapsed() > PROGRAM_TIMEOUT => {
                let _ = child.kill();
                panic!("{program} {arguments:?} did not end");
            }
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    let read = |stream: JoinHandle<Vec<u8>>| stream.join().expect("reading does not panic");
    Output {
        status,
        stdout: read(stdout),
        stderr: read(stderr),
    }
}

fn drain(mut stream: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut all = Vec::new();
        let _ = stream.read_to_end(&mut all);
        all
    })
}

/// A real nginx on a free port, with this inside `server { … }`; `{folder}` is its folder.
pub struct Nginx {
    process: Child,
    pub folder: tempfile::TempDir,
    pub address: String,
}

pub fn nginx(server: &str) -> Nginx {
    let folder = tempfile::tempdir().expect("there is room for files");
    // nginx drops root for `nobody`, who must be able to enter.
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .expect("the folder is ours");
    let address = format!("127.0.0.1:{}", free_port());
    let text = configuration(&address, folder.path(), server);
    let file = folder.path().join("nginx.conf");
    std::fs::write(&file, text).expect("the folder is writable");
    let program = ["/usr/sbin/nginx", "/usr/bin/nginx", "/sbin/nginx"]
        .into_iter()
        .find(|path| Path::new(path).exists())
        .unwrap_or("nginx");
    let process = Command::new(program)
        .arg("-p")
        .arg(folder.path())
        .arg("-c")
        .arg(&file)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("nginx starts");
    wait_until("nginx listens", || std::net::TcpStream::connect(&address).ok());
    Nginx {
        process,
        folder,
        address,
    }
}

fn configuration(address: &str, folder: &Path, server: &str) -> String {
    let folder_text = folder.display().to_string();
    let text = "
        daemon off;
        worker_processes 1;
        pid {folder}/nginx.pid;
        error_log {folder}/error.log;
        events { worker_connections 1024; }
        http {
            access_log off;
            client_body_temp_path {folder}/body;
            proxy_temp_path {folder}/proxy;
            fastcgi_temp_path {folder}/fastcgi;
            uwsgi_temp_path {folder}/uwsgi;
            scgi_temp_path {folder}/scgi;
            client_max_body_size 0;
            server {
                listen {address};
                root {folder};
                {server}
            }
        }";
    text.replace("{server}", server)
        .replace("{address}", address)
        .replace("{folder}", &folder_text)
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // TERM, so that the master takes its worker along.
        super::atlas::signal(&self.process, rustix::process::Signal::TERM);
        let _ = self.process.wait();
    }
}
