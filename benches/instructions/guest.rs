//! Inside: starts the servers, measures them in turn, prints the table.

use std::fmt::Write as _;
use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::client::{self, Client, Way};
use super::perf;

/// What the certificate stands for.
pub(crate) const NAME: &str = "bench.test";

const DIRECTORY: &str = "/dev/shm/bench";
const KIB: usize = 1024;
const MIB: usize = 1024 * 1024;
const ORIGIN_PORT: u16 = 18080;

/// The account of a task that sleeps is exact: how long until all do.
const SETTLES: Duration = Duration::from_millis(30);

/// A server under measurement; plain HTTP is on the port after its own.
struct Server {
    name: &'static str,
    port: u16,
    /// It is to hand TLS to the kernel.
    kernel: bool,
    process: Running,
}

/// A process that ends with this value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What is asked for, and what it is told by.
struct Case {
    name: &'static str,
    title: &'static str,
    path: &'static str,
    bytes: usize,
    requests: Requests,
    speaks: Speaks,
    /// The result is divided by this.
    units: f64,
}

/// How often something is asked for.
#[derive(Clone, Copy)]
enum Requests {
    /// So often on a connection that has served before: its handshake is not counted.
    Again(usize),
    /// On so many new connections.
    Anew(usize),
}

/// What the client speaks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Speaks {
    Https,
    Http,
    /// HTTP/2 over TLS.
    Http2,
}

const CASES: [Case; 20] = [
    long("static-10m", "static 10 MiB, per MiB", "/10m"),
    long("proxied-10m", "proxied 10 MiB, per MiB", "/origin/10m"),
    short("static-1k", "1 KiB keep-alive, per request", "/1k"),
    short(
        "proxied-1k",
        "1 KiB keep-alive proxied, per request",
        "/origin/1k",
    ),
    Case {
        requests: Requests::Anew(25),
        units: 25.0,
        ..short("connection", "new connection and 1 KiB", "/1k")
    },
    Case {
        speaks: Speaks::Http,
        ..long(
            "static-10m-plain",
            "static 10 MiB over plain HTTP, per MiB",
            "/10m",
        )
    },
    Case {
        speaks: Speaks::Http,
        ..long(
            "proxied-10m-plain",
            "proxied 10 MiB over plain HTTP, per MiB",
            "/origin/10m",
        )
    },
    Case {
        speaks: Speaks::Http,
        ..short(
            "static-1k-plain",
            "1 KiB keep-alive over plain HTTP, per request",
            "/1k",
        )
    },
    Case {
        speaks: Speaks::Http2,
        ..long("static-10m-http2", "static 10 MiB over HTTP/2, per MiB", "/10m")
    },
    Case {
        speaks: Speaks::Http2,
        ..long(
            "proxied-10m-http2",
            "proxied 10 MiB over HTTP/2, per MiB",
            "/origin/10m",
        )
    },
    Case {
        speaks: Speaks::Http2,
        ..short("static-1k-http2", "1 KiB over HTTP/2, per request", "/1k")
    },
    Case {
        speaks: Speaks::Http2,
        ..short(
            "proxied-1k-http2",
            "1 KiB proxied over HTTP/2, per request",
            "/origin/1k",
        )
    },
    // From which length on is a body worth the way into the kernel? With `--threshold 0` each of these
    // connections pays for it.
    once(
        "static-64k",
        "static 64 KiB on a new connection",
        "/64k",
        64 * KIB,
    ),
    once(
        "static-256k",
        "static 256 KiB on a new connection",
        "/256k",
        256 * KIB,
    ),
    once("static-1m", "static 1 MiB on a new connection", "/1m", MIB),
    once("static-4m", "static 4 MiB on a new connection", "/4m", 4 * MIB),
    once(
        "proxied-64k",
        "proxied 64 KiB on a new connection",
        "/origin/64k",
        64 * KIB,
    ),
    once(
        "proxied-256k",
        "proxied 256 KiB on a new connection",
        "/origin/256k",
        256 * KIB,
    ),
    once(
        "proxied-1m",
        "proxied 1 MiB on a new connection",
        "/origin/1m",
        MIB,
    ),
    once(
        "proxied-4m",
        "proxied 4 MiB on a new connection",
        "/origin/4m",
        4 * MIB,
    ),
];

