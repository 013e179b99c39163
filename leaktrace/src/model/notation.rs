//! The forms that numbers and paths take in JSON.

/// `u64` as a string such as `"0x7f00"`.
pub(super) mod hex {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's with passes a reference")]
    pub fn serialize<S: Serializer>(value: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{value:#x}"))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse(&text).ok_or_else(|| D::Error::custom(format!("{text:?} is not a hexadecimal number such as \"0x1f\"")))
    }

    pub fn parse(text: &str) -> Option<u64> {
        let digits = text.strip_prefix("0x")?;
        // from_str_radix accepts a sign; an address has none.
        digits.bytes().all(|byte| byte.is_ascii_hexdigit()).then(|| u64::from_str_radix(digits, 16).ok())?
    }
}

/// [`hex`], or null.
pub(super) mod optional_hex {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    #[expect(clippy::ref_option, reason = "serde's with passes a reference to the field")]
    pub fn serialize<S: Serializer>(value: &Option<u64>, serializer: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => super::hex::serialize(value, serializer),
            None => serializer.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
        let Some(text) = Option::<String>::deserialize(deserializer)? else { return Ok(None) };
        let wrong = || D::Error::custom(format!("{text:?} is not a hexadecimal number such as \"0x1f\""));
        super::hex::parse(&text).ok_or_else(wrong).map(Some)
    }
}

/// A `Duration` as seconds, rounded to microseconds: finer digits are noise in a report. Rounded to the nearest, since a
/// large number of seconds is read some nanoseconds off, and truncating would lose a microsecond each time that it is
/// written.
pub(super) mod seconds {
    use std::time::Duration;

    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64((value.as_nanos() + 500).div_euclid(1000) as f64 / 1e6)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let seconds = f64::deserialize(deserializer)?;
        Duration::try_from_secs_f64(seconds)
            .map_err(|_| D::Error::custom(format!("{seconds} is not a number of seconds")))
    }
}

/// A `Duration` as milliseconds, rounded to microseconds.
pub(super) mod milliseconds {
    use std::time::Duration;

    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64((value.as_nanos() + 500).div_euclid(1000) as f64 / 1e3)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let milliseconds = f64::deserialize(deserializer)?;
        Duration::try_from_secs_f64(milliseconds / 1e3)
            .map_err(|_| D::Error::custom(format!("{milliseconds} is not a number of milliseconds")))
    }
}

/// [`seconds`], or null.
pub(super) mod optional_seconds {
    use std::time::Duration;

    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    #[expect(clippy::ref_option, reason = "serde's with passes a reference to the field")]
    pub fn serialize<S: Serializer>(value: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => super::seconds::serialize(value, serializer),
            None => serializer.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        let Some(seconds) = Option::<f64>::deserialize(deserializer)? else { return Ok(None) };
        let wrong = |_| D::Error::custom(format!("{seconds} is not a number of seconds"));
        Duration::try_from_secs_f64(seconds).map_err(wrong).map(Some)
    }
}

/// A path as text, or null. Paths are bytes and JSON strings are not: bytes that are not UTF-8 are replaced, since one odd
/// file name must not cost the whole report.
#[expect(clippy::ref_option, reason = "serde's serialize_with passes a reference to the field")]
pub(super) fn lossy_path<S: serde::Serializer>(
    path: &Option<std::path::PathBuf>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match path {
        Some(path) => serializer.serialize_str(&path.to_string_lossy()),
        None => serializer.serialize_none(),
    }
}
