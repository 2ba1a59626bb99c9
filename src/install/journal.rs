//! The record of a switch: what a later process needs to finish or undo it, and nothing else.
//!
//! A readable JSON file and, on its last line, the SHA-256 of what precedes it. It is replaced whole and durably at
//! each phase. It does not say
//! *which* entries have moved: the tree itself shows that.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::dir::Dir;
use super::keep::{HOME, KeepRules};
use super::resolved_roots::ResolvedRoots;
use super::reuse::Reuse;
use crate::error::{Error, Kind, Printable, Result};
use crate::manifest::Escaped;
use crate::tree::{OwnName, OwnPath, RootName, Roots, Scope};

const NAME: &str = "journal";
const VERSION: u32 = 1;
/// Bytes. Even a journal of a thousand roots is smaller.
const MAX_BYTES: u64 = 1 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Phase {
    /// Both trees are complete and durable, and one is live; any entry may be in transit.
    Switching,
    /// The old tree is being removed to make room; nothing is staged yet.
    Spending,
    /// The new tree is in place and durable. What is left of the old one is to be removed.
    Finished,
    /// The old tree is in place and durable. The staged one stays.
    Undone,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    version: u32,
    phase: Phase,
    roots: Vec<RootRecord>,
    /// What stays in place in addition to the fixed names.
    keep: Vec<String>,
    /// Files of this node that are switched with the tree, by root.
    own: Vec<(RootName, Escaped)>,
    /// Top-level directories of this node that stay in place, by root.
    #[serde(default)]
    stays: Vec<(RootName, Escaped)>,
    /// This node's own paths, by its configuration.
    #[serde(default)]
    own_paths: Vec<OwnRecord>,
    /// What is kept of an abandoned tree.
    #[serde(default)]
    reuse: Reuse,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OwnRecord {
    /// Absolute.
    directory: Escaped,
    name: OwnNameRecord,
    option: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum OwnNameRecord {
    File(Escaped),
    Directory(Escaped),
    Files(String),
}

impl From<&OwnPath> for OwnRecord {
    fn from(own: &OwnPath) -> OwnRecord {
        let bytes = |name: &OsString| Escaped::from(name.as_bytes());
        OwnRecord {
            directory: Escaped::from(own.directory.as_os_str().as_bytes()),
            name: match &own.name {
                OwnName::File(name) => OwnNameRecord::File(bytes(name)),
                OwnName::Directory(name) => OwnNameRecord::Directory(bytes(name)),
                OwnName::Files(pattern) => OwnNameRecord::Files(pattern.clone()),
            },
            option: own.option.clone(),
        }
    }
}

impl From<OwnRecord> for OwnPath {
    fn from(record: OwnRecord) -> OwnPath {
        OwnPath {
            directory: PathBuf::from(OsString::from_vec(record.directory.into_bytes())),
            name: match record.name {
                OwnNameRecord::File(name) => OwnName::File(OsString::from_vec(name.into_bytes())),
                OwnNameRecord::Directory(name) => OwnName::Directory(OsString::from_vec(name.into_bytes())),
                OwnNameRecord::Files(pattern) => OwnName::Files(pattern),
            },
            option: record.option,
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RootRecord {
    name: RootName,
    /// Relative to the data directory (empty for itself), or absolute.
    path: Escaped,
    scope: ScopeRecord,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum ScopeRecord {
    Whole,
    Names(Vec<String>),
    Listed,
}

/// Writes the journal of a switch on these roots. `home` is the data directory's `.highline`.
pub(super) fn write(home: &Dir, resolved: &ResolvedRoots, phase: Phase) -> Result<()> {
    let datadir = resolved.roots.datadir();
    let roots = resolved.roots.iter().map(|root| RootRecord {
        name: root.name.clone(),
        path: Escaped::from(root.path.strip_prefix(datadir).unwrap_or(&root.path).as_os_str().as_bytes()),
        scope: match &root.scope {
            Scope::Whole => ScopeRecord::Whole,
            Scope::Names(patterns) => ScopeRecord::Names(patterns.clone()),
            Scope::Listed => ScopeRecord::Listed,
        },
    });
    let names = |names: &[(RootName, OsString)]| {
        names.iter().map(|(root, name)| (root.clone(), Escaped::from(name.as_bytes()))).collect()
    };
    let record = Record {
        version: VERSION,
        phase,
        roots: roots.collect(),
        keep: resolved.keep.extra().to_vec(),
        own: names(&resolved.own),
        stays: names(&resolved.stays),
        own_paths: resolved.keep.own().iter().map(OwnRecord::from).collect(),
        reuse: resolved.reuse,
    };
    let mut text = serde_json::to_string_pretty(&record)
        .map_err(|e| Error::new(Kind::Io, format!("cannot write {}", home.join(NAME).display())).because(e))?;
    text.push('\n');
    text.push_str(&format!("{}\n", digest(text.as_bytes())));
    home.write(NAME, text.as_bytes(), 0o600)
}

/// The journal in this `.highline`, or `None` if no switch is unfinished.
///
/// # Errors
/// A damaged journal, or one of another version: it is left alone, and so is the tree.
pub(super) fn read(home: &Dir, datadir: &Path) -> Result<Option<(ResolvedRoots, Phase)>> {
    let Some(bytes) = home.read(NAME, MAX_BYTES)? else { return Ok(None) };
    let unusable = |why| {
        let what = format!("the install journal {} is not usable", Printable::path(&home.join(NAME)));
        Error::new(Kind::Integrity, what).because(why).remedy(
            "nothing was touched; look at what is in that directory, and remove the journal once the tree is as you want it",
        )
    };
    let parsed = parse(&bytes, datadir).map_err(unusable)?;
    let mut resolved = ResolvedRoots::new(&parsed.roots, parsed.keep, parsed.own)?;
    resolved.stays = parsed.stays;
    resolved.reuse = parsed.reuse;
    Ok(Some((resolved, parsed.phase)))
}

pub(super) fn exists(home: &Dir) -> Result<bool> {
    Ok(home.stat_of(NAME)?.is_some())
}

/// Removes it, and the data directory's `.highline` too if nothing else is in there.
pub(super) fn remove(home: &Dir, datadir: &Path) -> Result<()> {
    home.remove(NAME)?;
    home.sync()?;
    Dir::open(datadir)?.drop_empty(HOME, home).map(|_| ())
}

/// What a journal holds.
#[derive(Debug)]
pub(crate) struct Parsed {
    roots: Roots,
    keep: KeepRules,
    own: Vec<(RootName, OsString)>,
    stays: Vec<(RootName, OsString)>,
    reuse: Reuse,
    phase: Phase,
}

pub(crate) fn parse(bytes: &[u8], datadir: &Path) -> Result<Parsed, Box<dyn std::error::Error + Send + Sync>> {
    let text = std::str::from_utf8(bytes)?;
    let body = text.trim_end_matches('\n').rfind('\n').map_or(0, |at| at + 1);
    let (body, seal) = text.split_at(body);
    if seal.trim_end() != digest(body.as_bytes()) {
        return Err("its checksum does not match".into());
    }
    let record: Record = serde_json::from_str(body)?;
    if record.version != VERSION {
        return Err(format!("it has version {}, but this program knows {VERSION}", record.version).into());
    }
    let path = |escaped: &Escaped| PathBuf::from(OsStr::from_bytes(escaped.as_bytes()));
    let others = record.roots.iter().filter(|root| root.name.as_str() != RootName::DATADIR);
    let paths: BTreeMap<RootName, PathBuf> = others.map(|root| (root.name.clone(), path(&root.path))).collect();
    let mut roots = Roots::new(datadir, &paths)?;
    for root in record.roots {
        let scope = match root.scope {
            ScopeRecord::Whole => Scope::Whole,
            ScopeRecord::Names(patterns) => Scope::Names(patterns),
            ScopeRecord::Listed => Scope::Listed,
        };
        roots.get_mut(root.name.as_str()).ok_or("a root is missing")?.scope = scope;
    }
    let names = |names: Vec<(RootName, Escaped)>| -> Result<Vec<_>, Box<dyn std::error::Error + Send + Sync>> {
        let plain = |name: &[u8]| !matches!(name, b"" | b"." | b"..") && !name.contains(&b'/') && !name.contains(&0);
        if !names.iter().all(|(_, name)| plain(name.as_bytes())) {
            return Err("an own file has an invalid name".into());
        }
        Ok(names.into_iter().map(|(root, name)| (root, OsString::from_vec(name.into_bytes()))).collect())
    };
    let keep = KeepRules::new(record.keep, record.own_paths.into_iter().map(OwnPath::from).collect());
    let (own, stays) = (names(record.own)?, names(record.stays)?);
    Ok(Parsed { roots, keep, own, stays, reuse: record.reuse, phase: record.phase })
}

pub(crate) fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(datadir: &Path) -> ResolvedRoots {
        std::fs::create_dir_all(datadir.join("undo")).unwrap();
        let paths = BTreeMap::from([("innodb-undo".parse().unwrap(), PathBuf::from("undo"))]);
        let roots = Roots::new(datadir, &paths).unwrap();
        let own = vec![(RootName::datadir(), OsString::from_vec(b"a%\n\xff".to_vec()))];
        let path = |name| OwnPath { directory: datadir.join("a%\n"), name, option: "log-error".to_owned() };
        let paths = [OwnName::File("e".into()), OwnName::Directory("t".into()), OwnName::Files("g.*".into())];
        let keep = KeepRules::new(["x*".to_owned()], paths.map(path).into_iter().collect());
        let mut resolved = ResolvedRoots::new(&roots, keep, own).unwrap();
        resolved.stays.push((RootName::datadir(), "logs".into()));
        resolved.reuse = Reuse::Staged;
        resolved
    }

    #[test]
    fn what_is_written_is_read() {
        let temp = tempfile::tempdir().unwrap();
        let home = Dir::open(temp.path()).unwrap();
        assert!(read(&home, temp.path()).unwrap().is_none());
        let resolved = resolved(&temp.path().canonicalize().unwrap());
        write(&home, &resolved, Phase::Finished).unwrap();
        let (read, phase) = read(&home, temp.path()).unwrap().unwrap();
        assert_eq!((read, phase), (resolved, Phase::Finished));
    }

    #[test]
    fn a_damaged_journal_is_refused_by_name() {
        let temp = tempfile::tempdir().unwrap();
        let home = Dir::open(temp.path()).unwrap();
        let file = temp.path().join(NAME);
        write(&home, &resolved(temp.path()), Phase::Switching).unwrap();
        let whole = std::fs::read(&file).unwrap();
        for at in 0..whole.len() - 1 {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            std::fs::write(&file, &damaged).unwrap();
            let error = read(&home, temp.path()).unwrap_err();
            assert_eq!(error.kind(), Kind::Integrity);
            assert!(error.to_string().contains(file.to_str().unwrap()));
            std::fs::write(&file, &whole[..at]).unwrap();
            assert!(read(&home, temp.path()).is_err(), "cut at {at}");
        }
    }
}
