//! What once went wrong: each test fails without the fix it came with.

use std::time::Duration;

use rustix::process::Signal;

use crate::support::{atlas, on_both_drivers, origin, wait_until};

#[test]
fn a_worker_with_nothing_to_do_does_not_end_the_drain_of_another() {
    // Each worker says that it is drained once more at each step; said twice, it counted as two.
    on_both_drivers(|driver| {
        let origin = origin()
            .handles("/slow", |exchange| {
                exchange.read_body()?;
                std::thread::sleep(Duration::from_millis(1500)); // longer than idle connections may stay
                exchange.answer(200, &[], b"slow")
            })
            .start();
        let atlas = atlas()
            .top("workers = 2")
            .listens_plain()
            .forwards_to(&origin)
            .driver(driver)
            .start();
        let mut client = atlas.connect();
        client.send("GET /slow HTTP/1.1\r\nHost: a.test\r\n\r\n");
        wait_until("the origin has the request", || {
            (origin.open() == 1).then_some(())
        });
        atlas.signal(Signal::TERM);
        assert_eq!(client.answer().text(), "slow");
        assert_eq!(atlas.exit_code(), 0);
    });
}