const fn long(name: &'static str, title: &'static str, path: &'static str) -> Case {
    Case {
        name,
        title,
        path,
        bytes: 10 * MIB,
        requests: Requests::Again(5),
        speaks: Speaks::Https,
        units: 50.0,
    }
}

const fn short(name: &'static str, title: &'static str, path: &'static str) -> Case {
    Case {
        name,
        title,
        path,
        bytes: KIB,
        requests: Requests::Again(400),
        speaks: Speaks::Https,
        units: 400.0,
    }
}

const fn once(name: &'static str, title: &'static str, path: &'static str, bytes: usize) -> Case {
    Case {
        name,
        title,
        path,
        bytes,
        requests: Requests::Anew(8),
        speaks: Speaks::Https,
        units: 8.0,
    }
}

pub(crate) fn measure() {
    let rounds: usize = setting("ROUNDS").map_or(4, |rounds| rounds.parse().unwrap());
    let wanted = setting("CASES");
    let cases: Vec<&Case> = CASES
        .iter()
        .filter(|case| {
            wanted
                .as_ref()
                .is_none_or(|wanted| wanted.split(',').any(|name| name == case.name))
        })
        .collect();
    prepare();
    if records() {
        perf::prepare();
    }
    let _origin = start_nginx(
        "origin",
        &format!("server {{ listen 127.0.0.1:{ORIGIN_PORT}; root {DIRECTORY}/www; }}"),
        ORIGIN_PORT,
    );
    let servers = [
        atlas("Atlas, kernel TLS", 18443, true),
        atlas("Atlas, without", 18445, false),
        nginx("nginx, kernel TLS", 18447, true),
        nginx("nginx, without", 18449, false),
    ];
    let tls = client::tls(&Path::new(DIRECTORY).join("cert.pem"));
    let mut results = vec![vec![Vec::new(); servers.len()]; cases.len()];
    for round in 0..=rounds {
        for (row, case) in cases.iter().enumerate() {
            for (column, server) in servers.iter().enumerate() {
                let instructions = run(case, server, &tls) / case.units;
                if round > 0 {
                    results[row][column].push(instructions); // the first round warms up
                }
            }
        }
    }
    println!("{}", table(&cases, &servers, &mut results));
    println!("{}", overheads(&cases, &servers, &mut results));
    println!("kernel TLS, by the kernel's account:");
    print!("{}", fs::read_to_string("/proc/net/tls_stat").unwrap_or_default());
}

