//! `atlas doctor`: what it says of this machine, and of a configuration that asks too much of it.

use std::path::Path;
use std::process::Output;

use serde_json::Value;

use crate::guest;
use crate::support::{Denied, cert, command, command_without, expired_cert, free_port, has};

fn doctor(arguments: &[&str]) -> Output {
    let words = [&["doctor"], arguments].concat();
    command(env!("CARGO_BIN_EXE_atlas"), &words, b"")
}

/// A configuration that is well, on this port of the loopback.
fn listening_on(port: u16) -> tempfile::TempDir {
    let listener = format!("address = \"127.0.0.1\"\nport = {port}");
    written(&listener, &cert(&["a.test"]))
}

/// A configuration with this listener and the files it names.
fn written(listener: &str, leaf: &crate::support::certs::Leaf) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    leaf.write(folder.path(), "server");
    let text = format!(
        "[listen]\n{listener}\n[tls]\ncert = \"server.crt\"\nkey = \"server.key\"\n\n[[route]]\nrespond = 204\n"
    );
    std::fs::write(folder.path().join("atlas.toml"), text).unwrap();
    folder
}

/// Exit code and document for the configuration in a folder.
fn asked(folder: &Path) -> (Option<i32>, Value) {
    let file = folder.join("atlas.toml");
    let output = doctor(&["-c", file.to_str().unwrap(), "--format", "json"]);
    assert!(
        output.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let document = serde_json::from_slice(&output.stdout).expect("one document");
    (output.status.code(), document)
}

/// The finding of this topic whose text has this part.
fn finding<'a>(document: &'a Value, topic: &str, part: &str) -> &'a Value {
    let found = document["findings"].as_array().unwrap();
    found
        .iter()
        .find(|finding| finding["topic"] == topic && finding["what"].as_str().unwrap().contains(part))
        .unwrap_or_else(|| panic!("nothing on {topic} with `{part}` in\n{document:#}"))
}

