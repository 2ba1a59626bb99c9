//! The paths within a node's roots that, by its configuration, belong to the node alone: temporary directories, logs,
//! sockets, certificates and keys, the provider's cache.
//!
//! Options for directories, lists and relative paths are known by name. In any other option, a value that is an
//! absolute path within a root counts: plugins add options that nobody here knows.

use std::cell::OnceCell;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::options::{Item, OptionFiles, ProviderOptions, Tier};
use super::paths::{file_names, real};
use crate::error::{Error, Kind, Printable, Result};
use crate::tree::{Own, OwnName, OwnPath, Roots, Scope, Shape, holds_tables, is_data_file};

/// Options that say where data is, or that are not paths: what is there is sent.
const DATA: &[&str] = &[
    "aria-log-dir-path",
    "basedir",
    "cpat",
    "datadir",
    "encrypt-key",
    "innodb-data-file-path",
    "innodb-data-home-dir",
    "innodb-log-group-home-dir",
    "innodb-undo-directory",
    "keep",
    "log-basename",
    "log-bin",
    "log-bin-index",
    "log-ddl-recovery",
    "log-tc",
    "sst-special-dirs",
    "wsrep-sst-auth",
];

/// Prefixes of the options of engines that keep data in separate directories.
const ENGINES: &[&str] = &["rocksdb-", "tokudb-", "mroonga-", "columnstore-", "s3-", "spider-"];

/// Where files come and go while a server runs. May list several, separated by colons.
const TEMPORARY: &[&str] = &["tmpdir", "innodb-tmpdir", "slave-load-tmpdir", "wsrep-sst-tmp-dir", "aria-tmpdir"];

/// Files and directories whose path may be relative to the data directory, in addition to those that end as in
/// [`ENDINGS`].
const PATHS: &[&str] = &[
    "ca",
    "capath",
    "cert",
    "crl",
    "crlpath",
    "key",
    "log-slow-query-file",
    "metrics",
    "relay-log-index",
    "socket",
    "tca",
    "tcapath",
    "tcert",
    "tkey",
];

/// Endings of the names of options that hold a path.
const ENDINGS: &[&str] = &[
    "-ca",
    "-capath",
    "-cert",
    "-crl",
    "-crlpath",
    "-dir",
    "-directory",
    "-file",
    "-file-data",
    "-file-path",
    "-filename",
    "-key",
    "-keyfile",
    "-path",
    "-tmpdir",
];

/// What the paths are found from.
#[derive(Debug)]
pub(super) struct Search<'a> {
    pub files: &'a OptionFiles,
    pub roots: &'a Roots,
    /// `socket` as the server passed it.
    pub socket: Option<&'a OsStr>,
    /// `TMPDIR`, which the server uses if no option says otherwise.
    pub tmpdir: Option<&'a OsStr>,
    /// `innodb_data_home_dir`, if set.
    pub data_home: Option<&'a OsStr>,
    /// Where the symlinks at the top level of the data directory point; found on first use.
    pub links: OnceCell<Vec<PathBuf>>,
}

