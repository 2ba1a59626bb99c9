//! The node that is looked at: its options, the programs that it would find, and the time.

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::check::options::Options;

#[derive(Clone, Debug)]
pub struct Node {
    pub options: Options,
    /// Where the server would look for programs: its `PATH`.
    pub path: OsString,
    pub now: SystemTime,
}

impl Node {
    /// The program of that name that the server's scripts would run.
    pub fn program(&self, name: &str) -> Option<PathBuf> {
        let is_program = |path: &PathBuf| {
            std::fs::metadata(path).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
        };
        std::env::split_paths(&self.path).map(|dir| dir.join(name)).find(is_program)
    }

    pub fn has(&self, name: &str) -> bool {
        self.program(name).is_some()
    }

    pub fn datadir(&self) -> PathBuf {
        PathBuf::from(self.options.server("datadir").unwrap_or("/var/lib/mysql"))
    }

    /// Is it a node of a Galera cluster at all?
    pub fn is_galera(&self) -> bool {
        self.options.server("wsrep-provider").is_some_and(|provider| provider != "none")
    }

    /// `wsrep_sst_method`; the server's default is `rsync`.
    pub fn method(&self) -> &str {
        self.options.server("wsrep-sst-method").unwrap_or("rsync")
    }

    /// The addresses that other nodes dial, without ports; the certificate should name them.
    pub fn addresses(&self) -> Vec<String> {
        let mut hosts: Vec<String> = Vec::new();
        for key in ["wsrep-node-address", "wsrep-sst-receive-address"] {
            let host = self.options.server(key).map(host_of).filter(|host| !host.eq_ignore_ascii_case("auto"));
            hosts.extend(host.filter(|host| !host.is_empty() && !hosts.contains(host)));
        }
        hosts
    }

    /// The port of state transfers; 4444 unless `wsrep_sst_receive_address` has another.
    pub fn transfer_port(&self) -> u16 {
        let given = self.options.server("wsrep-sst-receive-address").and_then(port_of);
        given.unwrap_or(4444)
    }

    /// What `mariadbd --version` says: "10.11.19".
    pub fn server_version(&self) -> Option<String> {
        let program = ["mariadbd", "mysqld"].into_iter().find_map(|name| self.program(name))?;
        let version = crate::sst::version::of_program(&program)?;
        Some(version.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect())
    }

    /// The owner and group of the data directory: whom the server runs as.
    pub fn server_owner(&self) -> Option<(u32, u32)> {
        use std::os::unix::fs::MetadataExt;
        std::fs::metadata(self.datadir()).ok().map(|dir| (dir.uid(), dir.gid()))
    }
}

/// The host of `host`, `host:port`, `[v6]`, `[v6]:port` or a bare IPv6 address.
pub(crate) fn host_of(text: &str) -> String {
    let text = text.trim();
    if let Some((host, _)) = text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return host.to_owned();
    }
    match text.split_once(':') {
        Some((host, rest)) if !rest.contains(':') => host.to_owned(),
        _ => text.to_owned(),
    }
}

/// The port of the same forms.
pub(crate) fn port_of(text: &str) -> Option<u16> {
    let text = text.trim();
    match text.rsplit_once(']') {
        Some((_, rest)) => rest.strip_prefix(':')?.parse().ok(),
        None => match text.split_once(':') {
            Some((_, port)) => port.parse().ok(),
            None => None,
        },
    }
}

/// A CA option may name a file or a directory.
pub(crate) fn paths<'a>(given: impl IntoIterator<Item = Option<&'a str>>) -> Vec<PathBuf> {
    given.into_iter().flatten().map(|path| Path::new(path).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_ports_are_taken_apart() {
        for (text, host, port) in [
            ("192.0.2.1", "192.0.2.1", None),
            ("192.0.2.1:4445", "192.0.2.1", Some(4445)),
            ("node1.example:1", "node1.example", Some(1)),
            ("[2001:db8::1]:4444", "2001:db8::1", Some(4444)),
            ("[2001:db8::1]", "2001:db8::1", None),
            ("2001:db8::1", "2001:db8::1", None),
            ("x:y", "x", None),
        ] {
            assert_eq!((host_of(text).as_str(), port_of(text)), (host, port), "{text}");
        }
    }
}
