//! The server's own command line, which follows `--mysqld-args`.
//!
//! Reads options as `my_getopt` does: `_` equals `-`, `loose-` is ignored, the last one wins.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

/// The option files that the server was told to read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Defaults {
    pub file: Option<PathBuf>,
    pub extra_file: Option<PathBuf>,
    pub group_suffix: Option<OsString>,
}

impl Defaults {
    /// One option file alone.
    pub fn of_file(file: Option<&PathBuf>, group_suffix: Option<&OsString>) -> Defaults {
        Defaults { file: file.cloned(), extra_file: None, group_suffix: group_suffix.cloned() }
    }

    /// As the server's programs require them: first, in this order.
    pub fn flags(&self) -> Vec<OsString> {
        let file = |name: &str, path: &PathBuf| joined(name, path.as_os_str());
        let file_flags = [
            self.file.as_ref().map(|path| file("--defaults-file=", path)),
            self.extra_file.as_ref().map(|path| file("--defaults-extra-file=", path)),
            self.group_suffix.as_ref().map(|suffix| joined("--defaults-group-suffix=", suffix)),
        ];
        file_flags.into_iter().flatten().collect()
    }
}

fn joined(flag: &str, value: &OsStr) -> OsString {
    let mut whole = OsString::from(flag);
    whole.push(value);
    whole
}

/// Options in order, with normalised names: dashes, no `loose-`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerArgs(Vec<(String, Option<OsString>)>);

impl ServerArgs {
    pub fn parse(args: impl Iterator<Item = OsString>) -> ServerArgs {
        let mut found = Vec::new();
        let mut args = args.peekable();
        while let Some(arg) = args.next() {
            if arg == "--" {
                break;
            }
            let (name, value) = match option(arg.as_bytes()) {
                Some(split) => split,
                None => continue,
            };
            // A server takes no positional arguments, so what follows an option is its value.
            let value = value.or_else(|| args.next_if(|next| !next.as_bytes().starts_with(b"-")));
            found.push((name, value));
        }
        ServerArgs(found)
    }

    /// The last value of an option; `None` if it is absent or has none.
    pub fn value(&self, name: &str) -> Option<&OsStr> {
        self.last(name)?.as_deref()
    }

    /// The last mention of an option, with its value there.
    pub fn last(&self, name: &str) -> Option<&Option<OsString>> {
        self.0.iter().rev().find(|(given, _)| given == name).map(|(_, value)| value)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, Option<&OsStr>)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_deref()))
    }

    /// The option files that the server was told to read.
    pub fn defaults(&self) -> Defaults {
        let path = |name| self.value(name).map(PathBuf::from);
        Defaults {
            file: path("defaults-file"),
            extra_file: path("defaults-extra-file"),
            group_suffix: self.value("defaults-group-suffix").map(OsStr::to_owned),
        }
    }
}

/// Name and attached value of one option; `None` for what is not an option.
fn option(arg: &[u8]) -> Option<(String, Option<OsString>)> {
    if let Some(long) = arg.strip_prefix(b"--") {
        let mut halves = long.splitn(2, |&b| b == b'=');
        let name = normal_name(&String::from_utf8_lossy(halves.next()?));
        return Some((name, halves.next().map(|value| OsString::from_vec(value.to_vec()))));
    }
    // Of the short options only the data directory matters here; the others keep their letter.
    let (letter, rest) = arg.strip_prefix(b"-")?.split_first()?;
    let name = if *letter == b'h' { "datadir".to_owned() } else { char::from(*letter).to_string() };
    Some((name, (!rest.is_empty()).then(|| OsString::from_vec(rest.to_vec()))))
}

/// An option's name as this program writes it.
pub(super) fn normal_name(name: &str) -> String {
    let name = name.trim().replace('_', "-").to_ascii_lowercase();
    name.strip_prefix("loose-").map(str::to_owned).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> ServerArgs {
        ServerArgs::parse(args.iter().map(OsString::from))
    }

    #[test]
    fn options_are_read_as_the_server_reads_them() {
        let cases: &[(&[&str], &str, Option<&str>)] = &[
            (&["--datadir=/a b"], "datadir", Some("/a b")),
            (&["--datadir", "/x"], "datadir", Some("/x")),
            (&["-h", "/x"], "datadir", Some("/x")),
            (&["-h/x"], "datadir", Some("/x")),
            (&["--innodb_data_home_dir=/x"], "innodb-data-home-dir", Some("/x")),
            (&["--loose-innodb_log-group_home_dir=/x"], "innodb-log-group-home-dir", Some("/x")),
            (&["--loose_foo=1"], "foo", Some("1")),
            (&["--log-bin"], "log-bin", None),
            (&["--log-bin", "--datadir=/x"], "log-bin", None),
            (&["--log-bin="], "log-bin", Some("")),
            (&["--datadir=/a", "--datadir=/b"], "datadir", Some("/b")),
            (&["--a=b=c"], "a", Some("b=c")),
            (&["-u", "mysql", "--datadir=/a"], "datadir", Some("/a")),
            (&["--", "--datadir=/a"], "datadir", None),
            (&["", "-", "stray", "--datadir=/a"], "datadir", Some("/a")),
        ];
        for (args, name, value) in cases {
            assert_eq!(parse(args).value(name), value.map(OsStr::new), "{args:?}");
        }
        assert_eq!(parse(&["--log-bin"]).last("log-bin"), Some(&None));
        assert_eq!(parse(&[]).last("log-bin"), None);
    }
}
