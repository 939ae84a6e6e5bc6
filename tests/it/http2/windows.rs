//! RFC 9113 §6.5 and §6.9: settings, and the windows that they and WINDOW_UPDATE open.

use super::conformance::{FRAME_SIZE, IGNORED, PROTOCOL, open, priority, then};
use super::sequences::{Case, Outcome, case};
use crate::support::frames::*;

const FLOW: Outcome = Outcome::Goaway(&[FLOW_CONTROL_ERROR]);

pub(super) fn cases() -> Vec<Case> {
    let mut all = settings();
    all.extend(windows());
    all
}

/// §6.5
fn settings() -> Vec<Case> {
    let one = |id: u16, value: u32| frame(SETTINGS, 0, 0, setting(id, value));
    vec![
        case(
            "all settings there are",
            {
                let all = [(1, 4096), (2, 1), (3, 100), (4, 65_535), (5, 16_384), (6, 100)];
                let all = all.map(|(id, value)| setting(id, value));
                frame(SETTINGS, 0, 0, all.concat())
            },
            Outcome::Acknowledged {
                settings: 2,
                pings: 0,
            },
        ),
        case("SETTINGS on a stream", frame(SETTINGS, 0, 1, b""), PROTOCOL),
        case(
            "SETTINGS of half a setting",
            frame(SETTINGS, 0, 0, [0; 5]),
            FRAME_SIZE,
        ),
        case(
            "an ACK that says something",
            frame(SETTINGS, ACK, 0, [0; 6]),
            FRAME_SIZE,
        ),
        case("ENABLE_PUSH = 2", one(2, 2), PROTOCOL),
        case("ENABLE_PUSH = 0", one(2, 0), IGNORED),
        case(
            "INITIAL_WINDOW_SIZE of 2 GiB",
            one(4, 0x8000_0000),
            Outcome::Goaway(&[FLOW_CONTROL_ERROR, PROTOCOL_ERROR]),
        ),
        case(
            "INITIAL_WINDOW_SIZE of all there can be",
            one(4, 0x7fff_ffff),
            IGNORED,
        ),
        case("MAX_FRAME_SIZE below the least", one(5, 16_383), PROTOCOL),
        case("MAX_FRAME_SIZE beyond the most", one(5, 16_777_216), PROTOCOL),
        case("MAX_FRAME_SIZE of all there can be", one(5, 16_777_215), IGNORED),
        case("a setting nobody knows", one(0xfafa, 1), IGNORED),
        case("HEADER_TABLE_SIZE = 0", one(1, 0), IGNORED),
        case("HEADER_TABLE_SIZE of 4 GiB", one(1, u32::MAX), IGNORED),
        case("MAX_CONCURRENT_STREAMS = 0", one(3, 0), IGNORED),
        case("MAX_HEADER_LIST_SIZE = 0", one(6, 0), IGNORED),
        case(
            "the same setting twice",
            frame(SETTINGS, 0, 0, [setting(4, 100), setting(4, 65_535)].concat()),
            IGNORED,
        ),
    ]
}

/// §6.9
fn windows() -> Vec<Case> {
    let update = |stream, by: u32| frame(WINDOW_UPDATE, 0, stream, by.to_be_bytes());
    let initial = |bytes| frame(SETTINGS, 0, 0, setting(INITIAL_WINDOW_SIZE, bytes));
    let asks = || headers(1, &get("/ten", &[]), true);
    vec![
        case(
            "an answer that finds no window",
            then(initial(0), asks()),
            Outcome::Content(0),
        ),
        case(
            "an answer that finds a window of one byte",
            then(initial(1), asks()),
            Outcome::Content(1),
        ),
        case(
            "the last of two windows in one SETTINGS",
            then(
                frame(SETTINGS, 0, 0, [setting(4, 100), setting(4, 1)].concat()),
                asks(),
            ),
            Outcome::Content(1),
        ),
        case(
            "a window opened behind END_STREAM",
            then(then(initial(0), asks()), update(1, 2)),
            Outcome::Content(2),
        ),
        case(
            "a window opened behind END_STREAM and PRIORITY",
            then(then(initial(0), asks()), then(priority(1, 0, 255), update(1, 2))),
            Outcome::Content(2),
        ),
        case(
            "a window that settings open",
            then(then(initial(0), asks()), initial(1)),
            Outcome::Content(1),
        ),
        // Three bytes, then the window is below nothing by one, and then open by one.
        case(
            "a window that settings make less than nothing",
            then(initial(3), asks()),
            Outcome::Content(4),
        )
        .later(3, then(initial(2), update(1, 2))),
        case(
            "the connection's window opened by one byte",
            update(0, 1),
            IGNORED,
        ),
        case(
            "the connection's window opened by nothing",
            update(0, 0),
            PROTOCOL,
        ),
        case(
            "a stream's window opened by nothing",
            then(open(), update(1, 0)),
            Outcome::Refused(&[PROTOCOL_ERROR]),
        ),
        case(
            "WINDOW_UPDATE that is too short",
            frame(WINDOW_UPDATE, 0, 0, [0; 3]),
            FRAME_SIZE,
        ),
        case(
            "WINDOW_UPDATE that is too long",
            frame(WINDOW_UPDATE, 0, 0, [0; 5]),
            FRAME_SIZE,
        ),
        case(
            "the connection's window beyond the most",
            then(update(0, 0x7fff_ffff), update(0, 0x7fff_ffff)),
            FLOW,
        ),
        case(
            "a stream's window beyond the most",
            then(open(), then(update(1, 0x7fff_ffff), update(1, 0x7fff_ffff))),
            Outcome::Reset(&[FLOW_CONTROL_ERROR]),
        ),
        case(
            "windows opened as far as they go",
            update(0, 0x7fff_0000),
            IGNORED,
        ),
        case(
            "a window that settings open too far",
            then(
                then(open(), update(1, 0x7fff_0000)),
                frame(SETTINGS, 0, 0, setting(4, 0x7fff_ffff)),
            ),
            FLOW,
        ),
        case(
            "more of a body than the window allows",
            {
                let piece = frame(DATA, 0, 1, [0; 16_384]);
                then(
                    headers(1, &request("POST", "/stuck", &[]), false),
                    piece.repeat(80),
                )
            },
            Outcome::Refused(&[FLOW_CONTROL_ERROR]),
        ),
    ]
}
