//! The node being checked: its options, the programs it would find, and the time.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::SystemTime;

use super::options::{Group, Options};
use super::own::PORT;
use crate::host_port::HostPort;
use crate::programs::find_in;
use crate::sst::options::{ListenOn, Tier};

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
        find_in(&self.path, &[name])
    }

    pub fn has(&self, name: &str) -> bool {
        self.program(name).is_some()
    }

    pub fn datadir(&self) -> PathBuf {
        self.options.datadir()
    }

    /// An option's path, made absolute: relative ones start in the data directory, where the server works.
    pub fn path(&self, given: &str) -> PathBuf {
        self.datadir().join(given)
    }

    /// The same for the options that are set.
    pub fn paths<'a>(&self, given: impl IntoIterator<Item = Option<&'a str>>) -> Vec<PathBuf> {
        given.into_iter().flatten().map(|path| self.path(path)).collect()
    }

    /// Whether it is meant to be a Galera node at all.
    pub fn is_galera(&self) -> bool {
        self.provider().is_some()
    }

    /// `wsrep_provider`; the value "none" means none.
    pub fn provider(&self) -> Option<&str> {
        self.options.server("wsrep-provider").filter(|provider| *provider != "none")
    }

    /// `wsrep_on`; the server's default is off.
    pub fn is_on(&self) -> bool {
        self.options.switch(Group::Server, "wsrep-on") == Some(true)
    }

    /// `wsrep_sst_method`; the server's default is `rsync`.
    pub fn method(&self) -> &str {
        self.options.server("wsrep-sst-method").unwrap_or("rsync")
    }

    /// The addresses that other nodes connect to, without ports; the certificate should name them.
    pub fn addresses(&self) -> Vec<String> {
        let mut hosts: Vec<String> = Vec::new();
        for key in ["wsrep-node-address", "wsrep-sst-receive-address"] {
            hosts.extend(self.host(key).filter(|host| !hosts.contains(host)));
        }
        hosts
    }

    /// The host that a joiner announces, if the configuration says it; otherwise the server
    /// guesses.
    pub fn announced(&self) -> Option<String> {
        self.host("wsrep-sst-receive-address").or_else(|| self.host("wsrep-node-address"))
    }

    /// The host that `key` names; `AUTO` leaves it to the server.
    fn host(&self, key: &str) -> Option<String> {
        let host = self.options.server(key).map(|text| place(text).host);
        host.filter(|host| !host.is_empty() && !host.eq_ignore_ascii_case("auto"))
    }

    /// The port of state transfers: that of `listen`, which only our method reads, or of `wsrep_sst_receive_address`.
    pub fn transfer_port(&self) -> u16 {
        let listen = self.options.files.last(Tier::Highline, "listen").filter(|_| self.method() == "highline");
        let listen = listen.and_then(|item| item.text().ok()?.parse::<ListenOn>().ok()?.port);
        let given = || self.options.server("wsrep-sst-receive-address").and_then(|text| place(text).port);
        listen.or_else(given).unwrap_or(PORT)
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

/// The address an option names; what does not parse counts as a host name.
fn place(text: &str) -> HostPort {
    let text = text.trim();
    text.parse().unwrap_or_else(|_| HostPort { host: text.to_owned(), port: None })
}
