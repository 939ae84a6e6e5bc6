//! The built binary, started with a configuration of the test's own on free loopback ports.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::certs::{Leaf, ca, cert};
use super::client::{Answer, Connection, Tls};
use super::denied::{self, Denied};
use super::origin::Origin;
use super::{Share, carrier, free_port, held_up, wait_until};

/// The drivers a worker can run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// io_uring where this machine has it.
    Auto,
    Epoll,
}

/// Runs a test on each driver, one after the other.
pub fn on_both_drivers(test: impl Fn(Driver)) {
    for driver in [Driver::Auto, Driver::Epoll] {
        eprintln!("driver: {driver:?}");
        test(driver);
    }
}

/// Starts describing an Atlas.
pub fn atlas() -> Builder {
    Builder {
        folder: tempfile::tempdir().expect("there is room for files"),
        top: String::new(),
        listeners: Vec::new(),
        names: Vec::new(),
        certificates: Vec::new(),
        tls_lines: String::new(),
        text: String::new(),
        expected: Vec::new(),
        driver: Driver::Auto,
        before: Vec::new(),
        denied: Vec::new(),
        log_format: "json",
    }
}

/// What an Atlas shall be.
pub struct Builder {
    folder: tempfile::TempDir,
    top: String,
    listeners: Vec<Listener>,
    names: Vec<String>,
    certificates: Vec<Leaf>,
    tls_lines: String,
    text: String,
    expected: Vec<String>,
    driver: Driver,
    before: Vec<String>,
    denied: Vec<Denied>,
    log_format: &'static str,
}

struct Listener {
    port: u16,
    tls: bool,
    lines: String,
}

impl Builder {
    /// A listener with TLS, and a certificate of the tests' authority for these names.
    pub fn listens_tls(mut self, name: &str) -> Self {
        if !self.names.iter().any(|known| known == name) {
            self.names.push(name.to_owned());
            self.certificates.push(cert(&[name]));
        }
        self.listener(true, "")
    }

    /// A listener without TLS.
    pub fn listens_plain(self) -> Self {
        self.listener(false, "")
    }

    /// A listener with TLS for `a.test`, or one without.
    pub fn listens(self, tls: bool) -> Self {
        match tls {
            true => self.listens_tls("a.test"),
            false => self.listens_plain(),
        }
    }

    /// A listener with more lines.
    pub fn listener(mut self, tls: bool, lines: &str) -> Self {
        self.listeners.push(Listener {
            port: free_port(),
            tls,
            lines: lines.to_owned(),
        });
        self
    }

    /// One more certificate; the first is the default.
    pub fn certificate(mut self, name: &str, leaf: Leaf) -> Self {
        self.names.push(name.to_owned());
        self.certificates.push(leaf);
        self
    }

    /// Lines of `[tls]`.
    pub fn tls_lines(mut self, lines: &str) -> Self {
        self.tls_lines.push_str(lines);
        self.tls_lines.push('\n');
        self
    }

    /// Lines before the first table.
    pub fn top(mut self, lines: &str) -> Self {
        self.top.push_str(lines);
        self.top.push('\n');
        self
    }

    /// Everything goes to this origin.
    pub fn forwards_to(self, origin: &Origin) -> Self {
        self.forwards_to_with(origin, "")
    }

    /// Everything goes to this origin; the lines are of its upstream.
    pub fn forwards_to_with(self, origin: &Origin, lines: &str) -> Self {
        let endpoint = origin.address().to_owned();
        self.text("[[route]]\nupstream = \"app\"")
            .upstream("app", &[&endpoint], lines)
    }

    /// An upstream.
    pub fn upstream(self, name: &str, endpoints: &[&str], lines: &str) -> Self {
        let lines = carrier::in_upstream(lines);
        let text = format!("[upstream.{name}]\nendpoints = {endpoints:?}\n{lines}");
        self.text(&text)
    }

