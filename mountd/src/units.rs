//! Sizes, durations and times as people write and read them.

use std::time::Duration;

const UNITS: [(&str, u64); 7] = [
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("PiB", 1 << 50),
    ("EiB", 1 << 60),
];

/// Parses `4096`, `64KiB`, `1.5GiB`. Only binary units: `KB` would be ambiguous.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is not a size; write bytes or a unit: 4096, 64KiB, 10GiB");
    let (number, unit) = split_unit(text);
    let factor = match unit {
        "" => 1,
        unit => UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?.1,
    };
    let (whole, fraction) = match number.split_once('.') {
        Some((_, "")) => return Err(wrong()),
        Some((whole, fraction)) => (whole, fraction),
        None => (number, ""),
    };
    let whole: u64 = parse_digits(whole).ok_or_else(wrong)?;
    let too_big = || format!("{text:?} is more than 16 EiB");
    let mut bytes = whole.checked_mul(factor).ok_or_else(too_big)?;
    if !fraction.is_empty() {
        // Nine digits are finer than a byte of a GiB, and cannot overflow below.
        let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
        let billionths: u64 = parse_digits(&digits).ok_or_else(wrong)?;
        if factor == 1 || parse_digits::<u128>(fraction).is_none() {
            return Err(wrong());
        }
        let part = u128::from(billionths) * u128::from(factor) / 1_000_000_000;
        bytes = bytes.checked_add(u64::try_from(part).map_err(|_| too_big())?).ok_or_else(too_big)?;
    }
    Ok(bytes)
}

/// Parses `500ms`, `30s`, `5m`, `12h`, `7d`.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a time; write a number and a unit: 500ms, 30s, 12h");
    let (number, unit) = split_unit(text);
    let millis: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(wrong()),
    };
    let number: u64 = parse_digits(number).ok_or_else(wrong)?;
    number.checked_mul(millis).map(Duration::from_millis).ok_or_else(|| format!("{text:?} is too long"))
}

/// Returns a size with a unit and at most four digits: `0 B`, `4.0 KiB`, `1023 MiB`.
pub fn format_size(bytes: u64) -> String {
    let (name, factor) = UNITS.iter().rev().find(|(_, factor)| bytes >= *factor).copied().unwrap_or(UNITS[0]);
    if factor == 1 {
        return format!("{bytes} {name}");
    }
    // Tenths, rounded down: 1023.99 KiB must not become "1024 KiB".
    let tenths = u128::from(bytes) * 10 / u128::from(factor);
    if tenths < 100 {
        format!("{}.{} {name}", tenths / 10, tenths % 10)
    } else {
        format!("{} {name}", tenths / 10)
    }
}

/// Returns a duration of microseconds as `870 µs`, `12.3 ms` or `4.5 s`.
pub fn format_micros(micros: u64) -> String {
    match micros {
        0..1_000 => format!("{micros} µs"),
        1_000..1_000_000 => format!("{}.{} ms", micros / 1_000, micros % 1_000 / 100),
        _ => format!("{}.{} s", micros / 1_000_000, micros % 1_000_000 / 100_000),
    }
}

/// Returns a moment as RFC 3339 in UTC with nanoseconds: `2025-11-22T10:31:05.000000042Z`.
pub fn format_rfc3339(unix_ns: i64) -> String {
    let civil = Civil::from_unix(unix_ns.div_euclid(1_000_000_000));
    format!(
        "{}T{:02}:{:02}:{:02}.{:09}Z",
        civil.date(),
        civil.hour,
        civil.minute,
        civil.second,
        unix_ns.rem_euclid(1_000_000_000)
    )
}

/// Returns a moment in UTC to the second: `2025-11-22 10:31:05Z`.
pub fn format_second(unix_ns: i64) -> String {
    let civil = Civil::from_unix(unix_ns.div_euclid(1_000_000_000));
    format!("{} {:02}:{:02}:{:02}Z", civil.date(), civil.hour, civil.minute, civil.second)
}

