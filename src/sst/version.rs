//! Finds out which version a node's server has.
//!
//! If root started the program for another user (`user=mysql`), that user may not read it through `/proc/PID/exe`
//! (proc_pid_exe(5), prctl(2) `PR_SET_DUMPABLE`), so there is more than one way to find out.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::error::Printable;
use crate::threads::{Killed, ended_within};
use crate::tree::{InnodbFiles, Roots};
use crate::version::Series;

/// Names of a server's program.
const PROGRAMS: [&str; 2] = ["mariadbd", "mysqld"];
/// Files that `mariadb-upgrade` leaves in the data directory.
const UPGRADE_INFO: [&str; 2] = ["mariadb_upgrade_info", "mysql_upgrade_info"];
/// The most characters of a version.
const MAX: usize = 64;

/// Where a version was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// `--mysqld-version`.
    Flag,
    /// The program of the running server.
    Running(PathBuf),
    /// A server program that was found; another one may be in use.
    Found(PathBuf),
    /// What `mariadb-upgrade` left.
    UpgradeInfo(&'static str),
    /// The maker of the redo log.
    RedoLog,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Flag => f.write_str("--mysqld-version"),
            Source::Running(path) => write!(f, "its program {}", Printable::path(path)),
            Source::Found(path) => write!(f, "the program {}", Printable::path(path)),
            Source::UpgradeInfo(name) => f.write_str(name),
            Source::RedoLog => f.write_str("the redo log's header"),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Told {
    version: String,
    source: Source,
}

/// The versions found, the one that counts first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerVersion(Vec<Told>);

impl ServerVersion {
    /// Of the server that runs as process `pid`. `basedir` is the server's option, if given.
    pub fn of_running(flag: Option<&str>, pid: u32, basedir: Option<&OsStr>, roots: &Roots) -> ServerVersion {
        if let Some(version) = flag {
            return ServerVersion(vec![Told { version: version.to_owned(), source: Source::Flag }]);
        }
        let exe = PathBuf::from(format!("/proc/{pid}/exe"));
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let path = std::env::var_os("PATH");
        let running = [Some(exe), program_of(&line, path.as_deref())].into_iter().flatten();
        let running = ask(running, Source::Running);
        let data = of_data(roots);
        let Some(running) = running else {
            return ServerVersion::newest(ask(candidates(basedir, path.as_deref()), Source::Found), data);
        };
        ServerVersion([vec![running], data].concat())
    }

    /// Of a server that is not running: what its files say or what the program says, whichever is newer, because a
    /// program older than the files did not write them.
    pub fn of_stopped(roots: &Roots) -> ServerVersion {
        let path = std::env::var_os("PATH");
        ServerVersion::newest(ask(candidates(None, path.as_deref()), Source::Found), of_data(roots))
    }

    /// Of the server that wrote these files.
    pub fn of_files(roots: &Roots) -> ServerVersion {
        ServerVersion::newest(None, of_data(roots))
    }

    fn newest(found: Option<Told>, data: Vec<Told>) -> ServerVersion {
        let mut told: Vec<Told> = found.into_iter().chain(data).collect();
        told.sort_by_key(|told| std::cmp::Reverse(Series::of(&told.version)));
        ServerVersion(told)
    }

    /// Such as `10.11.19-MariaDB`; `None` if it could not be found.
    pub fn text(&self) -> Option<&str> {
        self.0.first().map(|told| told.version.as_str())
    }

    /// Whether it is known, and a line about it for the log.
    pub fn explain(&self) -> (bool, String) {
        let Some((first, others)) = self.0.split_first() else {
            let line = "the version of this node's server is not known: neither its program nor its files say it; nobody checked whether one server can read the other's files, so compare SELECT VERSION() on both nodes";
            return (false, line.to_owned());
        };
        let mut line = format!("this node's server is {} ({} says so)", first.version, first.source);
        for other in others.iter().filter(|other| Series::of(&other.version) != Series::of(&first.version)) {
            line.push_str(&format!("; {} says {}", other.source, other.version));
        }
        (true, line)
    }
}

fn ask(programs: impl IntoIterator<Item = PathBuf>, source: fn(PathBuf) -> Source) -> Option<Told> {
    programs.into_iter().find_map(|path| of_program(&path).map(|version| Told { version, source: source(path) }))
}

/// The program in a command line from `/proc/PID/cmdline`: an absolute path, or a name found through the server's
/// `PATH`, which is ours without what the server has added in front.
fn program_of(line: &[u8], path: Option<&OsStr>) -> Option<PathBuf> {
    let name = OsStr::from_bytes(line.split(|&b| b == 0).next()?);
    if name.as_bytes().first() == Some(&b'/') {
        return Some(name.into());
    }
    // A path with several components was relative to where the server was started; `PATH` begins with its `basedir`.
    let name = Path::new(name).file_name()?;
    std::env::split_paths(path?)
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join(name))
        .find(|program| program.is_file())
}

