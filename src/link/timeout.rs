//! How long to wait, as written in option files and on the command line.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A span of time up to a year; `None` is forever, written as 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeout(pub Option<Duration>);

const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

impl Timeout {
    /// How long the donor waits to reach the joiner.
    pub const CONNECT: Timeout = Timeout::seconds(30);
    /// How long both sides wait for any progress.
    pub const IDLE: Timeout = Timeout::seconds(120);

    pub const fn seconds(seconds: u64) -> Timeout {
        Timeout(Some(Duration::from_secs(seconds)))
    }

    /// For a place that cannot express forever: a year is as good.
    pub fn limit(self) -> Duration {
        self.0.unwrap_or(YEAR)
    }
}

/// `30`, `30s`, `500ms`, `5m`, `5min`, `2h`; a bare number is seconds.
impl FromStr for Timeout {
    type Err = String;

    fn from_str(text: &str) -> Result<Timeout, String> {
        let wrong = || {
            format!(
                "`{text}` is not a time of at most a year; write seconds, or a number with ms, s, m or h; 0 means forever"
            )
        };
        let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (digits, unit) = text.split_at_checked(end).ok_or_else(wrong)?;
        let number: u32 = digits.parse().map_err(|_| wrong())?;
        let unit = match unit.trim() {
            "ms" => Duration::from_millis(1),
            "" | "s" => Duration::from_secs(1),
            "m" | "min" => Duration::from_secs(60),
            "h" => Duration::from_secs(3600),
            _ => return Err(wrong()),
        };
        let time = unit.checked_mul(number).filter(|time| *time <= YEAR).ok_or_else(wrong)?;
        Ok(Timeout((!time.is_zero()).then_some(time)))
    }
}

impl fmt::Display for Timeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = self.0.unwrap_or_default();
        match time.as_secs() {
            0 if time.is_zero() => f.write_str("0"),
            seconds if time.subsec_nanos() != 0 => write!(f, "{}ms", seconds * 1000 + u64::from(time.subsec_millis())),
            seconds if seconds % 60 == 0 => write!(f, "{}min", seconds / 60),
            seconds => write!(f, "{seconds}s"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        let ms = |ms| Some(Some(Duration::from_millis(ms)));
        for (text, expected) in [
            ("0", Some(None)),
            ("0ms", Some(None)),
            ("30", ms(30_000)),
            ("30s", ms(30_000)),
            ("500ms", ms(500)),
            ("5m", ms(300_000)),
            ("2min", ms(120_000)),
            ("2 h", ms(7_200_000)),
            ("8760h", ms(365 * 24 * 3_600_000)),
            ("8761h", None),
            ("", None),
            ("soon", None),
            ("-1", None),
            ("5d", None),
            ("1.5s", None),
            ("99999999999", None),
        ] {
            let read = text.parse::<Timeout>();
            assert_eq!(read.clone().ok().map(|time| time.0), expected, "{text}");
            match read {
                Ok(time) => assert_eq!(time.to_string().parse(), Ok(time), "{text}"),
                Err(why) => assert!(why.starts_with(&format!("`{text}` is not a time")), "{why}"),
            }
        }
        assert_eq!([Timeout::CONNECT, Timeout::IDLE].map(|time| time.to_string()), ["30s", "2min"]);
    }
}
