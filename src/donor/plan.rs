//! What a round has to do: the difference between the tree as the joiner has it and the tree as it is now.
//!
//! Pure: both
//! are arguments. With an empty basis everything is sent whole.

use std::collections::BTreeMap;
use std::mem::discriminant;
use std::sync::Arc;

use super::pages::Suspect;
use crate::archive::PageHints;
use crate::manifest::{FileDigests, chunks};
use crate::tree::{Content, Entry, Found, RelPath, Source, Stillness};

/// What the joiner has of a file's content, from earlier rounds.
#[derive(Debug)]
pub(super) struct Had {
    pub(super) digests: FileDigests,
    pub(super) hints: Rare<PageHints>,
    /// An equal stamp proves that the content is still what was read.
    pub(super) stamp_tells: bool,
    /// The joiner does not know this metadata and length yet.
    pub(super) touched: bool,
    /// The clone from which the rest is read once the server has been released.
    pub(super) clone: Option<Arc<Source>>,
    /// Chunks with pages of InnoDB's that were not as they must be when they were read last.
    pub(super) suspects: Rare<Suspect>,
}

/// What only some chunks of some files have, by number. Without any it takes a pointer's room.
#[derive(Debug)]
#[expect(clippy::box_collection, reason = "an empty map takes three pointers' room, and nearly all are empty")]
pub(super) struct Rare<T>(Option<Box<BTreeMap<u64, T>>>);

impl<T> Default for Rare<T> {
    fn default() -> Rare<T> {
        Rare(None)
    }
}

impl<T> Rare<T> {
    pub(super) fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |all| all.len())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    pub(super) fn get(&self, chunk: u64) -> Option<&T> {
        self.0.as_ref()?.get(&chunk)
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &T> {
        self.0.iter().flat_map(|all| all.values())
    }

    pub(super) fn insert(&mut self, chunk: u64, value: T) {
        self.0.get_or_insert_default().insert(chunk, value);
    }

    pub(super) fn retain(&mut self, stays: impl Fn(u64) -> bool) {
        if let Some(all) = &mut self.0 {
            all.retain(|chunk, _| stays(*chunk));
            self.0.take_if(|all| all.is_empty());
        }
    }
}

impl Had {
    /// Nothing of a file of `size` bytes.
    pub(super) fn nothing(size: u64) -> Box<Had> {
        let (hints, suspects) = Default::default();
        let digests = FileDigests::new(size);
        Box::new(Had { digests, hints, stamp_tells: false, touched: true, clone: None, suspects })
    }

    /// To be compared with a file of `size` bytes; `other`: its metadata or length has changed. Its stamp is new and
    /// proves nothing until the file has been read.
    fn renewed(mut self: Box<Had>, size: u64, other: bool) -> Box<Had> {
        self.suspects.retain(|chunk| chunk < chunks(size));
        self.digests = std::mem::replace(&mut self.digests, FileDigests::new(0)).renewed(size);
        self.touched |= other;
        (self.stamp_tells, self.clone) = (false, None);
        self
    }
}

/// What is to be done with an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Task {
    /// Nothing: the joiner has it as it is.
    Keep,
    /// Nothing now: there is a clone of it.
    Later,
    /// All of it is sent.
    Send,
    /// A directory that the joiner has: its metadata is sent. Under the lock that alone does not justify a round.
    Update,
    /// The joiner has earlier content: the file is read, and what differs is sent.
    Compare,
}

impl Task {
    /// Whether the entry is sent or compared.
    pub(super) fn reads(self) -> bool {
        matches!(self, Task::Send | Task::Compare)
    }
}

/// One entry of a round.
#[derive(Debug)]
pub(super) struct Planned {
    pub(super) found: Found,
    pub(super) task: Task,
    /// `None` for entries without content.
    pub(super) had: Option<Box<Had>>,
    /// A directory as the joiner has it, if that is to be updated.
    before: Option<Found>,
}

/// The whole tree as the joiner has it, ordered by path, with what was found when it was read. An entry without content
/// has an empty [`Had`] if the joiner may not know it.
pub(super) type Basis = Vec<(Found, Option<Box<Had>>)>;

/// One round's work, and what has disappeared since the last.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Ordered by path.
    pub(super) entries: Vec<Planned>,
    /// Ordered by path; includes everything beneath a directory that is gone.
    pub(super) removed: Vec<RelPath>,
}

