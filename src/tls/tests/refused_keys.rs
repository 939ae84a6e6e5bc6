//! Connections that are to be in the kernel from the end of their handshake on, where it takes their sockets and
//! refuses their keys. A filter plays that kernel, so that every machine has it.

use super::handshake::{BOTH, Bench, Layer, run, talk};
use crate::offload::tests::{answer_who_attaches, refuse_keys};
use crate::outcome::{Carrier, Cause, End, Phase, Refusal, Side};

/// So many lost connections in a row are enough.
const LOST: usize = 3;

/// Whom the kernel gets the connections of: a listener, an upstream.
#[derive(Clone, Copy, PartialEq)]
enum Of {
    Listener,
    Upstream,
}

#[test]
fn a_listeners_connections_end_by_name_and_after_three_the_others_stay() {
    on_a_kernel_that_refuses_keys(|| are_lost_and_then_stay(Of::Listener));
}

#[test]
fn an_upstreams_connections_end_by_name_and_after_three_the_others_stay() {
    on_a_kernel_that_refuses_keys(|| are_lost_and_then_stay(Of::Upstream));
}

fn on_a_kernel_that_refuses_keys(test: fn()) {
    // The filter is the thread's, for good.
    let thread = std::thread::spawn(move || {
        answer_who_attaches(0);
        refuse_keys(libc::EINVAL);
        test();
    });
    thread.join().unwrap();
}

fn are_lost_and_then_stay(of: Of) {
    for preference in BOTH {
        let mut bench = Bench::new(Layer::Sealed);
        let mut client = bench.client(true, None);
        match of {
            Of::Listener => bench.rebuild(|build| build.ktls_threshold = 0),
            Of::Upstream => client.ktls_threshold = 0,
        }
        run(preference, async {
            for number in 0..LOST {
                let (server, endpoint) = bench.shake(&client, "a.test").await;
                let (lost, phase) = match of {
                    Of::Listener => (server.err(), Phase::Handshake),
                    Of::Upstream => (endpoint.err(), Phase::Connect),
                };
                let lost = lost.unwrap_or_else(|| panic!("connection {number} is not lost"));
                let end = End::new(Side::Atlas, phase, Cause::KernelRefusedKeys);
                assert_eq!(lost.end, end, "{lost}");
                assert!(lost.to_string().contains(" kernel_refused_keys"), "{lost}");
            }
            let (server, endpoint) = bench.shake(&client, "a.test").await;
            let (server, endpoint) = (server.unwrap(), endpoint.unwrap());
            let carriers = [&server, &endpoint].map(|secured| secured.transport.carriage().carrier.get());
            let mut refusals = [Refusal::Breaker, Refusal::BelowThreshold];
            if of == Of::Upstream {
                refusals.reverse();
            }
            assert_eq!(carriers, refusals.map(Carrier::Process));
            talk(&server, &endpoint).await;
        });
    }
}
