//! Atlas, and the origin it forwards to.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustls::{ClientConfig, RootCertStore};

/// What the certificate stands for.
pub(crate) const NAME: &str = "bench.test";

/// A process that ends with this value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// nginx on all of 127.0.0.0/8: as many endpoints as are wanted.
pub(crate) struct Origin {
    port: u16,
    _process: Running,
}

impl Origin {
    pub(crate) fn start(folder: &Path, core: usize) -> Self {
        let port = free_port();
        fs::create_dir(folder.join("www")).unwrap();
        fs::write(folder.join("www/1k"), [b'x'; 1024]).unwrap();
        let folder = folder.display();
        let paths = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
        let paths = paths
            .map(|name| format!("{name}_temp_path {folder}/{name};"))
            .join("\n");
        let text = format!(
            "user root root;
            daemon off;
            master_process off;
            pid {folder}/nginx.pid;
            error_log {folder}/nginx.log;
            events {{ worker_connections 16384; }}
            http {{
                access_log off;
                keepalive_requests 1000000000;
                keepalive_timeout 1h;
                {paths}
                server {{ listen {port} backlog=4096; root {folder}/www; }}
            }}"
        );
        let file = format!("{folder}/nginx.conf");
        fs::write(&file, text).unwrap();
        let process = start("nginx", &["-c", &file], core, port);
        Self {
            port,
            _process: process,
        }
    }

    pub(crate) fn endpoint(&self, index: usize) -> SocketAddr {
        let [a, b] = [index / 250, index % 250 + 1].map(|part| u8::try_from(part).unwrap());
        (Ipv4Addr::new(127, 1, a, b), self.port).into()
    }
}

pub(crate) struct Atlas {
    pub(crate) port: u16,
    pub(crate) tls: Arc<ClientConfig>,
    process: Running,
}

impl Atlas {
    pub(crate) fn start(binary: &str, folder: &Path, origin: &Origin, cases: &[usize], core: usize) -> Self {
        let port = free_port();
        let tls = certificate(folder);
        let mut text = format!(
            "workers = 1\n\
             [access_log]\nenabled = false\n\
             [listen]\naddress = \"127.0.0.1\"\nport = {port}\n\
             [tls]\ncert = \"cert.pem\"\nkey = \"key.pem\"\n"
        );
        for endpoints in cases {
            let all: Vec<_> = (0..*endpoints)
                .map(|index| origin.endpoint(index).to_string())
                .collect();
            text.push_str(&format!(
                "[[route]]\npath = \"/endpoints-{endpoints}\"\nstrip_prefix = true\nupstream = \"of-{endpoints}\"\n\
                 [upstream.of-{endpoints}]\nbalance = \"round_robin\"\nendpoints = {all:?}\n"
            ));
        }
        let file = folder.join("atlas.toml");
        fs::write(&file, text).unwrap();
        let process = start(binary, &["run", "-c", file.to_str().unwrap()], core, port);
        Self { port, tls, process }
    }

    /// Seconds its threads have had.
    pub(crate) fn cpu(&self) -> f64 {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.process.0.id())).unwrap();
        let nanoseconds: u64 = tasks
            .flatten()
            .map(|task| {
                let account = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
                account.split(' ').next().unwrap().parse().unwrap_or(0)
            })
            .sum();
        nanoseconds as f64 / 1e9
    }
}

fn certificate(folder: &Path) -> Arc<ClientConfig> {
    let key = rcgen::KeyPair::generate().unwrap();
    let names = rcgen::CertificateParams::new([NAME.to_owned()]).unwrap();
    let certificate = names.self_signed(&key).unwrap();
    fs::write(folder.join("cert.pem"), certificate.pem()).unwrap();
    fs::write(folder.join("key.pem"), key.serialize_pem()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(certificate.der().clone()).unwrap();
    let config = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap().port()
}

fn start(program: &str, arguments: &[&str], core: usize, port: u16) -> Running {
    let child = Command::new("taskset")
        .args(["-c", &core.to_string(), program])
        .args(arguments)
        .env(
            "PATH",
            format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default()),
        )
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .expect("there is no taskset: install Debian's package util-linux");
    let process = Running(child);
    for _ in 0..200 {
        if TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return process;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("{program} does not listen on {port}");
}