impl Search<'_> {
    /// # Errors
    /// A path that cannot be the node's own: a temporary directory that holds tables, a log named like a table's file.
    pub(super) fn own(&self) -> Result<Own> {
        let mut found = Vec::new();
        let tiers = [Tier::Server, Tier::Sst, Tier::Backup, Tier::Highline].map(|tier| self.files.tier(tier));
        for item in tiers.into_iter().flatten().chain(self.files.elsewhere()) {
            let Some(value) = item.value.as_deref().filter(|value| !value.is_empty()) else { continue };
            self.item(item, value, &mut found)?;
        }
        if let Some(socket) = self.socket {
            self.path("socket", socket, &mut found)?;
        }
        if self.files.last(Tier::Server, "tmpdir").is_none()
            && let Some(tmpdir) = self.tmpdir
        {
            self.temporary("tmpdir", tmpdir, &mut found)?;
        }
        self.provider(&mut found)?;
        Ok(found.into_iter().collect())
    }

    fn datadir(&self) -> &Path {
        self.roots.datadir()
    }

    fn item(&self, item: &Item, value: &OsStr, found: &mut Vec<OwnPath>) -> Result<()> {
        let key = item.key.as_str();
        if DATA.contains(&key) || ENGINES.iter().any(|engine| key.starts_with(engine)) {
            return Ok(());
        }
        match key {
            _ if TEMPORARY.contains(&key) => return self.temporary(key, value, found),
            "ignore-db-dirs" | "ignore-db-dir" => {
                let name = OwnName::Directory(value.to_owned());
                found.push(OwnPath { directory: self.datadir().to_owned(), name, option: key.to_owned() });
            }
            "relay-log" => {
                let path = self.datadir().join(value);
                if let (Some(parent), Some(name)) = (path.parent(), path.file_name()) {
                    let stem = name.as_bytes().split(|&b| b == b'.').next().unwrap_or_default();
                    let stem = String::from_utf8_lossy(stem).into_owned();
                    for pattern in [format!("{stem}.#"), format!("{stem}-*.#"), format!("{stem}*.index")] {
                        self.files_in(key, &real(parent)?, pattern, found);
                    }
                }
            }
            "log-error" => {
                self.path(key, value, found)?;
                // The server adds an extension if there is none.
                if Path::new(value).extension().is_none() {
                    self.path(key, &joined(value, ".err"), found)?;
                }
            }
            "innodb-temp-data-file-path" => {
                for file in file_names(value, key)? {
                    self.path(key, &file, found)?;
                    if let Some(home) = self.data_home {
                        let mut beneath = joined(home, "/");
                        beneath.push(&file);
                        self.path(key, &beneath, found)?;
                    }
                }
            }
            "server-audit-file-path" => {
                self.path(key, value, found)?;
                let path = self.datadir().join(value);
                if path.is_dir() {
                    self.path(key, path.join("server_audit.log").as_os_str(), found)?;
                }
            }
            "progress" if !value.as_bytes().contains(&b'/') => {}
            "progress" => self.path(key, value, found)?,
            "wsrep-provider-options" | "wsrep-data-home-dir" => {}
            _ => {
                let value = value.as_bytes();
                let file = value.strip_prefix(b"FILE:").or(value.strip_prefix(b"file:"));
                let named =
                    PATHS.contains(&key) || ENDINGS.iter().any(|end| key.ends_with(end)) || key.contains("keyring");
                let value = file.unwrap_or(value);
                // A bare word may be the key itself, which must not be logged.
                let bare = (key.ends_with("key") || key.contains("keyring")) && !value.contains(&b'/');
                let named = named && (!bare || self.datadir().join(OsStr::from_bytes(value)).exists());
                if file.is_some() || named || value.starts_with(b"/") {
                    self.path(key, OsStr::from_bytes(value), found)?;
                }
            }
        }
        Ok(())
    }

    fn temporary(&self, key: &str, value: &OsStr, found: &mut Vec<OwnPath>) -> Result<()> {
        for part in value.as_bytes().split(|&b| b == b':').filter(|part| !part.is_empty()) {
            let path = self.datadir().join(OsStr::from_bytes(part));
            // A path that cannot be resolved is ignored.
            for place in places(&path).unwrap_or_default() {
                if self.is_inside(&place) && place.is_dir() && holds_tables(&place) {
                    return Err(refuse(key, &place, "it holds tables"));
                }
                self.directory(key, &place, found);
            }
        }
        Ok(())
    }

    /// A file, or an existing directory.
    fn path(&self, key: &str, value: &OsStr, found: &mut Vec<OwnPath>) -> Result<()> {
        let path = self.datadir().join(value);
        let Ok(places) = places(&path) else { return Ok(()) };
        for place in places {
            if place.is_dir() {
                // Tables are tables even in a directory that an option names.
                if self.is_inside(&place) && !holds_tables(&place) {
                    self.directory(key, &place, found);
                }
            } else if let (true, Some(directory), Some(name)) =
                (self.is_inside(&place), place.parent(), place.file_name())
            {
                let system = self.roots.owner(directory, name, Shape::File);
                if system.is_some_and(|root| matches!(root.scope, Scope::Names(_))) {
                    continue;
                }
                let table = !matches!(Path::new(name).extension().and_then(OsStr::to_str), Some("cfg" | "opt"));
                if table && is_data_file(name) {
                    return Err(refuse(key, &place, "it is named like part of a table"));
                }
                let name = OwnName::File(name.to_owned());
                found.push(OwnPath { directory: directory.to_owned(), name, option: key.to_owned() });
            }
        }
        Ok(())
    }

    fn directory(&self, key: &str, place: &Path, found: &mut Vec<OwnPath>) {
        // A directory that is, or contains, one of the server's does not belong to the node as a whole.
        let around = self.roots.iter().any(|root| root.path.starts_with(place));
        if let (true, false, Some(directory), Some(name)) =
            (self.is_inside(place), around, place.parent(), place.file_name())
        {
            let name = OwnName::Directory(name.to_owned());
            found.push(OwnPath { directory: directory.to_owned(), name, option: key.to_owned() });
        }
    }

    fn files_in(&self, key: &str, directory: &Path, pattern: String, found: &mut Vec<OwnPath>) {
        if self.roots.iter().any(|root| directory.starts_with(&root.path)) {
            let name = OwnName::Files(pattern);
            found.push(OwnPath { directory: directory.to_owned(), name, option: key.to_owned() });
        }
    }

    /// Strictly beneath a root, or beneath what a schema's symlink points to: nothing else is sent.
    fn is_inside(&self, place: &Path) -> bool {
        let beneath = |root: &Path| place.strip_prefix(root).is_ok_and(|rest| rest.components().next().is_some());
        self.roots.iter().any(|root| beneath(&root.path))
            || self.links.get_or_init(|| self.find_links()).iter().any(|target| beneath(target))
    }

    fn find_links(&self) -> Vec<PathBuf> {
        let Ok(entries) = std::fs::read_dir(self.datadir()) else { return Vec::new() };
        let links = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_symlink()));
        links.filter_map(|link| std::fs::canonicalize(link.path()).ok()).filter(|target| target.is_dir()).collect()
    }

    /// The provider's state and cache, and what its options name.
    fn provider(&self, found: &mut Vec<OwnPath>) -> Result<()> {
        let (mut home, mut cache, mut cache_name) = (None, None, None);
        for (key, value) in ProviderOptions::of(self.files).iter() {
            let (key, value) = (key.to_ascii_lowercase(), OsStr::new(value));
            match key.as_str() {
                _ if value.is_empty() => {}
                "base_dir" => home = Some((key, value)),
                "gcache.dir" => cache = Some((key, value)),
                "gcache.name" => cache_name = Some((key, value)),
                _ if key.starts_with("socket.ssl_") && !key.ends_with("cipher") => self.path(&key, value, found)?,
                _ if value.as_bytes().starts_with(b"/") => self.path(&key, value, found)?,
                _ => {}
            }
        }
        let server = self.files.last(Tier::Server, "wsrep-data-home-dir");
        let server = server.and_then(|item| Some((item.key.clone(), item.value.as_deref().filter(|v| !v.is_empty())?)));
        let home = home.or(server);
        if let Some((key, home)) = &home {
            for name in ["grastate.dat", "gvwstate.dat"] {
                self.path(key, self.datadir().join(home).join(name).as_os_str(), found)?;
            }
        }
        if cache_name.is_none() && cache.is_none() && home.is_none() {
            return Ok(());
        }
        let directory = cache.clone().or(home);
        let directory = directory.as_ref().map_or(self.datadir().to_owned(), |(_, value)| self.datadir().join(value));
        let option = || cache_name.as_ref().or(cache.as_ref()).map_or("wsrep-data-home-dir", |(key, _)| key.as_str());
        let name = cache_name.as_ref().map_or(OsStr::new("galera.cache"), |(_, name)| name);
        self.path(option(), directory.join(name).as_os_str(), found)?;
        if directory != self.datadir() {
            self.files_in(option(), &real(&directory)?, "gcache.page.*".to_owned(), found);
        }
        Ok(())
    }
}

/// A path with its directory resolved; and what it points to, if it is a symlink.
fn places(path: &Path) -> Result<Vec<PathBuf>> {
    // Without `.` at the end, which would not be a name.
    let path: PathBuf = path.components().collect();
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(Vec::new()) };
    let mut places = vec![real(parent)?.join(name)];
    if let Ok(target) = std::fs::canonicalize(&path)
        && !places.contains(&target)
    {
        places.push(target);
    }
    Ok(places)
}

fn joined(value: &OsStr, end: &str) -> OsString {
    OsString::from_vec([value.as_bytes(), end.as_bytes()].concat())
}

fn refuse(key: &str, place: &Path, why: &str) -> Error {
    let what = format!(
        "{key} is {}, and {why}: what belongs to this node alone cannot be told from its data",
        Printable::path(place)
    );
    Error::new(Kind::Usage, what)
        .remedy(format!("set {key} to a path outside the data directory, and restart the server"))
}
