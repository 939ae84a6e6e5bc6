//! `atlas demo`: everything Atlas does, with no file to write.

mod origin;

use std::cell::Cell;
use std::fmt::Write;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;

use super::quoted;
use crate::config::{self, Loaded, Report};
use crate::generation::Generation;
use crate::route::{Action, Table};

/// Starts the demo on a port of the loopback interface, until Ctrl-C.
pub(super) fn run(port: u16) -> ExitCode {
    let made = Folder::make(port).and_then(|folder| Ok((origin::start()?, folder)));
    let (origin, folder) = match made {
        Ok(made) => made,
        Err(error) => {
            super::complain(format_args!("the demo cannot start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let text = configuration(port, origin);
    let load = {
        let folder = folder.path.clone();
        move |_: Option<&Generation>| load(&text, &folder)
    };
    // It need not be on the PATH: after `cargo run` it is not.
    let program = std::env::current_exe().unwrap_or_else(|_| "atlas".into());
    let welcome = welcome(port, &folder.path, &program);
    let started = Rc::new(Cell::new(false));
    let told = started.clone();
    let code = super::run::supervise(load, move || {
        told.set(true);
        super::answer(welcome);
    });
    if !started.get() {
        super::complain("the demo cannot start; `atlas demo --port 9443` takes another port");
    }
    code
}

fn load(text: &str, folder: &Path) -> Result<Loaded, Report> {
    let mut loaded = config::parse("demo.toml", text, folder)?;
    let mut routes = std::mem::take(&mut loaded.generation.routes).into_routes();
    // The page about the connection is the demo's own: no key of the configuration asks for it.
    if let Some(first) = routes.first_mut() {
        first.action = Action::About;
    }
    loaded.generation.routes = Table::new(routes).unwrap_or_default(); // as many, and as different, as before
    Ok(loaded)
}

fn configuration(port: u16, origin: SocketAddr) -> String {
    let mut text = String::new();
    for address in ["127.0.0.1", "::1"] {
        // Machines without IPv6 have no ::1 to listen on.
        if TcpListener::bind((address, 0)).is_ok() {
            let _ = write!(text, "[[listen]]\naddress = \"{address}\"\nport = {port}\n\n");
        }
    }
    let _ = write!(
        text,
        r#"[tls]
cert = "localhost.crt"
key = "localhost.key"

# Whoever presses Ctrl-C wants it to be over.
[timeouts]
drain = "500ms"

[[route]]
path_exact = "/"
respond = 200

[[route]]
path = "/echo"
upstream = "origin"

[[route]]
path = "/files"
strip_prefix = true
files = {{ root = "site", listing = true }}

[upstream.origin]
endpoints = ["{origin}"]
"#
    );
    text
}

fn welcome(port: u16, folder: &Path, program: &Path) -> String {
    let program = quoted(&program.to_string_lossy());
    let certificate = quoted(&folder.join("localhost.crt").to_string_lossy());
    format!(
        "Atlas demo on https://localhost:{port}\n\n\
         \x20 /        what Atlas does for this very connection\n\
         \x20 /echo    forwarded to an origin that says back what it received\n\
         \x20 /files   static files\n\n\
         Try:   curl --cacert {certificate} https://localhost:{port}/echo -d hello\n\
         \x20      {program} fetch -v -o /dev/null --cacert {certificate} https://localhost:{port}/files/64MiB\n\
         Stop:  Ctrl-C\n"
    )
}

/// The demo's files, for as long as it runs.
struct Folder {
    path: PathBuf,
}

impl Folder {
    fn make(port: u16) -> io::Result<Self> {
        let path = std::env::temp_dir().join(format!("atlas-demo-{}", std::process::id()));
        // Not there before and nobody else's: a key is about to be written.
        std::fs::DirBuilder::new().mode(0o700).create(&path)?;
        let folder = Self { path };
        let (certificate, key) = certificate().map_err(io::Error::other)?;
        std::fs::write(folder.path.join("localhost.crt"), certificate)?;
        std::fs::write(folder.path.join("localhost.key"), key)?;
        std::fs::create_dir(folder.path.join("site"))?;
        // Without any bytes on the disk: large enough for the kernel to make its TLS records.
        std::fs::File::create(folder.path.join("site/64MiB"))?.set_len(64 << 20)?;
        std::fs::write(
            folder.path.join("site/index.html"),
            include_str!("site/index.html").replace("8443", &port.to_string()),
        )?;
        Ok(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// A certificate that signs itself, and its key, in PEM.
fn certificate() -> Result<(String, String), rcgen::Error> {
    let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
    let mut wanted = rcgen::CertificateParams::new(names)?;
    wanted
        .distinguished_name
        .push(rcgen::DnType::CommonName, "localhost, for the demo of Atlas");
    let key = rcgen::KeyPair::generate()?;
    Ok((wanted.self_signed(&key)?.pem(), key.serialize_pem()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_to_try_is_one_for_a_shell() {
        let program = Path::new("/home/a b/target/release/atlas");
        let text = welcome(8443, Path::new("/tmp/it's here"), program);
        let fetch = "       '/home/a b/target/release/atlas' fetch -v -o /dev/null --cacert ";
        assert!(text.lines().any(|line| line.starts_with(fetch)), "{text}");
        assert!(
            text.contains(r"curl --cacert '/tmp/it'\''s here/localhost.crt' https://localhost:8443/echo"),
            "{text}"
        );
        assert!(welcome(1, Path::new("/tmp/a-1"), program).contains("--cacert /tmp/a-1/localhost.crt "));
    }
}
