//! Values of options that are more than a word or a number: times, sizes, pids. Each error says how to write it right.

use std::str::FromStr;
use std::time::Duration;

use leaktrace_common::sampling::MAX_SAMPLE_BYTES;

use crate::model::Pid;

/// Longest time accepted. Far beyond any trace, and small enough to be added to any clock.
const MAX_TIME: Duration = Duration::from_hours(24 * 36_500);

/// What to say of an empty list of pids.
pub(super) const NO_PROCESS: &str = "it names no process; is the program running?";

const TIME_FORM: &str = "write it as 500ms, 30s, 5m or 1h30m";
const SIZE_FORM: &str = "write it as 4096, 4k, 1M or 1MiB";

/// The pids of one `--pid`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pids(pub Vec<Pid>);

/// How many sites to show; `None` for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Top(pub Option<usize>);

impl FromStr for Top {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "all" {
            return Ok(Self(None));
        }
        text.parse().map(|number| Self(Some(number))).map_err(|_| "write a number of sites, or all".to_owned())
    }
}

/// Pids parted by commas, or by spaces as `pidof` prints them.
pub fn parse_pids(text: &str) -> Result<Pids, String> {
    let parts = text.split([',', ' ', '\n', '\t']).filter(|part| !part.is_empty());
    let pids = parts.map(parse_pid).collect::<Result<Vec<_>, _>>()?;
    if pids.is_empty() { Err(NO_PROCESS.to_owned()) } else { Ok(Pids(pids)) }
}

fn parse_pid(text: &str) -> Result<Pid, String> {
    // The kernel's pids are positive ints (PID_MAX_LIMIT is 2^22).
    match text.parse::<i32>() {
        Ok(0) => Err("0 is no process; name one, or leave --pid out for all".to_owned()),
        Ok(pid) if pid > 0 => Ok(Pid(pid.unsigned_abs())),
        _ => Err(format!("{text:?} is no pid; pidof finds a program's")),
    }
}

/// A user's number, or name as this machine knows it.
pub fn parse_uid(text: &str) -> Result<u32, String> {
    if let Ok(uid) = text.parse() {
        return Ok(uid);
    }
    match nix::unistd::User::from_name(text) {
        Ok(Some(user)) => Ok(user.uid.as_raw()),
        _ => Err(format!("there is no user {text:?}; give a number, or a name that getent passwd lists")),
    }
}

/// A time: `500ms`, `30s`, `5m`, `1h30m`, `0.5s`; a bare number is seconds.
pub fn parse_time(text: &str) -> Result<Duration, String> {
    let form = || TIME_FORM.to_owned();
    let mut rest = text.trim();
    let mut nanoseconds: u128 = 0;
    if rest.is_empty() {
        return Err(form());
    }
    while !rest.is_empty() {
        let (number, after) = split_at_first(rest, |c| !c.is_ascii_digit() && c != '.');
        let (unit, after) = split_at_first(after.trim_start(), |c| !c.is_ascii_alphabetic());
        let unit: u128 = match unit {
            "ns" => 1,
            "us" | "µs" => 1_000,
            "ms" => 1_000_000,
            "s" | "sec" => 1_000_000_000,
            "m" | "min" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            "d" => 86_400_000_000_000,
            // A bare number, and nothing else beside it.
            "" if number == text.trim() => 1_000_000_000,
            _ => return Err(form()),
        };
        nanoseconds = scale(number, unit).and_then(|part| nanoseconds.checked_add(part)).ok_or_else(form)?;
        rest = after.trim_start();
    }
    u64::try_from(nanoseconds)
        .map(Duration::from_nanos)
        .ok()
        .filter(|time| *time <= MAX_TIME)
        .ok_or_else(|| "it is longer than a century".to_owned())
}

/// A time above zero.
pub fn parse_positive_time(text: &str) -> Result<Duration, String> {
    match parse_time(text)? {
        Duration::ZERO => Err("it must be above zero".to_owned()),
        time => Ok(time),
    }
}

/// Windows in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Burst {
    /// How long one is.
    pub window: Duration,
    /// The time in which there is one.
    pub period: Duration,
}