    /// More of the configuration; `{folder}` is Atlas's own folder.
    pub fn text(mut self, text: &str) -> Self {
        self.text.push_str(text);
        self.text.push('\n');
        self
    }

    /// Puts a file into Atlas's own folder.
    pub fn file(self, path: &str, content: impl AsRef<[u8]>) -> Self {
        let path = self.folder.path().join(path);
        std::fs::create_dir_all(path.parent().expect("it is in the folder")).expect("the folder is writable");
        std::fs::write(path, content).expect("the folder is writable");
        self
    }

    /// Atlas's own folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A warning or an error that this test provokes.
    pub fn expects_log(mut self, part: &str) -> Self {
        self.expected.push(part.to_owned());
        self
    }

    pub fn driver(mut self, driver: Driver) -> Self {
        self.driver = driver;
        self
    }

    /// Starts Atlas by way of another program: `prlimit --nofile=64`.
    pub fn by_way_of(mut self, words: &[&str]) -> Self {
        self.before.extend(words.iter().map(|word| (*word).to_owned()));
        self
    }

    /// Lets the kernel answer EPERM to a system call, as a container's seccomp profile does.
    pub fn without_system_call(mut self, number: i64) -> Self {
        self.denied.push(Denied::call(number));
        self
    }

    /// Lets the kernel answer this when a socket is to be given its TLS.
    pub fn without_kernel_tls(mut self, error: Errno) -> Self {
        self.denied.push(Denied::kernel_tls(error));
        self
    }

    /// The access log in this format.
    pub fn log_format(mut self, format: &'static str) -> Self {
        self.log_format = format;
        self
    }

    /// Writes the configuration; its path. `start` does it too.
    pub fn write(&mut self, admin: u16) -> PathBuf {
        let file = self.folder.path().join("atlas.toml");
        std::fs::write(&file, self.configuration(admin)).expect("the folder is writable");
        file
    }

    fn configuration(&self, admin: u16) -> String {
        let folder = self.folder.path();
        let mut text = self.top.clone();
        for Listener { port, tls, lines } in &self.listeners {
            text.push_str("\n[[listen]]\n");
            if !lines.contains("address") {
                text.push_str("address = \"127.0.0.1\"\n");
            }
            if !lines.contains("unix:") {
                text.push_str(&format!("port = {port}\n"));
            }
            if !tls {
                text.push_str("tls = false\n");
            }
            text.push_str(lines);
        }
        for (at, leaf) in self.certificates.iter().enumerate() {
            let (cert, key) = leaf.write(folder, &format!("leaf{at}"));
            let table = if at == 0 {
                "\n[tls]\n"
            } else {
                "\n[[tls.certificate]]\n"
            };
            text.push_str(&format!("{table}cert = {cert:?}\nkey = {key:?}\n"));
            if at == 0 {
                text.push_str(&self.tls_lines);
                if !self.tls_lines.contains("ktls") {
                    text.push_str(carrier::lines());
                }
            }
        }
        text.push_str(&format!(
            "\n{}\n[admin]\naddress = \"127.0.0.1:{admin}\"\n",
            self.text
        ));
        if !self.text.contains("[access_log]") {
            let path = folder.join("access.log");
            text.push_str(&format!(
                "[access_log]\nformat = {:?}\npath = {path:?}\n",
                self.log_format
            ));
        }
        text.replace("{folder}", &folder.display().to_string())
    }

    /// Starts Atlas and waits until it is ready.
    pub fn start(self) -> Atlas {
        let atlas = self.launch();
        wait_until("Atlas is ready", || {
            if let Some(status) = atlas.exit_status() {
                panic!(
                    "Atlas ended with {status} before it was ready:\n{}",
                    atlas.log().join("\n")
                );
            }
            atlas.admin("/-/ready").filter(|answer| answer.status == 200)
        });
        atlas
    }