/// Where a server's program may be.
fn candidates(basedir: Option<&OsStr>, path: Option<&OsStr>) -> Vec<PathBuf> {
    let base = basedir.map(Path::new).into_iter();
    let base = base.flat_map(|base| ["bin", "sbin", "libexec"].map(|dir| base.join(dir)));
    let path = path.map(OsStr::to_owned).unwrap_or_else(|| OsString::from("/usr/sbin:/usr/bin"));
    let usual = ["/usr/sbin", "/usr/libexec", "/usr/local/mysql/bin"].map(PathBuf::from);
    let dirs: Vec<PathBuf> = base.chain(std::env::split_paths(&path)).chain(usual).collect();
    dirs.iter()
        .filter(|dir| dir.is_absolute())
        .flat_map(|dir| PROGRAMS.map(|name| dir.join(name)))
        .filter(|p| p.is_file())
        .collect()
}

/// What the files of `roots` say about the server that wrote them.
fn of_data(roots: &Roots) -> Vec<Told> {
    let upgraded = UPGRADE_INFO.into_iter().find_map(|name| {
        let mut text = String::new();
        std::fs::File::open(roots.datadir().join(name)).ok()?.take(MAX as u64).read_to_string(&mut text).ok()?;
        let version = printable(text.split_whitespace().next()?);
        Series::of(&version).map(|_| Told { version, source: Source::UpgradeInfo(name) })
    });
    let redo = InnodbFiles::of(roots).redo;
    let redo = redo.as_ref().and_then(|redo| redo.creator_version());
    let redo = redo.map(|version| Told { version: version.to_owned(), source: Source::RedoLog });
    upgraded.into_iter().chain(redo).collect()
}

/// `10.11.19-MariaDB-…` out of `mariadbd  Ver 10.11.19-MariaDB-… for …`, which `PROGRAM --version` prints.
pub fn of_program(program: &Path) -> Option<String> {
    /// How long a program may take to answer.
    const PATIENCE: Duration = Duration::from_secs(10);
    let child = Command::new(program)
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let mut child = Killed(child);
    ended_within(&mut child.0, PATIENCE).ok()??;
    let mut text = String::new();
    child.0.stdout.take()?.take(4096).read_to_string(&mut text).ok()?;
    let version = printable(text.split_whitespace().skip_while(|word| *word != "Ver").nth(1)?);
    Series::of(&version).map(|_| version)
}