impl Plan {
    /// `found` is ordered by path. `again`: the basis was read or cloned under this same lock, so what may change there
    /// has not.
    pub(super) fn new(basis: Basis, found: Vec<Found>, again: bool) -> Plan {
        let mut plan = Plan { entries: Vec::with_capacity(found.len()), removed: Vec::new() };
        let mut basis = basis.into_iter().peekable();
        // Kept, but only if nothing else has changed: see `Stillness::Journal`.
        let mut journals = Vec::new();
        for found in found {
            while let Some((gone, _)) = basis.next_if(|(before, _)| before.entry.path < found.entry.path) {
                plan.removed.push(Entry::from(gone).path);
            }
            match basis.next_if(|(before, _)| before.entry.path == found.entry.path) {
                Some((before, had)) => {
                    let journal = found.stillness() == Stillness::Journal && before.stamp != found.stamp;
                    journals.extend(journal.then(|| (plan.entries.len(), found.clone())));
                    plan.known(before, had, found, again);
                }
                None => plan.send(found),
            }
        }
        plan.removed.extend(basis.map(|(gone, _)| Entry::from(gone).path));
        if !plan.is_empty() {
            for (place, found) in journals {
                let planned = &mut plan.entries[place];
                if planned.task == Task::Keep {
                    planned.task = Task::Compare;
                    planned.had = planned.had.take().map(|had| had.renewed(found.size(), true));
                    planned.found = found;
                }
            }
        }
        plan
    }

    pub(super) fn into_basis(self) -> Basis {
        let known = |Planned { found, had, before, .. }| (before.unwrap_or(found), had);
        self.entries.into_iter().map(known).collect()
    }

    /// What to send from clones, after the server was released.
    pub(super) fn of_clones(basis: Basis) -> Plan {
        let entries = basis.into_iter().map(|(found, had)| {
            let task = if had.as_ref().is_some_and(|had| had.clone.is_some()) { Task::Compare } else { Task::Keep };
            Planned { found, task, had, before: None }
        });
        Plan { entries: entries.collect(), removed: Vec::new() }
    }

    /// Entries that are sent or compared.
    pub(super) fn work(&self) -> impl Iterator<Item = &Planned> {
        self.entries.iter().filter(|planned| planned.task.reads())
    }

    /// Whether the joiner has everything, apart from directories' metadata.
    pub(super) fn is_empty(&self) -> bool {
        self.removed.is_empty() && self.work().next().is_none()
    }

    fn push(&mut self, found: Found, task: Task, had: Option<Box<Had>>) {
        self.entries.push(Planned { found, task, had, before: None });
    }

    fn send(&mut self, found: Found) {
        let had = matches!(found.entry.content, Content::File { .. }).then(|| Had::nothing(found.size()));
        self.push(found, Task::Send, had);
    }