/// Windows, and the time in which there is one: `1s/100s`.
pub fn parse_burst(text: &str) -> Result<Burst, String> {
    /// Probes take longer to be set and removed than a window of less.
    const SHORTEST: Duration = Duration::from_millis(50);
    let (window, period) = text.split_once('/').ok_or("write it as WINDOW/PERIOD, such as 1s/100s")?;
    let burst = Burst { window: parse_positive_time(window)?, period: parse_positive_time(period)? };
    if burst.window < SHORTEST {
        return Err("a window must be open for at least 50ms".to_owned());
    }
    if burst.period < burst.window * 2 {
        return Err("the period must be at least twice the window; to see all calls, leave --burst out".to_owned());
    }
    Ok(burst)
}

/// A part of a hundred.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Percent(pub f64);

/// A part of a hundred, above 0 and at most 100: `1%`, `0.5`.
pub fn parse_percent(text: &str) -> Result<Percent, String> {
    let number = text.trim().strip_suffix('%').unwrap_or(text).trim();
    match number.parse::<f64>() {
        Ok(percent) if percent > 0.0 && percent <= 100.0 => Ok(Percent(percent)),
        _ => Err("write a percentage above 0 and up to 100, such as 1%".to_owned()),
    }
}

/// A size: `4096`, `4k`, `1M`, `1MiB`, `1.5G`; all units are powers of 1024, as everywhere in this program.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let form = || SIZE_FORM.to_owned();
    let (number, unit) = split_at_first(text.trim(), |c| !c.is_ascii_digit() && c != '.');
    let unit = unit.trim_start().to_ascii_lowercase();
    let power = match unit.strip_suffix("ib").or_else(|| unit.strip_suffix('b')).unwrap_or(&unit) {
        "" if unit == "ib" => return Err(form()),
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        _ => return Err(form()),
    };
    let bytes = scale(number, 1 << (10 * power)).ok_or_else(form)?;
    u64::try_from(bytes).map_err(|_| "it is more than 64 bits hold".to_owned())
}

/// A size above zero.
pub fn parse_positive_bytes(text: &str) -> Result<u64, String> {
    match parse_bytes(text)? {
        0 => Err("it must be at least 1".to_owned()),
        bytes => Ok(bytes),
    }
}

/// Bytes in each second, above zero: a size, with or without `/s`.
pub fn parse_rate(text: &str) -> Result<u64, String> {
    let bytes = text.trim_end();
    let bytes = bytes.strip_suffix("/s").unwrap_or(bytes);
    match parse_bytes(bytes) {
        Ok(0) => Err("it must be at least 1".to_owned()),
        Ok(rate) => Ok(rate),
        Err(_) => Err("write it as 4096, 4k/s, 1M/s or 1MiB/s".to_owned()),
    }
}

/// A number of reports.
pub fn parse_count(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(0) => Err("it must be at least 1".to_owned()),
        Ok(count) => Ok(count),
        Err(_) => Err("write a number of reports".to_owned()),
    }
}

/// A mean distance between sampled bytes.
pub fn parse_sample_bytes(text: &str) -> Result<u64, String> {
    let bytes = parse_positive_bytes(text)?;
    if bytes > MAX_SAMPLE_BYTES {
        return Err(format!("it must be at most {}G", MAX_SAMPLE_BYTES >> 30));
    }
    Ok(bytes)
}

/// A decimal number times a unit, rounded down: exact where floats are not.
fn scale(number: &str, unit: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || whole.len() > 24 || fraction.len() > 12 {
        return None;
    }
    let parse = |digits: &str| if digits.is_empty() { Some(0) } else { digits.parse::<u128>().ok() };
    let parts = parse(fraction)?.checked_mul(unit)? / 10u128.pow(fraction.len() as u32);
    parse(whole)?.checked_mul(unit)?.checked_add(parts)
}

