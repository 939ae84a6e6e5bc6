//! Runs this very test program again, inside guests whose kernels have TLS, each in its own way, or none.
//!
//! Part of every test program that has something to try on such a kernel. In the guest a test that
//! goes without kernel TLS says `skipped: this kernel has no TLS`, and that is a failure there.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::unwrap_used,
    dead_code,
    unreachable_pub,
    missing_docs,
    reason = "tests run beside Atlas, not in it: they may wait, and each program uses what it needs"
)]

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// What a test prints that found no kernel TLS.
const NO_TLS: &str = "skipped: this kernel has no TLS";

/// In the environment of a guest: what Atlas has to say of its kernel.
const REFUSAL: &str = "ATLAS_TEST_REFUSAL";

/// Some at once, since most of what tests do is wait; a guest has one CPU.
const THREADS: &str = "--test-threads=3";

/// A guest's memory. User-mode-linux maps pages one by one, of which the machine allows 65,530 to a
/// process (`vm.max_map_count`): with room to spare they lie side by side and are mapped as one.
const MEMORY_MIB: &str = "4096";

/// A kernel this program can be run on, and what is to be run.
pub struct Guest {
    name: &'static str,
    kernel: &'static str,
    has_tls: bool,
    load: Option<&'static str>,
    modules: Vec<&'static str>,
    /// What `ATLAS_REQUIRE` calls it.
    requires: &'static str,
    limit: Duration,
    environment: Vec<(&'static str, &'static str)>,
    arguments: Vec<&'static str>,
}

impl Guest {
    /// Linux 6.1, as in Debian 12: kernel TLS without key updates, and half a record wakes the reader.
    pub fn linux_6_1() -> Self {
        Self::new("Linux 6.1", "uml-6.1")
    }

    /// Linux 6.12: kernel TLS without key updates.
    pub fn linux_6_12() -> Self {
        Self::new("Linux 6.12", "uml-6.12")
    }

    /// The newest there is: kernel TLS with key updates.
    pub fn newest_linux() -> Self {
        Self::new("the newest Linux", "uml-newest")
    }

    /// A kernel without TLS.
    pub fn without_tls() -> Self {
        Self {
            has_tls: false,
            load: Some(""),
            environment: vec![(REFUSAL, "no_ulp")],
            ..Self::new("a Linux without TLS", "uml-6.12")
        }
    }

    /// A kernel that takes a socket for TLS, and then no key. Tests that need one that does are in
    /// modules named `kernel_tls` or `promotion`.
    pub fn refusing_keys() -> Self {
        Self {
            has_tls: false,
            load: Some("tls"),
            environment: vec![(REFUSAL, "cipher")],
            arguments: vec!["--skip", "kernel_tls::", "--skip", "promotion::"],
            ..Self::new("a Linux that refuses keys", "uml-6.12")
        }
    }

    fn new(name: &'static str, kernel: &'static str) -> Self {
        Self {
            name,
            kernel,
            has_tls: true,
            load: None,
            modules: Vec::new(),
            requires: "ktls",
            limit: Duration::from_secs(1800), // for what hangs: it takes some minutes
            environment: Vec::new(),
            arguments: Vec::new(),
        }
    }

    /// One whose network can be disturbed, where this machine's cannot.
    pub fn with_netem() -> Self {
        Self {
            has_tls: false,
            modules: vec!["sch_netem", "veth"],
            requires: "netem",
            ..Self::new("Linux 6.12", "uml-6.12")
        }
    }

    /// Only the tests whose name holds one of these; or libtest's other arguments.
    pub fn arguments(mut self, arguments: impl IntoIterator<Item = &'static str>) -> Self {
        self.arguments.extend(arguments);
        self
    }

    pub fn environment(mut self, name: &'static str, value: &'static str) -> Self {
        self.environment.push((name, value));
        self
    }

    /// The longest it may take.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Runs the tests there, even where this machine's kernel has TLS as well: it is one kernel, it need
    /// not take the keys it is given, and its tests run over the carrier that is there by itself.
    ///
    /// Where there can be no guest it says why and goes on; `ATLAS_REQUIRE=ktls` makes that a failure.
    pub fn run(&self) {
        if is_guest() {
            return;
        }
        if let Err(reason) = self.prepare() {
            say(&format!("skipped: {} cannot be run: {reason}", self.name));
            assert!(
                !required(self.requires),
                "ATLAS_REQUIRE names {}, and there is no kernel to test it on: {reason}",
                self.requires
            );
            return;
        }
        self.run_again();
    }

    fn prepare(&self) -> Result<(), String> {
        let prepared = Command::new(program()).args(["-K", self.kernel, "-p"]).output();
        match prepared {
            Ok(output) if output.status.success() => Ok(()),
            Ok(output) => Err(String::from_utf8_lossy(&output.stderr)
                .lines()
                .filter_map(|line| line.strip_prefix("ktls-vm: "))
                .filter(|line| !line.starts_with("fetching"))
                .collect::<Vec<_>>()
                .join("; ")),
            Err(error) => Err(error.to_string()),
        }
    }

