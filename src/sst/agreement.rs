//! Settings that the data files must agree with.

use super::options::{OptionFiles, Tier};

/// Those of one node's server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreement {
    /// `innodb_page_size` in bytes; `None` for a value the server would not accept.
    pub page_size: Option<u32>,
    pub lower_case_table_names: Option<u8>,
}

impl Agreement {
    pub fn of(files: &OptionFiles) -> Agreement {
        let text = |name| files.last(Tier::Server, name).and_then(|item| item.value.as_deref()?.to_str());
        Agreement {
            page_size: text("innodb-page-size").map_or(Some(16 * 1024), page_size),
            lower_case_table_names: text("lower-case-table-names").map_or(Some(0), |text| text.parse().ok()),
        }
    }
}

/// `16384` or `16k`: 4 to 64 KiB.
fn page_size(text: &str) -> Option<u32> {
    let bytes = match text.strip_suffix(['k', 'K']) {
        Some(kibibytes) => kibibytes.parse::<u32>().ok()?.checked_mul(1024)?,
        None => text.parse().ok()?,
    };
    (bytes.is_power_of_two() && (4096..=65536).contains(&bytes)).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::super::options::tests::read_with;
    use super::*;

    #[test]
    fn what_the_server_would_take() {
        for (text, size, names) in [
            ("", Some(16384), Some(0)),
            ("[mysqld]\ninnodb_page_size=4k\nlower_case_table_names=1\n", Some(4096), Some(1)),
            ("[mysqld]\ninnodb-page-size=65536\n", Some(65536), Some(0)),
            ("[mysqld]\ninnodb-page-size=5000\nlower_case_table_names=x\n", None, None),
            ("[mysqld]\ninnodb-page-size=99999999k\n", None, Some(0)),
        ] {
            let agreement = Agreement { page_size: size, lower_case_table_names: names };
            assert_eq!(Agreement::of(&read_with(text, &[])), agreement, "{text}");
        }
    }
}