fn setting(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn records() -> bool {
    setting("PERF").is_some()
}

/// One measurement: instructions of the server.
fn run(case: &Case, server: &Server, tls: &Way) -> f64 {
    let connect = || match case.speaks {
        Speaks::Http => Client::connect(server.port + 1, &Way::Plain),
        Speaks::Https => Client::connect(server.port, tls),
        Speaks::Http2 => Client::connect_http2(server.port, tls),
    };
    let ask = |client: &mut Client| client.get(case.path, case.bytes);
    let anew = || ask(&mut connect());
    let taken_before = taken();
    let mut open = connect();
    ask(&mut open);
    std::thread::sleep(SETTLES);
    if case.speaks == Speaks::Https && case.bytes >= MIB {
        assert_eq!(
            taken() > taken_before,
            server.kernel,
            "{} and {}",
            server.name,
            case.title
        );
    }
    let perf = records().then(|| perf::Recording::start(case.name, server.name));
    let before = executed(server.process.0.id());
    match case.requests {
        Requests::Again(count) => (0..count).for_each(|_| ask(&mut open)),
        Requests::Anew(count) => (0..count).for_each(|_| anew()),
    }
    std::thread::sleep(SETTLES);
    drop(perf);
    (executed(server.process.0.id()) - before) as f64
}

/// Connections whose sending side the kernel has taken so far.
fn taken() -> u64 {
    let counters = fs::read_to_string("/proc/net/tls_stat").unwrap_or_default();
    let mut counted = counters.lines().filter_map(|line| line.strip_prefix("TlsTxSw"));
    counted.next().map_or(0, |count| count.trim().parse().unwrap())
}

/// Instructions all tasks of a process have executed, kernel included: with `-icount shift=0` a
/// nanosecond is one.
fn executed(process: u32) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).unwrap();
    tasks
        .flatten()
        .filter_map(|task| {
            let account = fs::read_to_string(task.path().join("schedstat")).ok()?;
            account.split(' ').next()?.parse::<u64>().ok()
        })
        .sum()
}

fn table(cases: &[&Case], servers: &[Server], results: &mut [Vec<Vec<f64>>]) -> String {
    let mut table = String::from("\n| instructions, medians |");
    for server in servers {
        write!(table, " {} |", server.name).unwrap();
    }
    table.push_str(" Atlas to nginx with kernel TLS | to nginx without |\n|---|");
    table.push_str(&"---:|".repeat(servers.len() + 2));
    for (case, row) in cases.iter().zip(results) {
        write!(table, "\n| {} |", case.title).unwrap();
        let medians: Vec<f64> = row.iter_mut().map(|column| median(column)).collect();
        for (value, column) in medians.iter().zip(row.iter()) {
            let spread = (column[column.len() - 1] - column[0]) / value * 100.0;
            write!(table, " {} ±{:.0} % |", thousands(*value), spread / 2.0).unwrap();
        }
        write!(
            table,
            " {:.2} | {:.2} |",
            medians[0] / medians[2],
            medians[0] / medians[3]
        )
        .unwrap();
    }
    table.push('\n');
    table
}

/// What TLS adds to plain HTTP, where both were measured; the results are sorted by then.
fn overheads(cases: &[&Case], servers: &[Server], results: &mut [Vec<Vec<f64>>]) -> String {
    let mut text = String::new();
    for (row, case) in cases.iter().enumerate() {
        let plain = format!("{}-plain", case.name);
        let Some(plain) = cases.iter().position(|case| case.name == plain) else {
            continue;
        };
        write!(text, "TLS over plain HTTP, {}:", case.title).unwrap();
        for (column, server) in servers.iter().enumerate() {
            let [tls, plain] = [row, plain].map(|row| median(&mut results[row][column]));
            write!(text, " {} +{:.0} %;", server.name, (tls / plain - 1.0) * 100.0).unwrap();
        }
        text.push('\n');
    }
    text
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() % 2 {
        0 => f64::midpoint(values[middle - 1], values[middle]),
        _ => values[middle],
    }
}

fn thousands(value: f64) -> String {
    format!("{:.1} k", value / 1e3)
}

// -- setting up ------------------------------------------------------------------------------

fn prepare() {
    let www = Path::new(DIRECTORY).join("www");
    fs::create_dir_all(&www).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new([NAME.to_owned()])
        .unwrap()
        .self_signed(&key)
        .unwrap();
    fs::write(Path::new(DIRECTORY).join("cert.pem"), certificate.pem()).unwrap();
    fs::write(Path::new(DIRECTORY).join("key.pem"), key.serialize_pem()).unwrap();
    let sizes = [
        ("1k", KIB),
        ("64k", 64 * KIB),
        ("256k", 256 * KIB),
        ("1m", MIB),
        ("4m", 4 * MIB),
        ("10m", 10 * MIB),
    ];
    for (name, size) in sizes {
        let bytes: Vec<u8> = (0..size).map(|at| u8::try_from(at * 31 % 251).unwrap()).collect();
        fs::write(www.join(name), bytes).unwrap();
    }
}

