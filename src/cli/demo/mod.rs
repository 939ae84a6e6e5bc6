//! `atlas demo`: everything Atlas does, with no file to write.

mod origin;

use std::fmt::Write;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::config::{self, Loaded, Report};
use crate::generation::Generation;
use crate::route::{Action, Table};

/// Starts the demo on a port of the loopback interface, until Ctrl-C.
pub(super) fn run(port: u16) -> ExitCode {
    let started = Folder::make().and_then(|folder| Ok((origin::start()?, folder)));
    let (origin, folder) = match started {
        Ok(started) => started,
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
    super::answer(welcome(port, &folder.path));
    super::run::supervise(load)
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

fn welcome(port: u16, folder: &Path) -> String {
    let certificate = folder.join("localhost.crt");
    let certificate = certificate.display();
    format!(
        "Atlas demo on https://localhost:{port}\n\n\
         \x20 /        what Atlas does for this very connection\n\
         \x20 /echo    forwarded to an origin that says back what it received\n\
         \x20 /files   static files\n\n\
         Try:   curl --cacert {certificate} https://localhost:{port}/echo -d hello\n\
         Stop:  Ctrl-C\n"
    )
}

/// The demo's files, for as long as it runs.
struct Folder {
    path: PathBuf,
}

impl Folder {
    fn make() -> io::Result<Self> {
        let path = std::env::temp_dir().join(format!("atlas-demo-{}", std::process::id()));
        // Not there before and nobody else's: a key is about to be written.
        std::fs::DirBuilder::new().mode(0o700).create(&path)?;
        let folder = Self { path };
        let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
        let made = rcgen::generate_simple_self_signed(names).map_err(io::Error::other)?;
        std::fs::write(folder.path.join("localhost.crt"), made.cert.pem())?;
        std::fs::write(
            folder.path.join("localhost.key"),
            made.signing_key.serialize_pem(),
        )?;
        std::fs::create_dir(folder.path.join("site"))?;
        std::fs::write(
            folder.path.join("site/index.html"),
            include_str!("site/index.html"),
        )?;
        Ok(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}