/// Returns how long ago a moment was: `now`, `5 s ago`, `3 h ago`, `12 d ago`.
pub fn format_ago(unix_ns: i64, now_unix_ns: i64) -> String {
    let seconds = now_unix_ns.saturating_sub(unix_ns) / 1_000_000_000;
    match seconds {
        ..=-1 => format_second(unix_ns),
        0 => "now".to_owned(),
        1..60 => format!("{seconds} s ago"),
        60..3_600 => format!("{} min ago", seconds / 60),
        3_600..172_800 => format!("{} h ago", seconds / 3_600),
        _ => format!("{} d ago", seconds / 86_400),
    }
}

fn split_unit(text: &str) -> (&str, &str) {
    let at =
        text.find(|character: char| !character.is_ascii_digit() && character != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    (number, unit.trim_start_matches(' '))
}

/// Parses digits only: no sign, no spaces, at least one.
fn parse_digits<T: std::str::FromStr>(text: &str) -> Option<T> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

/// A second of the proleptic Gregorian calendar.
struct Civil {
    year: i64,
    month: i64,
    day: i64,
    hour: i64,
    minute: i64,
    second: i64,
}

impl Civil {
    /// Days to date after Howard Hinnant, "chrono-compatible low-level date algorithms": years
    /// start in March, so that the leap day is the last of its year.
    fn from_unix(seconds: i64) -> Civil {
        let (days, second_of_day) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
        let shifted = days + 719_468;
        let era = shifted.div_euclid(146_097);
        let day_of_era = shifted.rem_euclid(146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        Civil {
            year: year_of_era + era * 400 + i64::from(month <= 2),
            month,
            day: day_of_year - (153 * month_from_march + 2) / 5 + 1,
            hour: second_of_day / 3_600,
            minute: second_of_day % 3_600 / 60,
            second: second_of_day % 60,
        }
    }

    fn date(&self) -> String {
        format!("{:04}-{:02}-{:02}", self.year, self.month, self.day)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_parse_with_binary_units_only() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("4096B", 4096),
            ("64KiB", 64 << 10),
            ("10 GiB", 10 << 30),
            ("1.5GiB", 3 << 29),
            ("0.5KiB", 512),
            ("15EiB", 15 << 60),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in [
            "",
            "KiB",
            "-1",
            "+1",
            "1KB",
            "1K",
            "1kib",
            "1.KiB",
            ".5KiB",
            "1.5",
            "1..5KiB",
            "16EiB",
            "18446744073709551616",
            "1 2KiB",
            "0x10",
            "1.5x3KiB",
            "ten",
        ] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_need_a_unit() {
        for (text, millis) in [
            ("500ms", 500),
            ("30s", 30_000),
            ("5m", 300_000),
            ("12h", 43_200_000),
            ("7d", 604_800_000),
            ("0s", 0),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "30", "s", "-1s", "1.5s", "1w", "99999999999999999999s", "9999999999999999d"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_print_with_few_digits() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (10 << 10, "10 KiB"),
            ((1 << 20) - 1, "1023 KiB"),
            (5 << 30, "5.0 GiB"),
            (u64::MAX, "15 EiB"),
        ] {
            assert_eq!(format_size(bytes), text);
        }
    }

    #[test]
    fn times_print_as_rfc_3339_and_relative() {
        assert_eq!(format_rfc3339(0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(format_rfc3339(-1), "1969-12-31T23:59:59.999999999Z");
        assert_eq!(format_rfc3339(1_709_164_800_000_000_042), "2024-02-29T00:00:00.000000042Z");
        assert_eq!(format_second(951_782_400_000_000_000), "2000-02-29 00:00:00Z");
        assert_eq!(format_second(4_107_542_400_000_000_000), "2100-03-01 00:00:00Z");

        let second = 1_000_000_000;
        for (ago, text) in [
            (0, "now"),
            (59 * second, "59 s ago"),
            (90 * second, "1 min ago"),
            (7_200 * second, "2 h ago"),
            (47 * 3_600 * second, "47 h ago"),
            (72 * 3_600 * second, "3 d ago"),
        ] {
            assert_eq!(format_ago(1_000 * second, 1_000 * second + ago), text);
        }
        assert_eq!(format_ago(2 * second, 0), "1970-01-01 00:00:02Z");
    }

    #[test]
    fn micros_print_in_their_unit() {
        assert_eq!(format_micros(870), "870 µs");
        assert_eq!(format_micros(12_345), "12.3 ms");
        assert_eq!(format_micros(4_560_000), "4.5 s");
    }
}
