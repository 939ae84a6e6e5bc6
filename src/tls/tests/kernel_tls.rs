//! Connections that are in the kernel from the end of their handshake on; they need a kernel with TLS.

use super::handshake::{BOTH, Bench, Layer, run, talk};
use crate::outcome::Carrier;

/// Whether this kernel has no TLS; then it is said.
fn is_missing() -> bool {
    let is_missing = Layer::Kernel.offload().refusal().is_some();
    if is_missing {
        #[expect(clippy::print_stderr, reason = "who reads the test's output has to know")]
        {
            eprintln!("skipped: this kernel has no TLS");
        }
    }
    is_missing
}

#[test]
fn with_no_threshold_both_ends_are_in_the_kernel_after_the_handshake() {
    if is_missing() {
        return;
    }
    let mut bench = Bench::new(Layer::Kernel);
    bench.rebuild(|build| build.ktls_threshold = 0);
    for preference in BOTH {
        let mut client = bench.client(true, None);
        client.ktls_threshold = 0;
        let mut is_first = true;
        for _ in 0..3 {
            run(preference, async {
                let (server, endpoint) = bench.shake(&client, "a.test").await;
                let (server, endpoint) = (server.unwrap(), endpoint.unwrap());
                for secured in [&server, &endpoint] {
                    assert_eq!(secured.transport.carriage().carrier.get(), Carrier::Kernel);
                    assert_eq!(
                        secured.facts.resumed, !is_first,
                        "tickets come through the kernel"
                    );
                    assert_eq!(secured.facts.alpn.as_deref(), Some("http/1.1"));
                }
                talk(&server, &endpoint).await;
            });
            is_first = false;
        }
    }
}
