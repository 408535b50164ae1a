//! Amounts with units as people write them: `30m`, `1h 30m`, `4GiB`, `x2`.

use std::time::Duration;

/// A length of time above zero: `90s`, `30m`, `1h 30m`.
pub(super) fn duration(text: &str) -> Option<Duration> {
    humantime::parse_duration(text).ok().filter(|duration| !duration.is_zero())
}

/// A number of bytes above zero: `512MiB`, `4GiB`, `2GB`.
pub(crate) fn bytes(text: &str) -> Option<u64> {
    // A number without its unit could be anything.
    let has_unit = text.trim_end().ends_with(|c: char| c.is_alphabetic());
    let bytes = text.parse::<bytesize::ByteSize>().ok()?.as_u64();
    (has_unit && bytes > 0).then_some(bytes)
}

/// How many times as much, from 2 to 64: `x2`.
pub(super) fn factor(text: &str) -> Option<u32> {
    text.strip_prefix('x')?.parse().ok().filter(|factor| (2..=64).contains(factor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes_as_people_write_them() {
        assert_eq!(duration("90s"), Some(Duration::from_secs(90)));
        assert_eq!(duration("1h 30m"), Some(Duration::from_secs(5400)));
        assert_eq!(bytes("4GiB"), Some(4 << 30));
        assert_eq!(bytes("2 GB"), Some(2_000_000_000));
        for wrong in ["", "10", "m", "0s", "-1s", "1 fortnight", "ten minutes"] {
            assert_eq!(duration(wrong), None, "{wrong}");
        }
        assert_eq!(factor("x2"), Some(2));
        for wrong in ["", "2", "x", "x1", "x0", "x-2", "x1000", "2x"] {
            assert_eq!(factor(wrong), None, "{wrong}");
        }
        for wrong in ["", "4", "GiB", "0B", "-1GiB", "4 potatoes"] {
            assert_eq!(bytes(wrong), None, "{wrong}");
        }
    }
}
