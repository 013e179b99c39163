//! Whether a process leaks: as a sign, as a colour and in words.
//!
//! In: what time and the leak check say of it. Out: a sign that needs no reading.

use super::super::human::{Bytes, Rate};
use super::svg::{Place, Svg};
use crate::clean::elide;
use crate::model::{Growth, GrowthVerdict, Process, Tally};

/// Characters of a reason that are shown; all of it is in the tooltip.
const LONGEST: usize = 170;

/// What time says of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sign {
    /// Nobody asked.
    Unjudged,
    /// It does not grow.
    Steady,
    /// It cannot be told.
    Undecided,
    /// Some of it is lost, and that does not keep growing as far as is known.
    Lost,
    /// It leaks.
    Leak,
}

impl Sign {
    /// That of a process with so much lost.
    pub fn of(process: &Process, lost: Tally) -> Self {
        match process.growth.as_ref().map(|growth| growth.verdict) {
            Some(GrowthVerdict::Leak) => Self::Leak,
            _ if lost.count > 0 => Self::Lost,
            None => Self::Unjudged,
            Some(GrowthVerdict::Steady) => Self::Steady,
            Some(GrowthVerdict::Undecided | GrowthVerdict::Unknown) => Self::Undecided,
        }
    }

    /// Its colour.
    pub fn colour(self) -> &'static str {
        match self {
            Self::Leak => "#c2320e",
            Self::Undecided | Self::Lost => "#a06a00",
            Self::Steady => "#00796b",
            Self::Unjudged => "#6b7280",
        }
    }

    /// The colour of what lies behind its panel.
    pub fn shade(self) -> &'static str {
        match self {
            Self::Leak => "#fff1ec",
            Self::Undecided | Self::Lost => "#fff8e6",
            Self::Steady => "#edf8f5",
            Self::Unjudged => "#f4f5f7",
        }
    }

    /// Draws it for who reads no text: an arrow that rises, an exclamation mark, a question mark, a tick, a dash.
    pub fn draw(self, svg: &mut Svg, (x, y): Place) {
        svg.rect((x, y), (34.0, 34.0), &format!(r#"rx="6" fill="{}""#, self.colour()));
        let stroke =
            r##"fill="none" stroke="#ffffff" stroke-width="3.5" stroke-linecap="round" stroke-linejoin="round""##;
        let shape = match self {
            Self::Leak => "M7 27L15 19L19 22L27 9M18.5 8.5L27 8.5L27 17",
            Self::Steady => "M8 18L14.5 24.5L26.5 10",
            Self::Lost => "M17 7L17 19M17 26.5L17 26.6",
            Self::Undecided => "M11.5 12.5Q12 7.5 17 7.5Q22.5 7.5 22.5 12Q22.5 15 17 18.5L17 20.5M17 26.5L17 26.6",
            Self::Unjudged => "M10 17L24 17",
        };
        svg.put(format_args!(r#"<path transform="translate({x:.1} {y:.1})" d="{shape}" {stroke}/>"#));
    }
}

/// `leaks 1.2 KiB/s at handle_request: blocks stay …`, as much of it as has room, and all of it.
pub fn words(process: &Process, lost: Tally) -> (String, String) {
    let growth = process.growth.as_ref().map_or_else(|| "growth was not judged".to_owned(), sentence);
    let all = if lost.count == 0 { growth } else { format!("{} lost; {growth}", Bytes(lost.bytes)) };
    (elide(&all, LONGEST), all)
}

fn sentence(growth: &Growth) -> String {
    let (rate, reason) = (Rate(growth.bytes_per_s), &growth.reason);
    match growth.verdict {
        GrowthVerdict::Leak => format!("leaks {rate} {reason}"),
        GrowthVerdict::Steady => format!("steady: {reason}"),
        _ if growth.bytes_per_s > 0.0 => format!("undecided: grows {rate} {reason}"),
        _ => format!("undecided: {reason}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(growth: &str) -> Process {
        let text = format!(r#"{{"pid":7,"outstanding_bytes":9,"outstanding_count":1,"growth":{growth}}}"#);
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn a_sign_is_what_time_and_the_leak_check_say() {
        let (none, some) = (Tally::default(), Tally { bytes: 2048, count: 2 });
        let cases = [
            ("null", none, Sign::Unjudged, "growth was not judged"),
            (r#"{"verdict":"steady","reason":"no site grows"}"#, none, Sign::Steady, "steady: no site grows"),
            (
                r#"{"verdict":"steady","reason":"no site grows"}"#,
                some,
                Sign::Lost,
                "2.0 KiB lost; steady: no site grows",
            ),
            (r#"{"verdict":"undecided","reason":"too short"}"#, none, Sign::Undecided, "undecided: too short"),
            (
                r#"{"verdict":"odd","bytes_per_s":9.0,"reason":"at f"}"#,
                none,
                Sign::Undecided,
                "undecided: grows 9.0 B/s at f",
            ),
            (
                r#"{"verdict":"leak","bytes_per_s":2048.0,"reason":"at f: x"}"#,
                some,
                Sign::Leak,
                "2.0 KiB lost; leaks 2.0 KiB/s at f: x",
            ),
        ];
        for (growth, lost, sign, said) in cases {
            let process = process(growth);
            assert_eq!((Sign::of(&process, lost), words(&process, lost).1.as_str()), (sign, said));
        }
    }
}
