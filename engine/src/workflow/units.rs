//! Amounts with units as people write them: `30m`, `1h 30m`, `4GiB`.

use std::time::Duration;

const TIMES: &[(&str, f64)] = &[("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3_600.0), ("d", 86_400.0)];

const SIZES: &[(&str, f64)] = &[
    ("B", 1.0),
    ("kB", 1e3),
    ("MB", 1e6),
    ("GB", 1e9),
    ("TB", 1e12),
    ("KiB", 1024.0),
    ("MiB", 1_048_576.0),
    ("GiB", 1_073_741_824.0),
    ("TiB", 1_099_511_627_776.0),
];

/// A length of time above zero: `90s`, `30m`, `1h 30m`, `1.5h`.
pub(super) fn duration(text: &str) -> Option<Duration> {
    Duration::try_from_secs_f64(sum(text, TIMES)?).ok().filter(|duration| !duration.is_zero())
}

/// A number of bytes above zero: `512MiB`, `4GiB`, `2GB`.
pub(super) fn bytes(text: &str) -> Option<u64> {
    let bytes = sum(text, SIZES)?;
    // 2^63: more than any machine has, and exact enough below.
    (1.0..9.2e18).contains(&bytes).then_some(bytes as u64)
}

/// The sum of amounts with units; `None` if the text is anything else.
fn sum(text: &str, units: &[(&str, f64)]) -> Option<f64> {
    let mut rest = text.trim();
    let mut total = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let amount: f64 = rest.get(..digits)?.parse().ok()?;
        rest = rest.get(digits..)?.trim_start();
        let letters = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
        let unit = rest.get(..letters)?;
        total += amount * units.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit))?.1;
        rest = rest.get(letters..)?.trim_start();
    }
    (total > 0.0).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes_as_people_write_them() {
        assert_eq!(duration("90s"), Some(Duration::from_secs(90)));
        assert_eq!(duration("1h 30m"), Some(Duration::from_secs(5400)));
        assert_eq!(duration("1.5h"), duration("90m"));
        assert_eq!(bytes("4GiB"), Some(4 << 30));
        assert_eq!(bytes("2 gb"), Some(2_000_000_000));
        for wrong in ["", "10", "m", "0s", "-1s", "1 fortnight", "1..5h", "ten minutes"] {
            assert_eq!(duration(wrong), None, "{wrong}");
        }
        assert_eq!(bytes("4"), None, "a number without its unit could be anything");
    }
}
