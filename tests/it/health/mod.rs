//! Health of endpoints: what checks and live exchanges find, and what that means for clients.

mod checks;
mod failures;
mod judged;
mod processes;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::origin::Seen;
use crate::support::{Atlas, Origin, Then, origin, wait_until};

/// Whether an endpoint of the upstream `app` is up, as the metrics tell.
fn is_up(atlas: &Atlas, endpoint: &str) -> bool {
    atlas.metric("atlas_endpoint_up", &[&format!("endpoint=\"{endpoint}\"")]) > 0.0
}

/// Waits until checks have found an endpoint so.
fn until_up(atlas: &Atlas, endpoint: &str, wanted: bool) {
    let what = if wanted { "up" } else { "down" };
    wait_until(&format!("{endpoint} is {what}"), || {
        (is_up(atlas, endpoint) == wanted).then_some(())
    });
}

/// An origin whose `/health` is as well as the flag says.
fn origin_with_health(name: &'static str) -> (Origin, Arc<AtomicBool>) {
    let is_well = Arc::new(AtomicBool::new(true));
    let flag = is_well.clone();
    let origin = origin()
        .handles("/health", move |exchange| {
            let status = if flag.load(Ordering::SeqCst) { 200 } else { 500 };
            exchange.answer(status, &[], b"ready")?;
            Ok(Then::Close)
        })
        .handles_all(move |exchange| exchange.answer(200, &[], name.as_bytes()))
        .start();
    (origin, is_well)
}

/// Requests that came for anything but a check.
fn live(origin: &Origin) -> usize {
    let is_live = |seen: &&Seen| seen.head.word(1) != "/health";
    origin.requests().iter().filter(is_live).count()
}

/// A listener whose queue is full: connects to it wait for ever.
struct Full {
    address: SocketAddr,
    _sockets: Vec<socket2::Socket>,
}

fn full() -> Full {
    let socket = || socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let listener = socket();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    listener.bind(&any.into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap().as_socket().unwrap();
    let mut sockets = vec![listener];
    for _ in 0..4 {
        let filling = socket();
        filling.set_nonblocking(true).unwrap();
        let _ = filling.connect(&address.into());
        sockets.push(filling);
    }
    Full {
        address,
        _sockets: sockets,
    }
}