    /// Starts Atlas without waiting for anything.
    pub fn launch(mut self) -> Atlas {
        let share = Share::take();
        let admin = free_port();
        let file = self.write(admin);
        let mut words = self.before.clone();
        words.extend([
            env!("CARGO_BIN_EXE_atlas").to_owned(),
            "run".to_owned(),
            "-c".to_owned(),
        ]);
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .arg(&file)
            .env("RUST_BACKTRACE", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if self.driver == Driver::Epoll {
            command.env("ATLAS_DRIVER", "epoll");
        }
        let mut process = denied::spawn(command, &self.denied);
        let log = gather(process.stderr.take().expect("it is piped"));
        let output = gather(process.stdout.take().expect("it is piped"));
        Atlas {
            built: self,
            process: Mutex::new(process),
            log,
            output,
            admin,
            _share: share,
        }
    }
}

fn gather(stream: impl std::io::Read + Send + 'static) -> Arc<Mutex<Vec<String>>> {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let shared = lines.clone();
    thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            shared.lock().expect("no holder panics").push(line);
        }
    });
    lines
}

/// Sends a signal.
pub fn signal(process: &Child, signal: Signal) {
    let pid = Pid::from_child(process);
    kill_process(pid, signal).expect("the process is there");
}

/// Of an Atlas that ends. Its log's thread has a second for the last records and may not be let run in it; tests
/// that look for records fail without them.
const EXCUSED: &str = "the last access log records could not be written";

/// An Atlas that runs. When dropped it is told to drain, and its log is searched for what the
/// test did not expect.
pub struct Atlas {
    built: Builder,
    process: Mutex<Child>,
    log: Arc<Mutex<Vec<String>>>,
    output: Arc<Mutex<Vec<String>>>,
    admin: u16,
    _share: Share,
}

impl Atlas {
    /// The first listener.
    pub fn address(&self) -> SocketAddr {
        self.address_of(0)
    }

