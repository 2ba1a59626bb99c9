//! Finds a value among the groups, and remembers where it came from and what was asked for.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use super::files::{Item, OptionFiles, Tier};
use crate::error::{Error, Kind, Printable, Result, Side};

/// Where an effective value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    pub key: String,
    /// As it was given; never a secret.
    pub value: String,
    pub group: String,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={} ({})", self.key, Printable(self.value.as_bytes()), self.group)
    }
}

/// A value and where it came from: what the server's own groups say about client connections counts less than what was
/// written for transfers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requested {
    pub text: String,
    pub tier: Tier,
    /// `ssl-cipher in [sst]`.
    pub name: String,
}

/// A place where a value may be set.
pub(super) type Place<'a> = (Tier, &'a str);

/// The places of an option that the server's own scripts read in several groups.
pub(super) fn everywhere(key: &str) -> [Place<'_>; 3] {
    [(Tier::Sst, key), (Tier::Server, key), (Tier::Backup, key)]
}

pub(super) struct Lookup<'a> {
    pub(super) files: &'a OptionFiles,
    side: Side,
    datadir: &'a Path,
    asked: BTreeSet<(Tier, String)>,
    pub(super) sources: Vec<Source>,
    pub(super) notes: Vec<String>,
}

impl<'a> Lookup<'a> {
    /// For the role `side`, on a node whose relative paths start at `datadir`, its server's working directory.
    pub(super) fn new(files: &'a OptionFiles, side: Side, datadir: &'a Path) -> Lookup<'a> {
        Lookup { files, side, datadir, asked: BTreeSet::new(), sources: Vec::new(), notes: Vec::new() }
    }

    /// The first of these places that sets a value; empty values do not count.
    pub(super) fn first(&mut self, places: &[Place<'_>]) -> Option<&'a Item> {
        let found = self.quietly(places);
        if let Some(item) = found {
            self.report(item);
        }
        found
    }

    /// Like [`Lookup::first`], but does not report it.
    pub(super) fn quietly(&mut self, places: &[Place<'_>]) -> Option<&'a Item> {
        self.asked.extend(places.iter().map(|&(tier, key)| (tier, key.to_owned())));
        let mut found = places
            .iter()
            .filter_map(|&(tier, key)| self.files.last(tier, key))
            .filter(|item| item.value.as_ref().is_none_or(|value| !value.is_empty()));
        found.next()
    }

    /// Adds it, once, to the list of where values came from.
    pub(super) fn report(&mut self, item: &Item) {
        let value = item.value.as_ref().map(|value| value.to_string_lossy().into_owned()).unwrap_or_default();
        self.add_source(item, value);
    }

    fn add_source(&mut self, item: &Item, value: String) {
        let source = Source { key: item.key.clone(), value, group: item.origin.clone() };
        if !self.sources.contains(&source) {
            self.sources.push(source);
        }
    }

    /// The path that an item names, made absolute.
    pub(super) fn path_of(&self, item: &Item) -> Option<PathBuf> {
        item.value.as_ref().map(|value| self.datadir.join(value))
    }

    /// Like [`Lookup::report`], with the absolute path.
    pub(super) fn report_path(&mut self, item: &Item) {
        let path = self.path_of(item).unwrap_or_default();
        self.add_source(item, path.to_string_lossy().into_owned());
    }

    pub(super) fn path(&mut self, places: &[Place<'_>]) -> Option<PathBuf> {
        let item = self.quietly(places)?;
        self.report_path(item);
        self.path_of(item)
    }

    /// A value that only the role `whose` uses: a wrong one does not stop the other role.
    pub(super) fn parsed_for<T>(
        &mut self,
        whose: Side,
        places: &[Place<'_>],
        check: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<T>> {
        if whose == self.side {
            return self.parsed(places, check);
        }
        let Some(item) = self.quietly(places) else { return Ok(None) };
        match item.text().and_then(|text| check(text).map_err(|why| refuse(item, &why))) {
            Ok(_) => self.report(item),
            Err(error) => {
                self.note(format!(
                    "WARNING: {}; this node cannot be a {whose} until it is corrected",
                    error.sentence()
                ));
            }
        }
        Ok(None)
    }

    /// A checked value; `check` says what is allowed if it refuses.
    pub(super) fn parsed<T>(
        &mut self,
        places: &[Place<'_>],
        check: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<T>> {
        let Some(item) = self.first(places) else { return Ok(None) };
        check(item.text()?).map(Some).map_err(|why| refuse(item, &why))
    }

    pub(super) fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// Whether `key` would have an effect there.
    pub(super) fn knows(&self, tier: Tier, key: &str) -> bool {
        self.asked.contains(&(tier, key.to_owned()))
    }

    /// What a group sets but was never asked for.
    pub(super) fn unasked(&self, tier: Tier) -> Vec<&'a Item> {
        let mut seen = BTreeSet::new();
        let unasked = |item: &&Item| !self.asked.contains(&(tier, item.key.clone()));
        self.files.tier(tier).iter().filter(unasked).filter(|item| seen.insert(item.key.as_str())).collect()
    }

    /// The known name nearest to a misspelt one.
    pub(super) fn nearest(&self, tier: Tier, key: &str) -> Option<&str> {
        self.asked
            .iter()
            .filter(|(asked, _)| *asked == tier)
            .map(|(_, name)| (strsim::jaro_winkler(name, key), name.as_str()))
            .filter(|(likeness, _)| *likeness > 0.8)
            .max_by(|(a, _), (b, _)| a.total_cmp(b))
            .map(|(_, name)| name)
    }
}

pub(super) fn refuse(item: &Item, why: &str) -> Error {
    Error::new(Kind::Usage, format!("{}: {why}", item.name()))
}
