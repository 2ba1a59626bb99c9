//! A database server's version, as far as it decides whose files a server can read.

use std::fmt;

/// `10.11` of `10.11.19-MariaDB`: a server reads the files of its own series and of older ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Series {
    pub major: u32,
    pub minor: u32,
}

impl Series {
    pub const fn new(major: u32, minor: u32) -> Series {
        Series { major, minor }
    }

    /// `None` if the text does not begin with two numbers.
    pub fn of(version: &str) -> Option<Series> {
        let mut numbers = version.trim().split(['.', '-']).map_while(|part| part.parse().ok());
        Some(Series { major: numbers.next()?, minor: numbers.next()? })
    }
}

impl fmt::Display for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_is_the_first_two_numbers() {
        for (text, series) in [
            ("10.11.19-MariaDB-0+deb12u1", Some((10, 11))),
            ("11.4.0", Some((11, 4))),
            ("8.0", Some((8, 0))),
            (" 10.6.3\n", Some((10, 6))),
            ("10", None),
            ("", None),
            ("MariaDB", None),
            ("99999999999.1", None),
        ] {
            assert_eq!(Series::of(text), series.map(|(major, minor)| Series::new(major, minor)), "{text}");
        }
        assert!(Series::new(10, 11) > Series::new(10, 6) && Series::new(11, 0) > Series::new(10, 11));
    }
}