    fn run_again(&self) {
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let (succeeded, lines) = self.run_tests();
        assert!(succeeded, "on {}:\n{}", self.name, what_failed(&lines));
        assert!(
            !(self.has_tls && lines.iter().any(|line| line.contains(NO_TLS))),
            "on {} tests found no kernel TLS:\n{}",
            self.name,
            lines.join("\n")
        );
    }

    fn run_tests(&self) -> (bool, Vec<String>) {
        let seconds = self.limit.as_secs().to_string();
        let mut command = Command::new(program());
        command.args(["-K", self.kernel, "-t", &seconds, "-m", MEMORY_MIB]);
        command.args(["-e", "MALLOC_ARENA_MAX=1"]); // what is freed is used again
        for (name, value) in &self.environment {
            command.args(["-e", &format!("{name}={value}")]);
        }
        for module in &self.modules {
            command.args(["-M", module]);
        }
        if let Some(modules) = self.load {
            command.env("KTLS_VM_LOAD", modules);
        }
        let me = std::env::current_exe().unwrap();
        command
            .arg("--")
            .arg(me)
            .args([THREADS, "--show-output"])
            .args(&self.arguments);
        let mut guest = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let lines = self.follow(BufReader::new(guest.stdout.take().unwrap()));
        (guest.wait().unwrap().success(), lines)
    }

    /// Tells what of the guest's words matters as they come, and keeps all of them. Hundreds of tests
    /// that passed would bury the one that did not.
    fn follow(&self, output: impl BufRead) -> Vec<String> {
        let mut lines = Vec::new();
        for line in output.split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            let is_told = ["test ", "running ", "skipped: "]
                .iter()
                .any(|word| line.starts_with(word));
            if is_told && !line.ends_with(" ... ok") {
                say(&format!("{}: {line}", self.name));
            }
            lines.push(line);
        }
        lines
    }
}

/// libtest's section on the tests that failed. A guest that ended before it gets there has been cut
/// off in one of the tests: its last words are what there is.
fn what_failed(lines: &[String]) -> String {
    const LAST_WORDS: usize = 40;
    let from = lines
        .iter()
        .position(|line| line == "failures:")
        .unwrap_or_else(|| lines.len().saturating_sub(LAST_WORDS));
    lines[from..].join("\n")
}

/// Whether this is a guest of `tests/vm`.
pub fn is_guest() -> bool {
    std::env::var_os("KTLS_VM").is_some()
}

/// Why the kernel this program runs on cannot carry TLS, in Atlas's word for it.
pub fn refusal_of_this_kernel() -> Option<&'static str> {
    refusal_where(may_load_modules())
}

/// The same for an Atlas that may have the kernel load its modules, or may not.
pub fn refusal_where(may_load: bool) -> Option<&'static str> {
    let has_no_ulp = match std::env::var(REFUSAL).as_deref() {
        Ok("cipher") => return Some("cipher"),
        Ok(_) => true,
        Err(_) => !kernel_has_tls(),
    };
    // Who may not load it cannot know that it is not there, except where modules are seen, and not it.
    let is_certain = may_load || sees_no_module();
    has_no_ulp.then_some(if is_certain { "no_ulp" } else { "no_permission" })
}

/// Whether the kernel loads modules for this process: it has CAP_NET_ADMIN, in no user namespace.
fn may_load_modules() -> bool {
    const NET_ADMIN: u32 = 12; // capability.h
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let mut effective = status.lines().filter_map(|line| line.strip_prefix("CapEff:"));
    let effective = u64::from_str_radix(effective.next().unwrap().trim(), 16).unwrap();
    let users = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let is_outermost = users.split_whitespace().eq(["0", "0", "4294967295"]);
    effective & (1 << NET_ADMIN) != 0 && is_outermost
}

/// Whether this kernel's modules can be seen, and `tls` is none of them. In a container there are none.
fn sees_no_module() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let modules = PathBuf::from("/lib/modules").join(release.trim());
    let names = ["tls.ko", "tls.ko.xz", "tls.ko.zst", "tls.ko.gz"];
    let is_there = |name| modules.join("kernel/net/tls").join(name).exists();
    modules.is_dir() && !names.into_iter().any(is_there)
}

/// Whether this machine's own kernel has TLS. Root's first use would load the module; here it is
/// loaded by name.
fn kernel_has_tls() -> bool {
    let listed = || {
        std::fs::read_to_string("/proc/sys/net/ipv4/tcp_available_ulp")
            .is_ok_and(|names| names.split_whitespace().any(|name| name == "tls"))
    };
    listed() || {
        let _ = Command::new("modprobe")
            .args(["-q", "tls"])
            .stderr(Stdio::null())
            .status();
        listed()
    }
}

fn required(what: &str) -> bool {
    let names = std::env::var("ATLAS_REQUIRE").unwrap_or_default();
    names.split(',').any(|name| name.trim() == what)
}

fn program() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vm/ktls-vm")
}

/// Past libtest, which keeps what tests print to itself unless they fail.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}