fn atlas(name: &'static str, port: u16, kernel: bool) -> Server {
    let file = format!("{DIRECTORY}/atlas-{port}.toml");
    let plain = port + 1;
    let threshold =
        setting("THRESHOLD").map_or_else(String::new, |bytes| format!("ktls_threshold = {bytes}\n"));
    fs::write(
        &file,
        format!(
            "workers = 1\n\
             [access_log]\nenabled = false\n\
             [[listen]]\naddress = \"127.0.0.1\"\nport = {port}\n\
             [[listen]]\naddress = \"127.0.0.1\"\nport = {plain}\ntls = false\n\
             [tls]\ncert = \"cert.pem\"\nkey = \"key.pem\"\nprefer_ktls = {kernel}\n{threshold}\
             [[route]]\nfiles = \"{DIRECTORY}/www\"\n\
             [[route]]\npath = \"/origin\"\nstrip_prefix = true\nupstream = \"origin\"\n\
             [upstream.origin]\nendpoints = [\"127.0.0.1:{ORIGIN_PORT}\"]\n"
        ),
    )
    .unwrap();
    let process = start(Command::new("/bin/atlas").args(["run", "-c", &file]), port);
    Server {
        name,
        port,
        kernel,
        process,
    }
}

fn nginx(name: &'static str, port: u16, kernel: bool) -> Server {
    let options = if kernel {
        "ssl_conf_command Options KTLS;"
    } else {
        ""
    };
    let plain = port + 1;
    let server = format!(
        "upstream app {{ server 127.0.0.1:{ORIGIN_PORT}; keepalive 64; keepalive_requests 100000000; }}
        server {{
            listen 127.0.0.1:{port} ssl http2;
            listen 127.0.0.1:{plain};
            ssl_certificate {DIRECTORY}/cert.pem;
            ssl_certificate_key {DIRECTORY}/key.pem;
            ssl_protocols TLSv1.2 TLSv1.3;
            {options}
            root {DIRECTORY}/www;
            location /origin/ {{
                proxy_pass http://app/;
                proxy_http_version 1.1;
                proxy_set_header Connection \"\";
                proxy_set_header Host $host;
                proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
                proxy_set_header X-Forwarded-Proto $scheme;
            }}
        }}"
    );
    Server {
        name,
        port,
        kernel,
        process: start_nginx(&format!("nginx-{port}"), &server, port),
    }
}

fn start_nginx(name: &str, server: &str, port: u16) -> Running {
    let file = format!("{DIRECTORY}/{name}.conf");
    fs::write(
        &file,
        format!(
            "user root root;
            daemon off;
            master_process off;
            pid {DIRECTORY}/{name}.pid;
            error_log {DIRECTORY}/{name}.log;
            events {{ worker_connections 1024; }}
            http {{
                access_log off;
                sendfile on;
                tcp_nopush on;
                keepalive_requests 100000000;
                client_body_temp_path {DIRECTORY}/{name}-body;
                proxy_temp_path {DIRECTORY}/{name}-proxy;
                fastcgi_temp_path {DIRECTORY}/{name}-fastcgi;
                uwsgi_temp_path {DIRECTORY}/{name}-uwsgi;
                scgi_temp_path {DIRECTORY}/{name}-scgi;
                {server}
            }}"
        ),
    )
    .unwrap();
    start(Command::new("/bin/nginx").args(["-c", &file]), port)
}

fn start(command: &mut Command, port: u16) -> Running {
    let process = Running(command.stdin(Stdio::null()).spawn().unwrap());
    for _ in 0..300 {
        if TcpStream::connect(("127.0.0.1", port)).is_ok() {
            return process;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("{command:?} does not listen on {port}");
}
