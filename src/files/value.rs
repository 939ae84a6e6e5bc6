//! A field's value made on the stack: what files say of themselves costs no allocation.

/// Longer than any Content-Range, entity tag, date or media type made here.
const BYTES_MAX: usize = 160;

/// Text that is put together piece by piece.
#[derive(Clone, Copy)]
pub(super) struct Value {
    bytes: [u8; BYTES_MAX],
    len: usize,
}

impl Value {
    pub(super) fn new() -> Self {
        Self {
            bytes: [0; BYTES_MAX],
            len: 0,
        }
    }

    /// Followed by a text.
    pub(super) fn text(mut self, text: &str) -> Self {
        let count = text.len().min(BYTES_MAX - self.len);
        debug_assert_eq!(count, text.len(), "a value is too long");
        self.bytes[self.len..self.len + count].copy_from_slice(&text.as_bytes()[..count]);
        self.len += count;
        self
    }

    /// Followed by a number in decimal digits.
    pub(super) fn decimal(self, number: u64) -> Self {
        self.digits(number, 10)
    }

    /// Followed by a number in hexadecimal digits.
    pub(super) fn hex(self, number: u64) -> Self {
        self.digits(number, 16)
    }

    fn digits(self, mut number: u64, base: u64) -> Self {
        let mut digits = [0; 20];
        let mut from = digits.len();
        loop {
            from -= 1;
            digits[from] = b"0123456789abcdef"[usize::try_from(number % base).unwrap_or(0)];
            number /= base;
            if number == 0 {
                break;
            }
        }
        self.text(std::str::from_utf8(&digits[from..]).unwrap_or_default())
    }
}

impl AsRef<[u8]> for Value {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl std::fmt::Write for Value {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        *self = self.text(text);
        Ok(())
    }
}

/// The value of a hexadecimal digit.
pub(super) fn hex_digit(digit: u8) -> Option<u8> {
    char::from(digit)
        .to_digit(16)
        .and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_without_leading_zeros() {
        let value = Value::new().text("a ").decimal(0).text("-").decimal(u64::MAX);
        assert_eq!(value.as_ref(), b"a 0-18446744073709551615");
        assert_eq!(Value::new().hex(0xfe_dc00).as_ref(), b"fedc00");
    }
}
