//! Where this node's files are: flags, environment, the server's command line and its option files,
//! turned into the roots of `tree`.
//!
//! Looks at directories only to find their real paths; does not list any.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::args::{Role, SstArgs};
use super::binlog::Binlog;
use super::options::{Item, OptionFiles, Tier};
use super::own_paths::Search;
use super::paths::{file_names, literal, real, refuse};
use crate::error::{Error, Kind, Result};
use crate::tree::{Own, OwnName, OwnPath, Root, RootName, Roots, Scope};

/// The directories and names of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    pub roots: Roots,
    /// The system tablespace's files, in order; both sides must have the same names.
    pub innodb_data_files: Vec<String>,
    /// `None` if this node writes no binary log.
    pub binlog: Option<Binlog>,
    /// What belongs to this node alone, by its configuration. Never sent by a donor, never removed by a joiner.
    pub own: Own,
}

/// The variable in which scripts get InnoDB's data directory.
pub const DATA_HOME_VARIABLE: &str = "INNODB_DATA_HOME_DIR";

/// The default of `innodb_data_file_path`.
const DATA_FILES: &str = "ibdata1:12M:autoextend";

impl Layout {
    /// The layout of the server that started us, in whose environment we run: `data_home` is the value of
    /// [`DATA_HOME_VARIABLE`], `tmpdir` that of `TMPDIR`.
    pub fn of_server(
        args: &SstArgs,
        files: &OptionFiles,
        data_home: Option<&OsStr>,
        tmpdir: Option<&OsStr>,
    ) -> Result<Layout> {
        let socket = match &args.role {
            Role::Donor(donor) => donor.socket.as_deref().map(Path::as_os_str),
            Role::Joiner(_) => None,
        };
        let flag = |name: &str| match name {
            "log-bin" => args.binlog.as_deref(),
            "log-bin-index" => args.binlog_index.as_deref(),
            "log-basename" => args.log_basename.as_deref(),
            "innodb-data-home-dir" => args.innodb_data_home_dir.as_deref().map(Path::as_os_str).or(data_home),
            "innodb-log-group-home-dir" => args.innodb_log_group_home_dir.as_deref().map(Path::as_os_str),
            "innodb-undo-directory" => args.innodb_undo_directory.as_deref().map(Path::as_os_str),
            "aria-log-dir-path" => args.aria_log_dir_path.as_deref().map(Path::as_os_str),
            "socket" => socket,
            "tmpdir" => tmpdir,
            _ => None,
        };
        Given { files, flag: &flag }.layout(&args.datadir).map_err(|error| error.on(args.side()))
    }

    /// The layout of a server that is not running, from its option files alone.
    pub fn of_files(datadir: &Path, files: &OptionFiles) -> Result<Layout> {
        Given { files, flag: &|_| None }.layout(datadir)
    }
}

/// Names, by the directory they are in.
type Grouped = Vec<(PathBuf, Vec<String>)>;

/// Values by option name: flags first, then the server's own groups and command line.
struct Given<'a> {
    files: &'a OptionFiles,
    flag: &'a dyn Fn(&str) -> Option<&'a OsStr>,
}