fn split_at_first(text: &str, is_end: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(is_end).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_sizes_with_or_without_their_unit_of_time() {
        for text in ["1M", "1M/s", "1MiB/s", "1 MiB/s", "1m /s"] {
            assert_eq!(parse_rate(text), Ok(1 << 20), "{text}");
        }
        for text in ["", "/s", "1M/m", "1M/s/s", "1M s", "x/s", "-1/s"] {
            assert!(parse_rate(text).unwrap_err().contains("1M/s"), "{text}");
        }
        assert!(parse_rate("0/s").unwrap_err().contains("at least 1"));
    }

    #[test]
    fn windows_and_parts_are_read_or_refused_with_the_form() {
        let burst = |text| parse_burst(text).map(|burst| (burst.window.as_millis(), burst.period.as_millis()));
        assert_eq!(burst("1s/100s"), Ok((1000, 100_000)));
        assert_eq!(burst("500ms / 1m"), Ok((500, 60_000)));
        for (text, next) in
            [("1s", "1s/100s"), ("1s/x", "30s"), ("1s/1s", "twice"), ("1ms/1s", "50ms"), ("0/1s", "above zero")]
        {
            assert!(burst(text).unwrap_err().contains(next), "{text}: {:?}", burst(text));
        }
        assert_eq!((parse_percent("1%"), parse_percent("0.5")), (Ok(Percent(1.0)), Ok(Percent(0.5))));
        for text in ["", "%", "0", "-1%", "101%", "nan", "1e", "one"] {
            assert!(parse_percent(text).unwrap_err().contains("such as 1%"), "{text}");
        }
    }

    #[test]
    fn times_are_read_as_people_write_them() {
        let cases = [
            ("30s", 30_000),
            ("5m", 300_000),
            ("1h", 3_600_000),
            ("100ms", 100),
            ("1h30m", 5_400_000),
            ("1h 30min", 5_400_000),
            ("2d", 172_800_000),
            ("10", 10_000),
            ("0.5s", 500),
            ("1.5m", 90_000),
            ("0", 0),
        ];
        for (text, milliseconds) in cases {
            assert_eq!(parse_time(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        assert_eq!(parse_time("250us"), Ok(Duration::from_micros(250)));
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in ["", " ", "s", "5x", "-5s", "1h30", "30 40", "1..5s", ".", "1e3s", "5S", "٣s"] {
            assert_eq!(parse_time(text), Err(TIME_FORM.to_owned()), "{text}");
        }
        assert!(parse_time("40000d").unwrap_err().contains("century"));
        assert!(parse_time("99999999999999999999999s").unwrap_err().contains("century"));
        assert!(parse_positive_time("0s").unwrap_err().contains("above zero"));
    }

    #[test]
    fn sizes_count_in_1024() {
        let cases = [
            ("0", 0),
            ("4096", 4096),
            ("4k", 4096),
            ("4K", 4096),
            ("4KiB", 4096),
            ("4 kB", 4096),
            ("64B", 64),
            ("1M", 1 << 20),
            ("1MiB", 1 << 20),
            ("1.5G", 3 << 29),
            ("2t", 2 << 40),
            ("18446744073709551615", u64::MAX),
        ];
        for (text, bytes) in cases {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in ["", "k", "ib", "4kk", "4x", "-1", "+1", "1e3", "0x10", "4k2"] {
            assert_eq!(parse_bytes(text), Err(SIZE_FORM.to_owned()), "{text}");
        }
        assert!(parse_bytes("18446744073709551616").unwrap_err().contains("64 bits"));
        assert!(parse_bytes("16777216t").unwrap_err().contains("64 bits"));
        assert!(parse_positive_bytes("0").unwrap_err().contains("at least 1"));
    }

    #[test]
    fn pids_come_with_commas_or_as_pidof_prints_them() {
        let pids = |numbers: &[u32]| Ok(Pids(numbers.iter().copied().map(Pid).collect()));
        assert_eq!(parse_pids("12"), pids(&[12]));
        assert_eq!(parse_pids("12,34"), pids(&[12, 34]));
        assert_eq!(parse_pids("12 34\n"), pids(&[12, 34]));
        assert!(parse_pids("").unwrap_err().contains("no process"));
        assert!(parse_pids("0").unwrap_err().contains("0 is no process"));
        for text in ["-1", "abc", "12,x", "4294967296", "1.5"] {
            assert!(parse_pids(text).unwrap_err().contains("is no pid"), "{text}");
        }
    }

    #[test]
    fn top_is_a_number_or_all() {
        assert_eq!("all".parse(), Ok(Top(None)));
        assert_eq!("0".parse(), Ok(Top(Some(0))));
        assert!("-1".parse::<Top>().is_err() && "many".parse::<Top>().is_err());
    }
}