fn printable(text: &str) -> String {
    text.chars().filter(char::is_ascii_graphic).take(MAX).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A directory with a server's program `name` that says `version`, and with what a redo log's header holds.
    fn host(name: &str, version: &str) -> (tempfile::TempDir, PathBuf, Roots) {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("bin").join(name);
        std::fs::create_dir(dir.path().join("bin")).unwrap();
        std::fs::create_dir(dir.path().join("data")).unwrap();
        let script = format!("#!/bin/sh\necho \"{name}  Ver {version} for Linux\"\n");
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
        let roots = Roots::new(&dir.path().join("data"), &BTreeMap::new()).unwrap();
        (dir, program, roots)
    }

    fn redo(roots: &Roots, creator: &str) {
        let mut header = vec![0; 48];
        header[..4].copy_from_slice(b"Phys");
        header[16..16 + creator.len()].copy_from_slice(creator.as_bytes());
        std::fs::write(roots.datadir().join("ib_logfile0"), header).unwrap();
    }

    #[test]
    fn a_command_line_names_its_program() {
        let (dir, program, _) = host("newer", "11.11.19-MariaDB");
        let path = std::env::join_paths([Path::new("/nowhere"), &dir.path().join("bin")]).unwrap();
        let line = |first: &[u8]| [first, b"--user=mysql".as_slice()].join(&0);
        for (first, found) in [
            (program.as_os_str().as_bytes(), Some(&program)),
            (b"newer", Some(&program)),
            (b"./bin/newer", Some(&program)),
            (b"mariadbd-that-is-not-there", None),
            (b"", None),
        ] {
            assert_eq!(program_of(&line(first), Some(&path)).as_ref(), found);
        }
        assert_eq!(program_of(b"", Some(&path)), None);
        assert_eq!(of_program(&program).as_deref(), Some("11.11.19-MariaDB"));
        assert_eq!(of_program(Path::new("/bin/true")), None);
        assert_eq!(of_program(Path::new("/nowhere/mariadbd")), None);
    }

    #[test]
    fn of_a_found_program_and_the_files_the_newer_counts() {
        let (dir, program, roots) = host("mariadbd", "10.11.19-MariaDB");
        let found = || ask(candidates(Some(dir.path().as_os_str()), Some(OsStr::new("/nowhere"))), Source::Found);
        assert_eq!(found().unwrap().source, Source::Found(program.clone()));
        let versions = || ServerVersion::newest(found(), of_data(&roots));
        assert_eq!(
            versions().explain().1,
            format!("this node's server is 10.11.19-MariaDB (the program {} says so)", program.display())
        );
        std::fs::write(roots.datadir().join("mysql_upgrade_info"), "10.11.2-MariaDB\n").unwrap();
        redo(&roots, "MariaDB 10.6.3");
        assert_eq!(versions().text(), Some("10.11.19-MariaDB"));
        assert!(
            versions().explain().1.ends_with("says so); the redo log's header says 10.6.3"),
            "{versions:?}",
            versions = versions()
        );
        redo(&roots, "MariaDB 11.8.2");
        assert_eq!(versions().text(), Some("11.8.2"), "the program that was found did not write these files");
        assert!(
            versions()
                .explain()
                .1
                .starts_with("this node's server is 11.8.2 (the redo log's header says so); the program")
        );
        assert_eq!(ServerVersion::of_files(&roots).text(), Some("11.8.2"));
    }

    #[test]
    fn a_running_program_counts_before_the_files() {
        let (_dir, _, roots) = host("mariadbd", "1.1");
        redo(&roots, "MariaDB 11.8.2");
        let flag = ServerVersion::of_running(Some("8.0.33"), std::process::id(), None, &roots);
        assert_eq!(flag.text(), Some("8.0.33"));
        let running = Told { version: "10.11.19-MariaDB".into(), source: Source::Running("/x".into()) };
        let versions = ServerVersion([vec![running], of_data(&roots)].concat());
        assert_eq!(
            versions.explain(),
            (
                true,
                "this node's server is 10.11.19-MariaDB (its program /x says so); the redo log's header says 11.8.2"
                    .into()
            )
        );
    }

    #[test]
    fn nothing_known_is_said() {
        let (_dir, _, roots) = host("x", "1.1");
        let (known, line) = ServerVersion::of_files(&roots).explain();
        assert!(!known && line.starts_with("the version of this node's server is not known: "));
        std::fs::write(roots.datadir().join("mysql_upgrade_info"), "junk").unwrap();
        std::fs::write(roots.datadir().join("ib_logfile0"), "short").unwrap();
        assert_eq!(ServerVersion::of_files(&roots).text(), None);
    }
}