impl Given<'_> {
    /// A value that is not empty.
    fn value(&self, name: &str) -> Option<&OsStr> {
        let server = || self.files.last(Tier::Server, name)?.value.as_deref();
        (self.flag)(name).filter(|value| !value.is_empty()).or_else(|| server().filter(|value| !value.is_empty()))
    }

    fn layout(&self, datadir: &Path) -> Result<Layout> {
        let datadir = real(datadir)?;
        let mut paths = BTreeMap::new();
        for (option, root) in [
            ("innodb-log-group-home-dir", RootName::INNODB_LOG),
            ("innodb-undo-directory", RootName::INNODB_UNDO),
            ("aria-log-dir-path", RootName::ARIA_LOG),
        ] {
            if let Some(value) = self.value(option) {
                paths.insert(root_name(root)?, real(&datadir.join(value))?);
            }
        }
        let (data, innodb_data_files) = self.data_files(&datadir)?;
        let binlog = self.binlog(&datadir)?;
        if let Some(first) = data.first() {
            paths.insert(root_name(RootName::INNODB_DATA)?, first.0.clone());
        }
        if let Some(binlog) = &binlog {
            paths.insert(root_name(RootName::BINLOG)?, binlog.directory.clone());
        }
        let mut roots = Roots::new(&datadir, &paths)?;
        let mut number: u32 = 1;
        for (directory, names) in &data {
            let scope = Scope::Names(names.clone());
            match roots.get_mut(RootName::INNODB_DATA) {
                Some(root) if number == 1 => root.scope = scope,
                _ => roots.push(Root {
                    name: root_name(&format!("{}-{number}", RootName::INNODB_DATA))?,
                    path: directory.clone(),
                    scope,
                    stem: None,
                }),
            }
            number = number.saturating_add(1);
        }
        if let (Some(binlog), Some(root)) = (&binlog, roots.get_mut(RootName::BINLOG)) {
            root.stem = Some(binlog.base.clone());
            let mut names = vec![format!("{}.#", binlog.base), format!("{}.state", binlog.base)];
            if let (Some(parent), Some(name)) = (binlog.index.parent(), binlog.index.file_name())
                && parent == binlog.directory
            {
                names.push(literal(name, "log-bin-index")?);
            }
            root.scope = Scope::Names(names);
        }
        let search = Search {
            files: self.files,
            roots: &roots,
            socket: (self.flag)("socket"),
            tmpdir: (self.flag)("tmpdir"),
            data_home: self.value("innodb-data-home-dir"),
            links: OnceCell::new(),
        };
        let mut own = search.own()?;
        if let Some(binlog) = &binlog
            && binlog.index.parent() != Some(&binlog.directory)
            && let (Some(directory), Some(name)) = (binlog.index.parent(), binlog.index.file_name())
        {
            let (directory, name) = (directory.to_owned(), OwnName::File(name.to_owned()));
            own.add(OwnPath { directory, name, option: "log-bin-index".to_owned() });
        }
        Ok(Layout { roots, innodb_data_files, binlog, own })
    }

    /// The system tablespace's files, grouped by directory, and the names of all of them in order.
    fn data_files(&self, datadir: &Path) -> Result<(Grouped, Vec<String>)> {
        let option = "innodb-data-file-path";
        let home = self.value("innodb-data-home-dir").filter(|home| *home != "./" && *home != ".");
        let mut found = Grouped::new();
        let mut in_order = Vec::new();
        for file in file_names(self.value(option).unwrap_or(OsStr::new(DATA_FILES)), option)? {
            // With a home, InnoDB joins the two even if the name is absolute.
            let path = match home {
                Some(home) => {
                    let mut both = home.to_owned();
                    both.push("/");
                    both.push(&file);
                    datadir.join(both)
                }
                None => datadir.join(&file),
            };
            let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
                return Err(refuse(option, &file, "it names no file"));
            };
            let (directory, name) = (real(parent)?, literal(name, option)?);
            in_order.push(name.clone());
            match found.iter_mut().find(|(seen, _)| *seen == directory) {
                Some((_, names)) => names.push(name),
                None => found.push((directory, vec![name])),
            }
        }
        Ok((found, in_order))
    }

    fn binlog(&self, datadir: &Path) -> Result<Option<Binlog>> {
        let Some(base) = self.binlog_base() else { return Ok(None) };
        let path = datadir.join(&base);
        let option = "log-bin";
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(refuse(option, &base, "it names no file"));
        };
        // The server takes the name up to its first dot (observed on 10.11.19).
        let stem = name.as_bytes().split(|&b| b == b'.').next().unwrap_or_default();
        let base = literal(OsStr::from_bytes(stem), option)?;
        if base.is_empty() {
            return Err(refuse(option, name, "its name begins with a dot"));
        }
        let directory = real(parent)?;
        let index = match self.value("log-bin-index") {
            None => directory.join(format!("{base}.index")),
            Some(given) => {
                let mut path = datadir.join(given);
                if path.extension().is_none() {
                    path.set_extension("index");
                }
                match (path.parent(), path.file_name()) {
                    (Some(parent), Some(name)) => real(parent)?.join(name),
                    _ => return Err(refuse("log-bin-index", given, "it names no file")),
                }
            }
        };
        Ok(Some(Binlog { directory, base, index }))
    }

    /// The binary log's name as the server would determine it; `None` if there is none. The last of `log_bin` and
    /// `log_basename` counts.
    fn binlog_base(&self) -> Option<OsString> {
        if let Some(flag) = (self.flag)("log-bin").filter(|value| !value.is_empty()) {
            return Some(flag.to_owned());
        }
        let with_bin = |name: &OsStr| {
            let mut name = name.to_owned();
            name.push("-bin");
            name
        };
        let (mut on, mut base) = (false, (self.flag)("log-basename").map(with_bin));
        for Item { key, value, .. } in self.files.tier(Tier::Server) {
            let value = value.as_deref().filter(|value| !value.is_empty());
            match (key.as_str(), value) {
                ("log-bin", value) => {
                    on = true;
                    base = value.map(OsStr::to_owned).or(base);
                }
                ("log-basename", Some(value)) => base = Some(with_bin(value)),
                ("skip-log-bin" | "disable-log-bin", _) => on = false,
                _ => {}
            }
        }
        on.then(|| base.unwrap_or_else(|| with_bin(&hostname())))
    }
}

