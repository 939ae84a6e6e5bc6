//! The demo's origin: says back what it was sent, so that one sees what Atlas forwards.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Connections served at a time; the demo's own pool needs a few.
const CONNECTIONS_MAX: usize = 64;

/// Bytes of a head, of a body that is said back.
const HEAD_BYTES_MAX: u64 = 64 * 1024;
const BODY_BYTES_MAX: u64 = 64 * 1024;

/// Starts the origin on a free port of the loopback interface.
///
/// # Errors
///
/// When no port or no thread can be had.
pub(super) fn start() -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let open = Arc::new(AtomicUsize::new(0));
    std::thread::Builder::new()
        .name("demo-origin".to_owned())
        .spawn(move || {
            for connection in listener.incoming().flatten() {
                let open = open.clone();
                if open.fetch_add(1, Ordering::Relaxed) >= CONNECTIONS_MAX {
                    open.fetch_sub(1, Ordering::Relaxed);
                    continue;
                }
                let serve = move || {
                    // A connection that breaks is the client's business; the origin has no log.
                    let _ = serve(&connection);
                    open.fetch_sub(1, Ordering::Relaxed);
                };
                let _ = std::thread::Builder::new()
                    .name("demo-origin".to_owned())
                    .spawn(serve);
            }
        })?;
    Ok(address)
}

fn serve(connection: &TcpStream) -> io::Result<()> {
    connection.set_nodelay(true)?;
    connection.set_read_timeout(Some(Duration::from_secs(120)))?;
    connection.set_write_timeout(Some(Duration::from_secs(10)))?;
    let mut reader = BufReader::new(connection);
    loop {
        let head = read_head(&mut reader)?;
        if head.is_empty() {
            return Ok(());
        }
        let (body, whole) = read_body(&mut reader, &head)?;
        let mut answer = b"What the origin behind Atlas received:\n\n".to_vec();
        answer.extend_from_slice(head.as_bytes());
        answer.extend_from_slice(&body);
        if answer.last() != Some(&b'\n') {
            answer.push(b'\n'); // a shell's prompt begins in its own line
        }
        let is_head = head.starts_with("HEAD ");
        let fields = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\n{}\r\n",
            answer.len(),
            if whole { "" } else { "Connection: close\r\n" },
        );
        let mut message = fields.into_bytes();
        if !is_head {
            message.extend_from_slice(&answer);
        }
        (&mut &*connection).write_all(&message)?;
        if !whole {
            return Ok(());
        }
    }
}

/// The head's lines, the empty one included; empty at the end of the connection.
fn read_head(reader: &mut impl BufRead) -> io::Result<String> {
    let mut head = String::new();
    let mut limited = reader.take(HEAD_BYTES_MAX);
    while limited.read_line(&mut head)? > 0 {
        if head.ends_with("\r\n\r\n") {
            return Ok(head);
        }
    }
    if head.is_empty() {
        Ok(head)
    } else {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

/// The body's first bytes, and whether that was all of it. Atlas frames strictly, so this origin
/// may read simply.
fn read_body(reader: &mut impl BufRead, head: &str) -> io::Result<(Vec<u8>, bool)> {
    let field = |wanted: &str| {
        head.lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(name, _)| name.eq_ignore_ascii_case(wanted))
    };
    if let Some((_, length)) = field("content-length") {
        let length = length
            .trim()
            .parse::<u64>()
            .map_err(|_| io::ErrorKind::InvalidData)?;
        let mut body = Vec::new();
        reader.take(length.min(BODY_BYTES_MAX)).read_to_end(&mut body)?;
        return Ok((body, length <= BODY_BYTES_MAX));
    }
    match field("transfer-encoding") {
        Some(_) => read_chunks(reader),
        None => Ok((Vec::new(), true)),
    }
}

fn read_chunks(reader: &mut impl BufRead) -> io::Result<(Vec<u8>, bool)> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        reader.take(1024).read_line(&mut line)?;
        let size = u64::from_str_radix(line.trim(), 16).map_err(|_| io::ErrorKind::InvalidData)?;
        if body.len() as u64 + size > BODY_BYTES_MAX {
            return Ok((body, false));
        }
        reader.take(size).read_to_end(&mut body)?;
        line.clear();
        reader.take(1024).read_line(&mut line)?; // the chunk's end, or the trailers' end
        if size == 0 {
            return Ok((body, line == "\r\n"));
        }
    }
}