    /// One of the listeners, in the order they were described.
    pub fn address_of(&self, listener: usize) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.built.listeners[listener].port))
    }

    /// Whether a listener speaks TLS.
    pub fn is_tls(&self, listener: usize) -> bool {
        self.built.listeners[listener].tls
    }

    pub fn folder(&self) -> &Path {
        self.built.folder.path()
    }

    /// A URL on the first listener.
    pub fn url(&self, path: &str) -> String {
        let scheme = if self.built.listeners[0].tls {
            "https"
        } else {
            "http"
        };
        let name = self.built.names.first().map_or("127.0.0.1", String::as_str);
        format!("{scheme}://{name}:{}{path}", self.address().port())
    }

    /// TLS as its clients speak it.
    pub fn tls(&self) -> Tls {
        Tls::to(&self.built.names[0])
    }

    /// A connection to the first listener.
    pub fn connect(&self) -> Connection {
        self.connect_to(0)
    }

    /// A connection to one of the listeners.
    pub fn connect_to(&self, listener: usize) -> Connection {
        self.try_connect_to(listener).expect("Atlas accepts")
    }

    pub fn try_connect_to(&self, listener: usize) -> std::io::Result<Connection> {
        let address = self.address_of(listener);
        match self.built.listeners[listener].tls {
            true => Connection::tls(address, &self.tls()),
            false => Connection::plain(address),
        }
    }

    /// `GET path` on a connection of its own.
    pub fn get(&self, path: &str) -> Answer {
        self.connect().get(path)
    }

    /// What Atlas answers to these bytes, on a connection of its own.
    pub fn send(&self, bytes: impl AsRef<[u8]>) -> Answer {
        self.connect().send(bytes).answer()
    }

    /// `GET path` on the admin's listener, if it answers.
    pub fn admin(&self, path: &str) -> Option<Answer> {
        let mut connection = Connection::plain(([127, 0, 0, 1], self.admin).into()).ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n");
        connection.try_send(request).ok()?;
        connection.try_answer().ok()
    }

    /// Everything `/metrics` says.
    pub fn metrics(&self) -> String {
        self.admin("/metrics").expect("metrics are served").text()
    }

    /// The sum of all samples of this name whose labels hold all of `labels`.
    pub fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        self.metrics()
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.rsplit_once(' '))
            .filter(|(sample, _)| sample.split('{').next() == Some(name))
            .filter(|(sample, _)| labels.iter().all(|label| sample.contains(label)))
            .map(|(_, value)| value.parse::<f64>().expect("a sample is a number"))
            .sum()
    }

    /// The error log so far.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().expect("no holder panics").clone()
    }

    /// What was written to standard output so far.
    pub fn output(&self) -> Vec<String> {
        self.output.lock().expect("no holder panics").clone()
    }

    /// The first line of the error log that holds all of these, waited for.
    pub fn log_line(&self, parts: &[&str]) -> String {
        wait_until(
            &format!("the log says {parts:?}; it says:\n{}", self.log().join("\n")),
            || {
                self.log()
                    .into_iter()
                    .find(|line| parts.iter().all(|part| line.contains(part)))
            },
        )
    }

    /// The lines of the access log so far; not one that is being written.
    pub fn access_log(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.folder().join("access.log")).unwrap_or_default();
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        text[..whole].lines().map(str::to_owned).collect()
    }

    /// The records of the access log so far.
    pub fn records(&self) -> Vec<Value> {
        let lines = self.access_log();
        let parse = |line: &String| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        lines.iter().map(parse).collect()
    }

    /// The first record that is as asked, waited for.
    pub fn record(&self, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        wait_until(&format!("there is a record: {what}"), || {
            let found = self.records().into_iter().find(|record| is(record));
            if found.is_none() && self.exit_status().is_some() {
                panic!("Atlas has ended; no record {what} in {:#?}", self.access_log());
            }
            found
        })
    }

    /// The record of the exchange about this path.
    pub fn exchange(&self, path: &str) -> Value {
        self.record(path, |record| {
            record["kind"] == "exchange" && record["path"] == path
        })
    }

    /// Writes another configuration: what the change makes of the text that is there. Nobody reads half of it.
    pub fn rewrite(&self, change: impl FnOnce(String) -> String) {
        let file = self.folder().join("atlas.toml");
        let text = std::fs::read_to_string(&file).expect("it was written");
        let next = file.with_extension("next");
        std::fs::write(&next, change(text)).expect("the folder is writable");
        std::fs::rename(next, file).expect("the folder is writable");
    }

    /// Sends HUP and waits until Atlas has counted what came of it. (Its log leaves lines out that
    /// are like many before them.)
    pub fn reload(&self) {
        let count = || self.metric("atlas_reloads_total", &[]);
        let before = count();
        self.signal(Signal::HUP);
        wait_until("Atlas has reloaded", || (count() > before).then_some(()));
    }

    pub fn signal(&self, which: Signal) {
        signal(&self.process.lock().expect("no holder panics"), which);
    }

    pub fn pid(&self) -> u32 {
        self.process.lock().expect("no holder panics").id()
    }

    /// How it ended, if it has.
    pub fn exit_status(&self) -> Option<ExitStatus> {
        self.process
            .lock()
            .expect("no holder panics")
            .try_wait()
            .expect("it is our child")
    }

    /// Waits for its end; its exit code.
    pub fn exit_code(&self) -> i32 {
        let status = wait_until("Atlas has ended", || self.exit_status());
        assert!(status.signal().is_none(), "Atlas was ended by {status}");
        status.code().expect("it has a code")
    }

    /// Asks it to drain and waits for its end; its exit code.
    pub fn stop(&self) -> i32 {
        self.signal(Signal::TERM);
        self.exit_code()
    }

    /// The most memory it has held so far, in KiB.
    pub fn memory_peak_kib(&self) -> u64 {
        self.status_kib("VmHWM:")
    }

    /// The memory it holds now, in KiB.
    pub fn memory_kib(&self) -> u64 {
        self.status_kib("VmRSS:")
    }

    fn status_kib(&self, name: &str) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("it runs");
        let line = text
            .lines()
            .find(|line| line.starts_with(name))
            .expect("the kernel says");
        line.split_whitespace()
            .nth(1)
            .and_then(|number| number.parse().ok())
            .expect("it is a number")
    }

    /// CPU time it has used so far.
    pub fn cpu_time(&self) -> Duration {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).expect("it runs");
        let rest = text.rsplit(')').next().expect("the name is in brackets");
        let ticks: u64 = rest
            .split_whitespace()
            .skip(11)
            .take(2)
            .map(|number| number.parse::<u64>().expect("it is a number"))
            .sum();
        Duration::from_millis(ticks * 10)
    }

    /// How long its only worker has been ready to run so far while something else had the core.
    fn worker_held_up(&self) -> Duration {
        let tasks = format!("/proc/{}/task", self.pid());
        let is_worker = |task: &PathBuf| {
            let name = std::fs::read_to_string(task.join("comm"));
            name.is_ok_and(|name| name.trim_end() == "worker-0")
        };
        let mut tasks = std::fs::read_dir(tasks)
            .expect("it runs")
            .map(|task| task.expect("it can be listed").path());
        held_up(&tasks.find(is_worker).expect("it has a worker"))
    }

    /// What this took without the time in which it was the machine that did not let the only worker or this thread
    /// run: other programs have the cores, too, and what they do says nothing of Atlas.
    pub fn time_of(&self, what: impl FnOnce()) -> Duration {
        let held_up = || self.worker_held_up() + held_up(Path::new("/proc/thread-self"));
        let (before, started) = (held_up(), Instant::now());
        what();
        let took = started.elapsed();
        took.saturating_sub(held_up() - before)
    }

    /// How many descriptors it has open.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid()))
            .expect("it runs")
            .count()
    }

    /// Curl's arguments to reach the first listener under its name.
    pub fn curl(&self, path: &str, arguments: &[&str]) -> std::process::Output {
        let authority = self.folder().join("ca.pem");
        std::fs::write(&authority, ca().pem()).expect("the folder is writable");
        let name = self.built.names.first().map_or("a.test", String::as_str);
        let resolve = format!("{name}:{}:127.0.0.1", self.address().port());
        let authority = authority.display().to_string();
        let url = self.url(path);
        let mut words = vec![
            "-sS",
            "--max-time",
            "280",
            "--cacert",
            &authority,
            "--resolve",
            &resolve,
        ];
        words.extend(arguments);
        words.push(&url);
        super::command("curl", &words, b"")
    }
}

impl Drop for Atlas {
    fn drop(&mut self) {
        let started = Instant::now();
        if self.exit_status().is_none() {
            self.signal(Signal::TERM);
            while self.exit_status().is_none() && started.elapsed() < Duration::from_millis(1500) {
                thread::sleep(Duration::from_millis(5));
            }
            let mut process = self.process.lock().expect("no holder panics");
            // Tests may leave connections open on which the drain would wait.
            let _ = process.kill();
            let _ = process.wait();
        }
        let expected = |line: &str| {
            let parts = self.built.expected.iter().map(String::as_str);
            parts.chain([EXCUSED]).any(|part| line.contains(part))
        };
        let bad = |line: &&String| {
            (line.contains("WARN") || line.contains("ERROR") || line.contains("panicked")) && !expected(line)
        };
        let log = self.log();
        let unexpected: Vec<_> = log.iter().filter(bad).collect();
        if thread::panicking() {
            eprintln!("the log of Atlas:\n{}", log.join("\n"));
            eprintln!("its access log:\n{}", self.access_log().join("\n"));
        } else {
            assert!(unexpected.is_empty(), "unexpected in the log: {unexpected:#?}");
        }
    }
}
