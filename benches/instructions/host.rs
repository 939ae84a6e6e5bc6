//! Outside: boots the guest with this very program, Atlas and nginx in it.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Without the string instructions that count one for each byte, copies cost what they weigh.
/// Older QEMUs do not know them all, and do not start then.
const FEATURES: [&str; 4] = ["erms", "fsrm", "fsrs", "la57"];

pub(crate) fn run(arguments: &[String]) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let atlas = option(arguments, "--atlas").map_or_else(|| root.join("target/dist/atlas"), PathBuf::from);
    assert!(
        atlas.exists(),
        "there is no {}: run `cargo build --profile dist` first, or name one by --atlas",
        atlas.display()
    );
    let nginx = ["/usr/sbin/nginx", "/usr/local/sbin/nginx", "/usr/bin/nginx"]
        .into_iter()
        .find(|path| Path::new(path).exists())
        .expect("there is no nginx: install Debian's package nginx-light");
    let kernel = option(arguments, "--kernel").unwrap_or_else(|| "cloud-6.12".to_owned());
    let me = std::env::current_exe().unwrap();
    let mut vm = Command::new(root.join("tests/vm/ktls-vm"));
    vm.args(["-K", &kernel, "-I", "-t", "1500"])
        .args(["-A", "nokaslr norandmaps"])
        .args(["-Q", "-rtc base=2027-01-01T00:00:00,clock=vm -seed 42"])
        .args(["-a", &format!("{}:/bin/atlas", atlas.display())])
        .args(["-a", &format!("{nginx}:/bin/nginx")])
        .args(["-a", &format!("{}:/bin/instructions", me.display())])
        .env("KTLS_VM_CPU", cpu());
    for name in ["ROUNDS", "CASES", "PERF", "THRESHOLD"] {
        if let Some(value) = option(arguments, &format!("--{}", name.to_lowercase())) {
            vm.args(["-e", &format!("{name}={value}")]);
        }
    }
    if let Some(folder) = option(arguments, "--perf") {
        std::fs::create_dir_all(&folder).unwrap();
        vm.args(["-a", "/usr/bin/perf:/bin/perf", "-m", "3000", "-o", &folder]);
    }
    let status = vm.args(["--", "/bin/instructions", "guest"]).status().unwrap();
    std::process::exit(status.code().unwrap_or(1));
}

fn cpu() -> String {
    let help = Command::new("qemu-system-x86_64").args(["-cpu", "help"]).output();
    let known = help
        .expect("there is no QEMU: install Debian's package qemu-system-x86")
        .stdout;
    let known = String::from_utf8_lossy(&known);
    let known: Vec<&str> = known.split_whitespace().collect();
    let off = FEATURES.iter().filter(|feature| known.contains(feature));
    std::iter::once("max".to_owned())
        .chain(off.map(|feature| format!("{feature}=off")))
        .collect::<Vec<_>>()
        .join(",")
}

fn option(arguments: &[String], name: &str) -> Option<String> {
    let at = arguments.iter().position(|argument| argument == name)?;
    arguments.get(at + 1).cloned()
}