#[test]
fn the_machine_is_told_of_without_any_configuration() {
    let output = doctor(&[]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{text}");
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    for part in [
        release.trim(),
        "open files",
        "locked memory",
        "net.core.somaxconn",
        "kernel TLS",
        "module `tls`",
    ] {
        assert!(text.contains(part), "no `{part}` in\n{text}");
    }
    assert!(text.contains("io_uring") || text.contains("epoll"), "{text}");
}

#[test]
fn a_configuration_that_can_be_run_is_fine() {
    let port = free_port();
    let folder = listening_on(port);
    let (code, document) = asked(folder.path());
    assert_eq!(code, Some(0), "{document:#}");
    assert_eq!(document["configuration"]["valid"], true);
    let at = format!("127.0.0.1:{port}");
    assert_eq!(finding(&document, "listeners", &at)["verdict"], "fine");
    assert_eq!(
        finding(&document, "certificates", "server.crt")["verdict"],
        "fine"
    );
    // Nothing is written, so it is a wish.
    assert_ne!(finding(&document, "TLS records", &at)["verdict"], "wrong");
}

/// Whether the machine can; this one, or the guest's.
#[test]
fn kernel_tls_that_a_line_asks_for_and_the_machine_has_not_is_wrong() {
    let port = free_port();
    let folder = listening_on(port);
    let file = folder.path().join("atlas.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("[tls]", "[tls]\nprefer_ktls = true")).unwrap();
    let (code, document) = asked(folder.path());
    let told = finding(&document, "TLS records", &port.to_string());
    let is_carried = told["what"].as_str().unwrap().contains("by the kernel");
    let refusal = guest::refusal_of_this_kernel();
    assert_eq!(is_carried, refusal.is_none(), "{told}");
    let verdict = match refusal {
        None => (Some(0), "fine"),
        Some(_) => (Some(1), "wrong"),
    };
    assert_eq!((code, told["verdict"].as_str().unwrap()), verdict, "{told}");
    if refusal.is_none() {
        return;
    }
    assert!(told["advice"].as_str().unwrap().contains("line 5 asks"), "{told}");
}

#[test]
fn what_the_machine_cannot_do_is_wrong() {
    let port = free_port();
    let here = format!("address = \"127.0.0.1\"\nport = {port}");
    let expired = written(&here, &expired_cert(&["a.test"]));
    let (code, document) = asked(expired.path());
    assert_eq!((code, &document["verdict"]), (Some(1), &Value::from("wrong")));
    let told = finding(&document, "certificates", "server.crt");
    assert!(
        told["what"].as_str().unwrap().contains("expired on 2020-01-01"),
        "{told}"
    );
    let nowhere = written("address = \"192.0.2.1\"\nport = 8443", &cert(&["a.test"]));
    let (code, document) = asked(nowhere.path());
    assert_eq!(code, Some(1), "{document:#}");
    let told = finding(&document, "listeners", "192.0.2.1:8443");
    assert!(told["what"].as_str().unwrap().contains("no interface"), "{told}");
    assert_eq!(told["command"], "ip -brief address");
}

#[test]
fn workers_beyond_the_cores_come_with_what_leaves_them_out() {
    let port = free_port();
    let folder = listening_on(port);
    let file = folder.path().join("atlas.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("# ours\nworkers = 1024\n{text}")).unwrap();
    let (code, document) = asked(folder.path());
    assert_eq!(code, Some(0), "{document:#}");
    let told = finding(&document, "machine", "1024 workers are configured");
    let wanted = format!(
        "sudo sed -i --follow-symlinks '2s/^workers/#&/' {}",
        file.display()
    );
    assert_eq!(told["command"], wanted);
    let typed = wanted.replace("sudo ", "");
    assert!(command("/bin/sh", &["-c", &typed], b"").status.success());
    let (_, document) = asked(folder.path());
    finding(&document, "machine", "a worker on each");
}

#[test]
fn connections_beyond_the_open_files_are_wrong_only_where_they_are_written() {
    if !has("prlimit") {
        return;
    }
    let here = |rest: &str| {
        let listener = format!("address = \"127.0.0.1\"\nport = {}\n{rest}", free_port());
        written(&listener, &cert(&["a.test"]))
    };
    let tcp = "mode = \"tcp\"\nupstream = \"a\"\n";
    for (listener, code, verdict, lines) in [
        (String::new(), 0, "advice", ""),
        ("connections_max = 900".to_owned(), 0, "advice", ""),
        (
            "connections_max = 1000".to_owned(),
            1,
            "wrong",
            "in line 4 needs more than 1000",
        ),
        (format!("{tcp}connections_max = 400"), 0, "advice", ""),
        (
            format!("{tcp}connections_max = 500"),
            1,
            "wrong",
            "in line 6 needs more than 1000",
        ),
    ] {
        let folder = here(&listener);
        let file = folder.path().join("atlas.toml");
        if listener.contains("tcp") {
            let text = std::fs::read_to_string(&file).unwrap();
            let upstream = "[upstream.a]\nendpoints = [\"127.0.0.1:1\"]\n";
            std::fs::write(&file, text.replace("[[route]]\nrespond = 204\n", upstream)).unwrap();
        }
        let words = [&["--nofile=1000:1000"][..], &asks(&file)].concat();
        let (told_code, document) = answer_of(command("/usr/bin/prlimit", &words, b""));
        let told = finding(&document, "machine", "1000 open files");
        assert_eq!(
            (told_code, told["verdict"].as_str()),
            (Some(code), Some(verdict)),
            "{told}"
        );
        assert!(told["advice"].as_str().unwrap().contains(lines), "{told}");
    }
}

#[test]
fn a_port_that_is_taken_may_be_atlas_itself() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let folder = listening_on(port);
    let (code, document) = asked(folder.path());
    assert_eq!(code, Some(0), "{document:#}");
    let told = finding(&document, "listeners", &format!("127.0.0.1:{port}"));
    assert_eq!(told["verdict"], "advice");
}

#[test]
fn where_io_uring_is_denied_it_says_what_serves_instead() {
    let denied = [Denied::call(libc::SYS_io_uring_setup)];
    let arguments = ["doctor", "--format", "json"];
    let output = command_without(&denied, env!("CARGO_BIN_EXE_atlas"), &arguments, b"");
    assert_eq!(output.status.code(), Some(0), "epoll serves as well");
    let document = serde_json::from_slice(&output.stdout).expect("one document");
    let told = finding(&document, "driver", "io_uring is denied");
    assert_eq!(told["verdict"], "advice");
    assert!(
        told["advice"].as_str().unwrap().contains("epoll serves"),
        "{told}"
    );
}

#[test]
fn a_port_that_needs_a_privilege_is_wrong_for_who_lacks_it() {
    let first = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap();
    let is_root = rustix::process::geteuid().is_root();
    if first.trim() == "0" || (is_root && !has("setpriv")) {
        eprintln!("skipped: there is no such port here, or no way to lose the privilege");
        return;
    }
    let folder = written("address = \"127.0.0.1\"\nport = 81", &cert(&["a.test"]));
    let file = folder.path().join("atlas.toml");
    let (code, document) = asked_without("net_bind_service", &file);
    assert_eq!(code, Some(1));
    let told = finding(&document, "listeners", "127.0.0.1:81");
    assert_eq!(told["verdict"], "wrong");
    let what = told["what"].as_str().unwrap();
    assert!(what.contains("CAP_NET_BIND_SERVICE"), "{told}");
    if is_root {
        assert_eq!(
            told["command"],
            Value::Null,
            "nothing on a file gives what the process may not have"
        );
    }
    // It may have it, and has not.
    let document = answer_of(match is_root {
        true => command(
            "/usr/bin/setpriv",
            &[&["--securebits=+noroot"][..], &asks(&file)].concat(),
            b"",
        ),
        false => command(asks(&file)[0], &asks(&file)[1..], b""),
    });
    let told = finding(&document.1, "listeners", "127.0.0.1:81");
    let gives = format!(
        "sudo setcap cap_net_bind_service=+ep {}",
        env!("CARGO_BIN_EXE_atlas")
    );
    assert_eq!(told["command"], gives, "{told}");
}

fn asks(file: &Path) -> [&str; 6] {
    let file = file.to_str().unwrap();
    [
        env!("CARGO_BIN_EXE_atlas"),
        "doctor",
        "--format",
        "json",
        "-c",
        file,
    ]
}

fn answer_of(output: Output) -> (Option<i32>, Value) {
    let document = serde_json::from_slice(&output.stdout).expect("one document");
    (output.status.code(), document)
}

/// As [`asked`], by somebody who has not this capability; root has all others.
fn asked_without(capability: &str, file: &Path) -> (Option<i32>, Value) {
    let asks = asks(file);
    answer_of(match rustix::process::geteuid().is_root() {
        true => {
            let without = format!("--bounding-set=-{capability}");
            command("/usr/bin/setpriv", &[&[&*without][..], &asks].concat(), b"")
        }
        false => command(asks[0], &asks[1..], b""),
    })
}

#[test]
fn a_log_or_files_that_are_out_of_reach_are_wrong() {
    use std::os::unix::fs::PermissionsExt;
    if rustix::process::geteuid().is_root() && !has("setpriv") {
        return;
    }
    let folder = written(
        &format!("address = \"127.0.0.1\"\nport = {}", free_port()),
        &cert(&["a.test"]),
    );
    let file = folder.path().join("atlas.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let text = text.replace("respond = 204", "files = \"site\"");
    std::fs::write(&file, text + "\n[access_log]\npath = \"logs/access.log\"\n").unwrap();
    let shut = ["logs", "site"].map(|name| folder.path().join(name));
    for (mode, code, verdict) in [(0o700, Some(0), "fine"), (0o000, Some(1), "wrong")] {
        for path in &shut {
            std::fs::create_dir_all(path).unwrap();
            std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
        }
        let (told_code, document) = asked_without("dac_override,-dac_read_search", &file);
        assert_eq!(told_code, code, "{document:#}");
        for (part, shut) in ["access.log", "site"].iter().zip(&shut) {
            let told = finding(&document, "files", part);
            assert_eq!(told["verdict"], verdict, "{document:#}");
            let opens = format!("sudo chmod u+x {}", shut.display());
            let opens = (verdict == "wrong").then_some(opens);
            assert_eq!(told["command"].as_str(), opens.as_deref());
        }
    }
}

/// What is somebody else's, asked by root without its powers: files of the user 1, folders for others to enter.
#[test]
fn what_belongs_to_others_is_opened_for_atlas_alone() {
    use std::os::unix::fs::{PermissionsExt, chown};
    if !rustix::process::geteuid().is_root() || !has("setpriv") {
        return;
    }
    let folder = written(
        &format!("address = \"127.0.0.1\"\nport = {}", free_port()),
        &cert(&["a.test"]),
    );
    let file = folder.path().join("atlas.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let text = text.replace("respond = 204", "files = \"its/site\"");
    let its = folder.path().join("its");
    std::fs::create_dir_all(its.join("site")).unwrap();
    let log = its.join("access.log");
    let shut_to_us = |path: &Path, mode| {
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
        chown(path, Some(1), Some(1)).unwrap();
    };
    let commands = |path: &Path| {
        std::fs::write(&file, format!("{text}\n[access_log]\npath = {path:?}\n")).unwrap();
        let (code, document) = asked_without("dac_override,-dac_read_search", &file);
        assert_eq!(code, Some(1), "{document:#}");
        ["access log", "site"].map(|part| {
            finding(&document, "files", part)["command"]
                .as_str()
                .map(str::to_owned)
        })
    };
    let ends_with = |command: &Option<String>, end: &str, path: &Path| {
        let command = command.as_deref().expect("there is one");
        assert!(
            command.ends_with(&format!("{end} {}", path.display())),
            "{command}"
        );
    };
    shut_to_us(&its.join("site"), 0o700);
    shut_to_us(&its, 0o755);
    let [made, entered] = commands(&log);
    ends_with(&made, "sudo install -m 640 -o root /dev/null", &log);
    ends_with(&entered, "sudo setfacl -m u:root:x", &its.join("site"));
    std::fs::write(&log, "").unwrap();
    shut_to_us(&log, 0o600);
    ends_with(&commands(&log)[0], "sudo setfacl -m u:root:w", &log);
    let logs = folder.path().join("logs");
    std::fs::create_dir(&logs).unwrap();
    shut_to_us(&logs, 0o700);
    ends_with(
        &commands(&logs.join("access.log"))[0],
        "sudo setfacl -m u:root:x",
        &logs,
    );
}

#[test]
fn a_configuration_that_is_not_valid_is_two() {
    let folder = written("adress = \"127.0.0.1\"\nport = 1", &cert(&["a.test"]));
    let (code, document) = asked(folder.path());
    assert_eq!(code, Some(2), "{document:#}");
    assert_eq!(document["configuration"]["valid"], false);
    assert_eq!(document["verdict"], "wrong", "{document:#}");
    let file = folder.path().join("atlas.toml");
    let output = doctor(&["-c", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("did you mean"));
    assert!(!output.stdout.is_empty(), "the machine is told of all the same");
    assert_eq!(doctor(&["-c", "/nonexistent/atlas.toml"]).status.code(), Some(2));
}
