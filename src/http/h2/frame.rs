//! What a frame's header says, as far as anybody but the `h2` crate looks at it (RFC 9113 §4.1, §6).

/// Bytes of the connection preface, RFC 9113 §3.4.
pub(super) const PREFACE_BYTES: usize = 24;

/// Bytes of a frame's header: length, type, flags, stream.
pub(super) const HEADER_BYTES: usize = 9;

/// Bytes of RST_STREAM: a header, and an error code.
pub(super) const RESET_BYTES: usize = HEADER_BYTES + 4;

pub(super) const END_STREAM: u8 = 0x1;
pub(super) const END_HEADERS: u8 = 0x4;
pub(super) const PADDED: u8 = 0x8;

pub(super) const DATA: u8 = 0x0;
pub(super) const HEADERS: u8 = 0x1;
pub(super) const RST_STREAM: u8 = 0x3;
pub(super) const SETTINGS: u8 = 0x4;
pub(super) const PING: u8 = 0x6;
pub(super) const WINDOW_UPDATE: u8 = 0x8;
pub(super) const CONTINUATION: u8 = 0x9;

/// How long the frame is behind its header.
pub(super) fn payload(header: &[u8; HEADER_BYTES]) -> usize {
    let [a, b, c, ..] = *header;
    usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c)
}

/// Whose it is. RFC 9113 §4.1: the first bit is reserved, and "MUST be ignored when receiving".
pub(super) fn stream(header: &[u8; HEADER_BYTES]) -> u32 {
    let [.., a, b, c, d] = *header;
    u32::from_be_bytes([a & 0x7f, b, c, d])
}
