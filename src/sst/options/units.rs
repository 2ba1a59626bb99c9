//! Numbers with units: bytes and times as people write them.

use std::time::Duration;

/// Bytes: `200M`, `1.5g`, `100000`; K, M, G and T are powers of 1024, as for `pv -L`.
pub(super) fn bytes(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is no rate; write bytes a second as a number with K, M, G or T, as in 200M");
    let number = text.trim_end_matches("/s").trim_end();
    let number = number.strip_suffix(['b', 'B']).unwrap_or(number);
    let number = number.strip_suffix('i').unwrap_or(number);
    let shift = match number.chars().last().map(|unit| unit.to_ascii_lowercase()) {
        Some('k') => 10,
        Some('m') => 20,
        Some('g') => 30,
        Some('t') => 40,
        Some('0'..='9') => 0,
        _ => return Err(wrong()),
    };
    let digits = if shift == 0 { number } else { number.get(..number.len().saturating_sub(1)).unwrap_or_default() };
    let digits = digits.trim();
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return Err(wrong());
    }
    let value: f64 = digits.parse().map_err(|_| wrong())?;
    let value = value * (1_u64 << shift) as f64;
    // Beyond 2^53 a float no longer counts single bytes; nobody needs to.
    if value < 9e15 { Ok(value as u64) } else { Err(wrong()) }
}

/// A time: `30`, `30s`, `500ms`, `5m`, `2h`; a bare number is seconds. `None` where it is 0: off.
pub(super) fn duration(text: &str) -> Result<Option<Duration>, String> {
    let wrong = || format!("`{text}` is no time; write seconds, or a number with ms, s, m or h; 0 switches it off");
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    let number: u32 = digits.parse().map_err(|_| wrong())?;
    let unit = match unit.trim() {
        "ms" => Duration::from_millis(1),
        "" | "s" => Duration::from_secs(1),
        "m" | "min" => Duration::from_secs(60),
        "h" => Duration::from_secs(3600),
        _ => return Err(wrong()),
    };
    let time = unit.checked_mul(number).ok_or_else(wrong)?;
    Ok((!time.is_zero()).then_some(time))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates() {
        for (text, expected) in [
            ("0", Some(0)),
            ("1000", Some(1000)),
            ("10k", Some(10 << 10)),
            ("200M", Some(200 << 20)),
            ("200MB/s", Some(200 << 20)),
            ("200MiB", Some(200 << 20)),
            ("1.5g", Some(3 << 29)),
            ("2T", Some(2 << 40)),
            ("", None),
            ("M", None),
            ("fast", None),
            ("-1", None),
            ("1e9", None),
            ("1..2M", None),
            ("9999999T", None),
        ] {
            assert_eq!(bytes(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn times() {
        let ms = |ms| Some(Some(Duration::from_millis(ms)));
        for (text, expected) in [
            ("0", Some(None)),
            ("30", ms(30_000)),
            ("30s", ms(30_000)),
            ("500ms", ms(500)),
            ("5m", ms(300_000)),
            ("2 h", ms(7_200_000)),
            ("", None),
            ("soon", None),
            ("-1", None),
            ("5d", None),
            ("99999999999", None),
        ] {
            assert_eq!(duration(text).ok(), expected, "{text}");
        }
    }
}