    /// The joiner has something under this path.
    fn known(&mut self, before: Found, had: Option<Box<Had>>, found: Found, again: bool) {
        let same = before.entry == found.entry;
        match (&before.entry.content, &found.entry.content, had) {
            (Content::File { .. }, Content::File { .. }, Some(had)) => {
                let equal = same && before.stamp == found.stamp;
                if again && had.clone.is_some() && equal {
                    self.push(before, Task::Later, Some(had));
                } else if had.digests.is_complete()
                    && ((had.stamp_tells && equal) || (again && found.stillness().holds(before.stamp, found.stamp)))
                {
                    self.push(before, Task::Keep, Some(had));
                } else {
                    let had = had.renewed(found.size(), !same);
                    self.push(found, Task::Compare, Some(had));
                }
            }
            (_, _, None) if same => self.push(found, Task::Keep, None),
            (now, then, Some(_)) if discriminant(now) == discriminant(then) => self.send(found),
            (Content::Directory, Content::Directory, had) => {
                self.entries.push(Planned { found, task: Task::Update, had, before: Some(before) });
            }
            // The type has changed, or a link points elsewhere: the old one goes first.
            _ => {
                self.removed.push(Entry::from(before).path);
                self.send(found);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{CHUNK, Digest};
    use crate::tree::{Roots, Rules, Tolerance, scan};
    use std::fs;
    use std::path::Path;

    fn look(dir: &Path) -> Vec<Found> {
        let mut roots = Roots::new(dir, &BTreeMap::new()).unwrap();
        scan(&mut roots, &Rules::default(), Tolerance::None).unwrap()
    }

    /// The joiner has all of it as it is.
    fn sent(plan: Plan) -> Basis {
        let had = |planned: Planned| {
            let had = planned.had.map(|mut had| {
                (0..chunks(planned.found.size())).for_each(|chunk| {
                    had.digests.take(chunk, Digest::from_bytes([1; 32]));
                });
                (had.stamp_tells, had.touched) = (true, false);
                had
            });
            (planned.found, had)
        };
        plan.entries.into_iter().map(had).collect()
    }

    fn tasks(plan: &Plan) -> Vec<String> {
        let text = |planned: &Planned| format!("{:?} {}", planned.task, planned.found.entry.path.beneath().display());
        let removed = plan.removed.iter().map(|path| format!("Remove {}", path.beneath().display()));
        plan.work().map(text).chain(removed).collect()
    }

    #[test]
    fn without_a_basis_everything_is_sent() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("s")).unwrap();
        fs::write(dir.path().join("s/a"), "a").unwrap();
        let plan = Plan::new(Vec::new(), look(dir.path()), false);
        assert_eq!(tasks(&plan), ["Send s", "Send s/a"]);
        assert!(Plan::new(sent(plan), look(dir.path()), false).is_empty());
    }

    #[test]
    fn every_kind_of_change_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["d", "gone", "gone/deep", "file-then-dir.d"] {
            fs::create_dir(at(name)).unwrap();
        }
        for name in ["d/same", "d/written", "d/longer", "d/touched", "gone/deep/x", "becomes-dir", "old-name"] {
            fs::write(at(name), "1").unwrap();
        }
        std::os::unix::fs::symlink("one", at("link")).unwrap();
        fs::hard_link(at("d/same"), at("d/zz-second-name")).unwrap();
        let basis = sent(Plan::new(Vec::new(), look(dir.path()), false));

        fs::write(at("d/written"), "2").unwrap();
        fs::write(at("d/longer"), "12345").unwrap();
        fs::set_permissions(at("d/touched"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        fs::write(at("d/new"), "n").unwrap();
        fs::remove_dir_all(at("gone")).unwrap();
        fs::remove_file(at("becomes-dir")).unwrap();
        fs::create_dir(at("becomes-dir")).unwrap();
        fs::remove_dir(at("file-then-dir.d")).unwrap();
        fs::write(at("file-then-dir.d"), "f").unwrap();
        fs::rename(at("old-name"), at("new-name")).unwrap();
        fs::remove_file(at("link")).unwrap();
        std::os::unix::fs::symlink("two", at("link")).unwrap();
        let plan = Plan::new(basis, look(dir.path()), false);
        assert_eq!(
            tasks(&plan),
            [
                "Send becomes-dir",
                "Compare d/longer",
                "Send d/new",
                "Compare d/touched",
                "Compare d/written",
                "Send file-then-dir.d",
                "Send link",
                "Send new-name",
                "Remove becomes-dir",
                "Remove file-then-dir.d",
                "Remove gone",
                "Remove gone/deep",
                "Remove gone/deep/x",
                "Remove link",
                "Remove old-name",
            ]
        );
    }

    #[test]
    fn a_stamp_is_believed_only_where_it_tells_and_nothing_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("f"), vec![0; CHUNK as usize + 1]).unwrap();
        let basis = || sent(Plan::new(Vec::new(), look(dir.path()), false));
        let with = |change: fn(&mut Had)| {
            let mut basis = basis();
            change(basis[0].1.as_mut().unwrap());
            tasks(&Plan::new(basis, look(dir.path()), false))
        };
        assert_eq!(with(|_| {}), [""; 0]);
        assert_eq!(with(|had| had.stamp_tells = false), ["Compare f"]);
        assert_eq!(with(|had| had.digests.tear(1..2)), ["Compare f"]);
        assert_eq!(with(|had| had.digests = FileDigests::new(CHUNK + 1)), ["Compare f"]);
    }