fn root_name(name: &str) -> Result<RootName> {
    name.parse().map_err(|error| Error::new(Kind::Usage, name).because(error))
}

fn hostname() -> OsString {
    let name = std::fs::read("/proc/sys/kernel/hostname").unwrap_or_default();
    OsString::from_vec(name.trim_ascii().split(|&b| b == b'.').next().unwrap_or_default().to_vec())
}

#[cfg(test)]
mod tests {
    use super::super::options::tests::read_with;
    use super::*;

    type Words<'a> = &'a [&'a str];

    /// The layout below a temporary `/`; `$` in the texts stands for that directory.
    struct Host {
        dir: tempfile::TempDir,
    }

    impl Host {
        fn new() -> Host {
            let dir = tempfile::tempdir().unwrap();
            std::fs::create_dir(dir.path().join("data")).unwrap();
            Host { dir }
        }

        fn here(&self, text: &str) -> String {
            text.replace('$', self.dir.path().canonicalize().unwrap().to_str().unwrap())
        }

        fn layout(&self, cnf: &str, argv: &[&str], flags: &[&str]) -> Result<Layout> {
            let argv: Vec<String> = argv.iter().map(|arg| self.here(arg)).collect();
            let flags = flags.iter().map(|flag| self.here(flag));
            let files = read_with(&self.here(cnf), &argv.iter().map(String::as_str).collect::<Vec<_>>());
            let fixed = ["--role=joiner", "--address=", "--datadir=$/data/"].map(|flag| self.here(flag));
            let args = SstArgs::parse(fixed.into_iter().chain(flags).map(OsString::from)).unwrap();
            Layout::of_server(&args, &files, None, None)
        }

        /// `root=path names` of the roots that differ from the datadir or have names.
        fn show(&self, layout: &Layout, name: &str) -> String {
            let Some(root) = layout.roots.get(name) else { return "none".into() };
            let names = match &root.scope {
                Scope::Names(names) => names.join(" "),
                other => format!("{other:?}"),
            };
            format!("{} {names}", root.path.display()).replace(&self.here("$"), "$")
        }
    }

    #[test]
    fn everything_lies_in_the_data_directory_by_default() {
        let host = Host::new();
        let layout = host.layout("", &[], &[]).unwrap();
        assert_eq!(layout.roots.directories(), [Path::new(&host.here("$/data"))]);
        assert_eq!((layout.innodb_data_files, layout.binlog), (vec!["ibdata1".to_owned()], None));
    }

    #[test]
    fn directories_of_their_own() {
        let host = Host::new();
        std::os::unix::fs::symlink("data", host.dir.path().join("link")).unwrap();
        let cases: &[(&str, Words<'_>, Words<'_>, &str, &str)] = &[
            ("[mysqld]\ninnodb_log_group_home_dir=$/re do/", &[], &[], "innodb-log", "$/re do ib_logfile#"),
            ("[mysqld]\ninnodb_undo_directory=../undo", &[], &[], "innodb-undo", "$/undo undo#"),
            ("[mysqld]\ninnodb_undo_directory=undo", &[], &[], "innodb-undo", "$/data/undo undo#"),
            ("[mysqld]\ninnodb_undo_directory=.", &[], &[], "innodb-undo", "$/data undo#"),
            ("[mysqld]\ninnodb_undo_directory=$/link", &[], &[], "innodb-undo", "$/data undo#"),
            (
                "[mysqld]\naria_log_dir_path=$/a",
                &["--aria-log-dir-path=$/b"],
                &[],
                "aria-log",
                "$/b aria_log.# aria_log_control",
            ),
            (
                "",
                &["--aria-log-dir-path=$/b"],
                &["--aria-log-dir-path=$/c"],
                "aria-log",
                "$/c aria_log.# aria_log_control",
            ),
            ("[mysqld]\ninnodb_data_home_dir=$/home", &[], &[], "innodb-data", "$/home ibdata1"),
            (
                "[mysqld]\ninnodb_data_home_dir=$/home",
                &[],
                &["--innodb-data-home-dir=./"],
                "innodb-data",
                "$/data ibdata1",
            ),
            (
                "[mysqld]\ninnodb_data_file_path=sys1:12M;sys2:10M:autoextend:max:1G\ninnodb_data_home_dir=h",
                &[],
                &[],
                "innodb-data",
                "$/data/h sys1 sys2",
            ),
            (
                "[mysqld]\ninnodb_data_home_dir=\ninnodb_data_file_path=$/x/a:12M;$/y/b:1M;$/x/c:1M",
                &[],
                &[],
                "innodb-data",
                "$/x a c",
            ),
            (
                "[mysqld]\ninnodb_data_home_dir=\ninnodb_data_file_path=$/x/a:12M;$/y/b:1M;$/x/c:1M",
                &[],
                &[],
                "innodb-data-2",
                "$/y b",
            ),
            ("[mysqld]\ninnodb_data_home_dir=$/h\ninnodb_data_file_path=/x/a:12M", &[], &[], "innodb-data", "$/h/x a"),
        ];
        for (cnf, argv, flags, root, expected) in cases {
            let layout = host.layout(cnf, argv, flags).unwrap();
            assert_eq!(host.show(&layout, root), *expected, "{cnf} {argv:?} {flags:?}");
        }
    }

    #[test]
    fn binary_logs() {
        let host = Host::new();
        let cases: &[(&str, Words<'_>, &str, &str)] = &[
            (
                "[mysqld]\nlog_bin=mysql-bin",
                &[],
                "$/data mysql-bin.# mysql-bin.state mysql-bin.index",
                "$/data/mysql-bin.index",
            ),
            ("[mysqld]\nlog_bin=a.b.c", &[], "$/data a.# a.state a.index", "$/data/a.index"),
            ("", &["--binlog", "$/b in/x"], "$/b in x.# x.state x.index", "$/b in/x.index"),
            ("[mysqld]\nlog_bin=y\nlog_bin_index=$/idx/i", &["--binlog", "x"], "$/data x.# x.state", "$/idx/i.index"),
            ("", &["--binlog", "x", "--binlog-index", "i.idx"], "$/data x.# x.state i.idx", "$/data/i.idx"),
            (
                "[mysqld]\nlog_bin\nlog_basename=base",
                &[],
                "$/data base-bin.# base-bin.state base-bin.index",
                "$/data/base-bin.index",
            ),
            ("[mysqld]\nlog_basename=base\nlog_bin=m", &[], "$/data m.# m.state m.index", "$/data/m.index"),
        ];
        for (cnf, flags, expected, index) in cases {
            let layout = host.layout(cnf, &[], flags).unwrap();
            assert_eq!(host.show(&layout, "binlog"), *expected, "{cnf} {flags:?}");
            assert_eq!(layout.binlog.unwrap().index, PathBuf::from(host.here(index)), "{cnf} {flags:?}");
        }
        for off in ["[mysqld]\nlog_bin=x\nskip-log-bin", "[mysqld]\nlog_basename=x", "[client]\nlog_bin=x"] {
            assert_eq!(host.layout(off, &[], &[]).unwrap().binlog, None, "{off}");
        }
        let named = host.layout("[mysqld]\nlog_bin", &[], &[]).unwrap().binlog.unwrap().base;
        assert!(named.ends_with("-bin") && named.len() > 4, "{named}");
    }

    #[test]
    fn a_node_has_its_own_paths_at_any_depth() {
        let host = Host::new();
        let data = host.dir.path().join("data");
        for name in ["tmp", "db", "tls", "gc", "logs", "audit", "real"] {
            std::fs::create_dir(data.join(name)).unwrap();
        }
        std::fs::write(data.join("db/t.frm"), "").unwrap();
        std::os::unix::fs::symlink("real", data.join("link")).unwrap();
        for (cnf, expected) in [
            ("tmpdir=$/data/tmp", "tmp/ (tmpdir)"),
            ("tmpdir=/tmp:$/data/tmp/:tmp", "tmp/ (tmpdir)"),
            ("tmpdir=$/data", ""),
            ("tmpdir=$", ""),
            ("tmpdir=link", "link/ (tmpdir), real/ (tmpdir)"),
            ("slave_load_tmpdir=tmp", "tmp/ (slave-load-tmpdir)"),
            ("innodb_tmpdir=./tmp", "tmp/ (innodb-tmpdir)"),
            ("ignore_db_dirs=a\nignore-db-dirs=b", "a/ (ignore-db-dirs), b/ (ignore-db-dirs)"),
            ("log_error=errors", "errors (log-error), errors.err (log-error)"),
            ("log_error=$/data/logs/e.log", "logs/e.log (log-error)"),
            ("general_log_file=db/x", "db/x (general-log-file)"),
            ("slow_query_log_file=logs/s", "logs/s (slow-query-log-file)"),
            ("log_slow_query_file=logs/s", "logs/s (log-slow-query-file)"),
            ("pid_file=$/data/n.p", "n.p (pid-file)"),
            ("socket=$/data/run.s", "run.s (socket)"),
            ("socket=$/run/s", ""),
            ("relay_log=logs/r.x", "logs/r*.index (relay-log), logs/r-*.# (relay-log), logs/r.# (relay-log)"),
            ("relay_log_info_file=logs/i", "logs/i (relay-log-info-file)"),
            ("innodb_temp_data_file_path=tmp1:12M:autoextend", "tmp1 (innodb-temp-data-file-path)"),
            ("log_bin=$/b/x\nlog_bin_index=i", "i.index (log-bin-index)"),
            (
                "wsrep_data_home_dir=$/data/gc",
                "gc/galera.cache (wsrep-data-home-dir), gc/gcache.page.* (wsrep-data-home-dir), gc/grastate.dat (wsrep-data-home-dir), gc/gvwstate.dat (wsrep-data-home-dir)",
            ),
            (
                "wsrep_provider_options=\"gcache.size=1M; gcache.dir=gc\"",
                "gc/galera.cache (gcache.dir), gc/gcache.page.* (gcache.dir)",
            ),
            ("wsrep_provider_options=gcache.name=$/data/gc/c", "gc/c (gcache.name)"),
            ("wsrep_provider_options=gcache.name=ring", "ring (gcache.name)"),
            (
                "wsrep_provider_options=\"socket.ssl_key=$/data/tls/k;socket.ssl_cert=tls/c\"",
                "tls/c (socket.ssl_cert), tls/k (socket.ssl_key)",
            ),
            ("ssl_key=tls/any", "tls/any (ssl-key)"),
            ("ssl_capath=tls", "tls/ (ssl-capath)"),
            ("file_key_management_filename=tls/keys.enc", "tls/keys.enc (file-key-management-filename)"),
            ("file_key_management_filekey=FILE:$/data/tls/pass", "tls/pass (file-key-management-filekey)"),
            ("loose_keyring_file_data=tls/ring", "tls/ring (keyring-file-data)"),
            ("some_plugin_thing=$/data/tls/thing", "tls/thing (some-plugin-thing)"),
            ("some_plugin_thing=tls/thing", ""),
            (
                "server_audit_file_path=audit",
                "audit/ (server-audit-file-path), audit/server_audit.log (server-audit-file-path)",
            ),
            ("server_audit_file_path=logs/a.txt", "logs/a.txt (server-audit-file-path)"),
            ("secure_file_priv=$/data/tmp", "tmp/ (secure-file-priv)"),
            ("secure_file_priv=$/data/db", ""),
            ("rocksdb_datadir=$/data/tmp", ""),
            ("[highline]\nprogress=$/data/logs/p", "logs/p (progress)"),
            ("[highline]\nprogress=logs/p", "logs/p (progress)"),
            ("[sst]\ntca=$/data/tls/ca", "tls/ca (tca)"),
            ("[sst]\nprogress=1", ""),
            ("[sst]\nencrypt-key=s3cret", ""),
            ("loose_plugin_master_key=s3cret", ""),
            ("tmpdir=nowhere/deep", "nowhere/deep/ (tmpdir)"),
        ] {
            let cnf = if cnf.starts_with('[') { cnf.to_owned() } else { format!("[mysqld]\n{cnf}") };
            let layout = host.layout(&cnf, &[], &[]).unwrap_or_else(|e| panic!("{cnf}: {}", e.report()));
            let show = |own: &OwnPath| {
                let path = own.path();
                let within = path.strip_prefix(host.here("$/data")).unwrap_or(&path).display().to_string();
                let slash = if matches!(own.name, OwnName::Directory(_)) { "/" } else { "" };
                format!("{within}{slash} ({})", own.option)
            };
            let mut own: Vec<String> = layout.own.iter().map(show).collect();
            own.sort();
            assert_eq!(own.join(", "), expected, "{cnf}");
        }
        for (cnf, says) in [
            (
                "tmpdir=$/data/db",
                "joiner: tmpdir is $/data/db, and it holds tables: what belongs to this node alone cannot",
            ),
            (
                "general_log_file=db/t.MYD",
                "joiner: general-log-file is $/data/db/t.MYD, and it is named like part of a table",
            ),
        ] {
            let error = host.layout(&format!("[mysqld]\n{cnf}"), &[], &[]).unwrap_err();
            assert!(error.report().starts_with(&host.here(says)), "{cnf}: {}", error.report());
        }
    }

    #[test]
    fn what_cannot_be_mapped_is_refused_by_name() {
        let host = Host::new();
        for (cnf, says) in [
            (
                "innodb_data_file_path=/dev/sdb:10Gnewraw",
                "joiner: innodb-data-file-path: /dev/sdb:10Gnewraw: raw devices",
            ),
            ("innodb_data_file_path=ibdata1", "joiner: innodb-data-file-path: ibdata1: it does not have the form"),
            ("innodb_data_file_path=a*:1M", "joiner: innodb-data-file-path: a*: a name must be"),
            ("log_bin=x#", "joiner: log-bin: x#: a name must be"),
            ("log_bin=.x", "joiner: log-bin: .x: its name begins with a dot"),
        ] {
            // A # begins a comment in an option file unless it is quoted.
            let (key, value) = cnf.split_once('=').unwrap();
            let error = host.layout(&format!("[mysqld]\n{key}=\"{value}\""), &[], &[]).unwrap_err();
            assert!(error.report().starts_with(says), "{cnf}: {}", error.report());
        }
    }
}
