//! Curves as TensorBoard's event files: TFRecords, each an `Event` of TensorFlow's `event.proto`, of which only what a
//! scalar needs is written.
//!
//! A record is its length (u64), a masked CRC-32C of these eight bytes, the bytes, and a masked CRC-32C of them; all little
//! endian.

/// A point of a curve.
pub(super) struct Point<'a> {
    /// The curve.
    pub(super) tag: &'a str,
    pub(super) step: u64,
    /// `None`: not a number.
    pub(super) value: Option<f64>,
    /// Seconds since 1970.
    pub(super) time: f64,
}

/// The bytes of an event file. `began`: seconds since 1970.
pub(super) fn event_file<'a>(began: f64, points: impl IntoIterator<Item = Point<'a>>) -> Vec<u8> {
    let mut file = Vec::new();
    // The first event tells how the others are to be read.
    let mut first = Message::default();
    first.double(1, began);
    first.bytes(3, b"brain.Event:2");
    record(&mut file, &first.0);
    for Point { tag, step, value, time } in points {
        let (mut scalar, mut summary, mut event) =
            (Message::default(), Message::default(), Message::default());
        scalar.bytes(1, tag.as_bytes());
        scalar.float(2, value.unwrap_or(f64::NAN) as f32);
        summary.bytes(1, &scalar.0);
        event.double(1, time);
        event.unsigned(2, step);
        event.bytes(5, &summary.0);
        record(&mut file, &event.0);
    }
    file
}

/// A protobuf message, field by field: each begins with its number and how it is written.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn unsigned(&mut self, field: u64, value: u64) {
        self.varint(field << 3);
        self.varint(value);
    }

    fn double(&mut self, field: u64, value: f64) {
        self.varint(field << 3 | 1);
        self.0.extend(value.to_le_bytes());
    }

    fn bytes(&mut self, field: u64, value: &[u8]) {
        self.varint(field << 3 | 2);
        self.varint(value.len() as u64);
        self.0.extend(value);
    }

    fn float(&mut self, field: u64, value: f32) {
        self.varint(field << 3 | 5);
        self.0.extend(value.to_le_bytes());
    }
}

fn record(file: &mut Vec<u8>, bytes: &[u8]) {
    let length = (bytes.len() as u64).to_le_bytes();
    file.extend(length);
    file.extend(masked(&length).to_le_bytes());
    file.extend(bytes);
    file.extend(masked(bytes).to_le_bytes());
}

/// A CRC of what has CRCs in it is easily right by accident, so TensorFlow turns and shifts them.
fn masked(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_written_as_the_format_says() {
        // By hand: `event.proto` and `summary.proto` of TensorFlow.
        let point = Point { tag: "loss", step: 300, value: Some(0.5), time: 2.0 };
        let file = event_file(1.0, [point]);
        let (first, second) = file.split_at(8 + 4 + 24 + 4);
        assert_eq!(first[..8], 24u64.to_le_bytes());
        assert_eq!(first[12..21], [0x09, 0, 0, 0, 0, 0, 0, 0xf0, 0x3f]);
        assert_eq!(first[21..36], *b"\x1a\x0dbrain.Event:2");
        let scalar = [b"\x0a\x04loss\x15".as_slice(), &0.5f32.to_le_bytes()].concat();
        let event =
            [b"\x09".as_slice(), &2f64.to_le_bytes(), b"\x10\xac\x02\x2a\x0d\x0a\x0b", &scalar].concat();
        assert_eq!(second[..8], (event.len() as u64).to_le_bytes());
        assert_eq!(second[12..12 + event.len()], event);
    }

    #[test]
    fn checksums_are_those_of_the_format() {
        // RFC 3720, B.4: 32 bytes of zeros, and of ones.
        assert_eq!(crc32c::crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c::crc32c(&[0xff; 32]), 0x62a8_ab43);
        // 0x8a9136aa turned right by 15 is 0x6d551522; the sum goes over 2^32.
        assert_eq!(masked(&[0; 32]), 0x0fd7_fffa);
    }
}