    #[test]
    fn what_was_cloned_under_an_earlier_lock_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("f"), "1").unwrap();
        let basis = sent(Plan::new(Vec::new(), look(dir.path()), false));
        fs::write(dir.path().join("f"), "22").unwrap();
        let cloned = |basis: Basis| -> Basis {
            let mut basis = Plan::new(basis, look(dir.path()), false).into_basis();
            let clone = Source::still(fs::File::open(dir.path().join("f")).unwrap(), 2, false);
            basis[0].1.as_mut().unwrap().clone = Some(Arc::new(clone));
            basis
        };
        let basis = cloned(basis);
        let again = Plan::new(basis, look(dir.path()), true);
        assert_eq!(tasks(&again), [""; 0], "under the same lock");
        assert_eq!(tasks(&Plan::new(again.into_basis(), look(dir.path()), false)), ["Compare f"]);
    }

    #[test]
    fn what_has_no_content_and_may_not_have_been_sent_comes_again() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("d")).unwrap();
        std::os::unix::fs::symlink("one", dir.path().join("l")).unwrap();
        let after = |plan: Plan, whole| {
            let roots = Roots::new(dir.path(), &BTreeMap::new()).unwrap();
            let round = super::super::catalog::Catalog::new(roots, plan.entries, true, |_| true).unwrap();
            Plan::new(round.into_basis(whole).1, look(dir.path()), false)
        };
        // The server was released before their turn came, twice.
        let plan = after(after(Plan::new(Vec::new(), look(dir.path()), false), false), false);
        assert_eq!(tasks(&plan), ["Send d", "Send l"]);
        let plan = after(plan, true);
        assert_eq!(tasks(&plan), [""; 0]);
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        fs::set_permissions(dir.path().join("d"), mode).unwrap();
        let plan = after(Plan::new(plan.into_basis(), look(dir.path()), false), false);
        assert_eq!(tasks(&plan), ["Send d"], "its metadata");
        assert!(after(plan, true).is_empty());
    }

    #[test]
    fn no_file_loses_what_is_known_of_it() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["ib_logfile0", "ibdata1"] {
            fs::write(dir.path().join(name), "1").unwrap();
        }
        let basis = sent(Plan::new(Vec::new(), look(dir.path()), false));
        for name in ["ib_logfile0", "ibdata1"] {
            fs::write(dir.path().join(name), "22").unwrap();
        }
        for again in [false, true] {
            let basis = basis.iter().map(|(found, _)| (found.clone(), Some(Had::nothing(1)))).collect();
            let plan = Plan::new(basis, look(dir.path()), again);
            assert!(plan.entries.iter().all(|planned| planned.had.is_some()), "{plan:?}");
        }
    }

    #[test]
    fn a_redo_log_that_is_written_on_is_read_again_only_when_something_else_is_too() {
        let dir = tempfile::tempdir().unwrap();
        let basis = || {
            fs::write(dir.path().join("ib_logfile0"), "1").unwrap();
            fs::write(dir.path().join("ibdata1"), "1").unwrap();
            let basis = sent(Plan::new(Vec::new(), look(dir.path()), false));
            fs::write(dir.path().join("ib_logfile0"), "2").unwrap();
            basis
        };
        assert_eq!(tasks(&Plan::new(basis(), look(dir.path()), true)), [""; 0]);
        let before = basis();
        fs::write(dir.path().join("ibdata1"), "2").unwrap();
        assert_eq!(tasks(&Plan::new(before, look(dir.path()), true)), ["Compare ibdata1", "Compare ib_logfile0"]);
        // Whatever is done with it, what the joiner has of it stays known.
        for again in [true, false] {
            let before = basis();
            fs::write(dir.path().join("ibdata1"), "2").unwrap();
            let plan = Plan::new(before, look(dir.path()), again);
            assert!(plan.work().all(|planned| planned.had.is_some()), "{again}");
        }
    }

    #[test]
    fn what_only_grows_stays_under_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("mysql/general_log.CSV");
        fs::create_dir(dir.path().join("mysql")).unwrap();
        fs::write(&log, "1\n").unwrap();
        let basis = || {
            fs::write(&log, "1\n").unwrap();
            let basis = sent(Plan::new(Vec::new(), look(dir.path()), false));
            fs::write(&log, "1\n2\n").unwrap();
            basis
        };
        assert_eq!(tasks(&Plan::new(basis(), look(dir.path()), true)), [""; 0]);
        assert_eq!(tasks(&Plan::new(basis(), look(dir.path()), false)), ["Compare mysql/general_log.CSV"]);
    }
}
