//! Whether this node's server can use what the donor's server wrote, and whether it should.

use std::fmt;

use crate::error::{Error, Kind, Printable, Result};
use crate::position::Position;
use crate::tree::Recovery;
use crate::version::Series;
use crate::wire::Offer;

/// What this node is before anything is replaced. `None` means unknown.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Such as `10.11.19-MariaDB`.
    pub server_version: Option<String>,
    /// Where the version was found, or that it was not: a line for the log.
    pub about_version: String,
    pub page_size: Option<PageSize>,
    pub lower_case_table_names: Option<u8>,
    pub old: Option<OldData>,
}

/// `innodb_page_size` of this node, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageSize {
    Configured(u32),
    /// From this node's old data, if the configuration is not known.
    OfOldData(u32),
}

/// The position, in the cluster's history, of the data that would be replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OldData {
    /// A `seqno` of -1 means that the server ended without writing it down.
    pub position: Position,
    /// `safe_to_bootstrap: 1`: no other node has newer data, as far as this one knows.
    pub last_to_leave: bool,
    pub older_donor: OlderDonor,
}

/// What to do about a donor whose data is older.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OlderDonor {
    Refused,
    /// Only logged: the server has chosen its donor, or the operator allows it.
    Told,
}

/// Refuses what this node's server could not start on, and data older than what it would replace. Returns warnings for
/// the log.
pub(super) fn examine(offer: &Offer, here: &Facts) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    version(offer, here, &mut warnings)?;
    redo_log(offer, here, &mut warnings)?;
    page_size(offer, here, &mut warnings)?;
    if let (Some(there), Some(here)) = (offer.lower_case_table_names, here.lower_case_table_names)
        && there != here
    {
        warnings.push(format!(
            "lower_case_table_names is {there} on the donor and {here} here: tables with capitals in their names may not be found; it must be the same on all nodes"
        ));
    }
    if let Some(old) = &here.old {
        history(offer, old, &mut warnings)?;
    }
    Ok(warnings)
}

/// A server can start on the files of its own series or an older one, not on those of a newer one.
fn version(offer: &Offer, here: &Facts, warnings: &mut Vec<String>) -> Result<()> {
    let theirs = offer.server_version.as_deref();
    let (Some(donor), Some(joiner)) = (theirs.and_then(Series::of), series(here)) else {
        if theirs.and_then(Series::of).is_none() {
            let line = "the donor could not tell its server's version, so nobody checked whether this node's server can read its files; compare SELECT VERSION() on both nodes";
            warnings.push(line.to_owned());
        }
        return Ok(());
    };
    if donor <= joiner {
        return Ok(());
    }
    Err(Error::new(
        Kind::Incompatible,
        format!(
            "the donor's server is {}, this node's is {}, which cannot read its files",
            Shown(theirs.unwrap_or_default()),
            Shown(here.server_version.as_deref().unwrap_or_default())
        ),
    )
    .remedy("upgrade this node's server first"))
}

fn redo_log(offer: &Offer, here: &Facts, warnings: &mut Vec<String>) -> Result<()> {
    let Some(redo) = &offer.innodb.redo else {
        let line = "the donor could not tell the format of its redo log, so nobody checked whether this node's server can recover it";
        warnings.push(line.to_owned());
        return Ok(());
    };
    let creator = Shown(&redo.creator);
    let Some(ours) = series(here) else {
        if redo.written_by().is_none() {
            warnings.push(format!("the donor's redo log, made by {creator}, has a format that is not known here"));
        }
        return Ok(());
    };
    let version = Shown(here.server_version.as_deref().unwrap_or_default());
    let written_by = redo.written_by().unwrap_or_default();
    match redo.recovery(ours) {
        Recovery::Possible => Ok(()),
        Recovery::FormatUnknown => {
            warnings.push(format!(
                "the donor's redo log, made by {creator}, has a format that is not known here: nobody checked whether this node's server, {version}, can recover it"
            ));
            Ok(())
        }
        Recovery::FormatTooNew => Err(Error::new(
            Kind::Incompatible,
            format!(
                "the donor's redo log (made by {creator}) has the format of MariaDB {written_by}, which this node's server, \
                 {version}, cannot read"
            ),
        )
        .remedy("upgrade this node's server first")),
        Recovery::FormatTooOld => Err(Error::new(
            Kind::Incompatible,
            format!(
                "the donor's redo log (made by {creator}) has the format of MariaDB {written_by} and is not known to be empty; \
                 this node's server, {version}, can upgrade that format only after a clean shutdown"
            ),
        )
        .remedy(
            "upgrade the donor first, or install the donor's series here; or stop a node of that series cleanly and reseed \
             this one from it by hand (highline receive, highline send)",
        )),
    }
}

fn page_size(offer: &Offer, here: &Facts, warnings: &mut Vec<String>) -> Result<()> {
    const DEFAULT: u32 = 16 * 1024;
    let (ours, why, remedy) = match (offer.innodb.page_size, here.page_size) {
        (Some(theirs), Some(PageSize::Configured(ours))) if theirs != ours => {
            (ours, "this node has", format!("set innodb_page_size={theirs} on this node"))
        }
        (Some(theirs), Some(PageSize::OfOldData(ours))) if theirs != ours => (
            ours,
            "the data of this node has",
            format!("set innodb_page_size={theirs} on this node, and move its ibdata1 away"),
        ),
        (Some(theirs), None) if theirs != DEFAULT => {
            warnings.push(format!(
                "the donor's InnoDB pages have {theirs} bytes: this node needs innodb_page_size={theirs}"
            ));
            return Ok(());
        }
        (None, Some(PageSize::Configured(_))) => {
            warnings.push("the donor could not tell the page size of its ibdata1, so it was not checked".to_owned());
            return Ok(());
        }
        _ => return Ok(()),
    };
    let theirs = offer.innodb.page_size.unwrap_or_default();
    let what = format!("the donor's InnoDB pages have {theirs} bytes, {why} {ours}: its server could not start");
    Err(Error::new(Kind::Incompatible, what).remedy(remedy))
}

/// Whether what arrives is older than what it replaces; if so, the two nodes are probably swapped.
fn history(offer: &Offer, old: &OldData, warnings: &mut Vec<String>) -> Result<()> {
    let theirs = offer.position.as_ref().map(|gtid| &gtid.position).filter(|position| position.is_known());
    let ours = &old.position;
    let same = theirs.is_some_and(|theirs| theirs.uuid() == ours.uuid());
    let last = if old.last_to_leave {
        ", and grastate.dat says safe_to_bootstrap: 1, so its data may be the newest"
    } else {
        ""
    };
    let older = match theirs {
        Some(theirs) if same && ours.seqno() > theirs.seqno() => {
            format!("this node stands at {ours}{last}, and the donor at {theirs}, which is older")
        }
        None if ours.is_known() && old.last_to_leave => {
            format!("this node stands at {ours}{last}, and the donor's position is not known")
        }
        None if ours.is_known() => {
            warnings.push(format!(
                "this node stands at {ours}; the donor's position is not known, so nobody checked whether it is older"
            ));
            return Ok(());
        }
        // Under Galera it is -1 while the server runs, and Galera has made its own comparison.
        Some(theirs) if same && ours.seqno() < 0 && old.older_donor == OlderDonor::Refused => {
            warnings.push(format!(
                "this node's own position is not known (its server did not stop cleanly), so nobody checked whether the donor's, {theirs}, is older"
            ));
            return Ok(());
        }
        Some(theirs) if !same && ours.uuid().bytes().any(|b| b != b'0' && b != b'-') => {
            warnings.push(format!(
                "this node's data is from another history, {ours}{last}; the donor's, at {theirs}, replaces it"
            ));
            return Ok(());
        }
        _ => return Ok(()),
    };
    match old.older_donor {
        OlderDonor::Told => {
            warnings.push(format!("{older}; it replaces this node's data"));
            Ok(())
        }
        OlderDonor::Refused => Err(Error::new(Kind::Usage, older).remedy(
            "if the two are swapped, run `receive` on the other node and `send` on this one; if you want the older data, use `highline receive --force-older`",
        )),
    }
}

fn series(here: &Facts) -> Option<Series> {
    here.server_version.as_deref().and_then(Series::of)
}

/// Text from a peer, shortened and on one line.
struct Shown<'a>(&'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let short: String = self.0.chars().take(64).collect();
        write!(f, "{}", Printable(short.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{InnodbFiles, RedoLog};
    use crate::wire::Speeds;

    const UUID: &str = "5d1fa5a7-0e29-11f0-8b7e-0242ac120002";
    const OTHER: &str = "11111111-0e29-11f0-8b7e-0242ac120002";

    fn redo(format: u32, creator: &str, empty: bool) -> Option<RedoLog> {
        Some(RedoLog { format, creator: creator.into(), empty })
    }

    fn offer(position: Option<&str>) -> Offer {
        Offer {
            position: position.map(|text| text.parse().unwrap()),
            server_version: Some("10.11.19-MariaDB".into()),
            innodb: InnodbFiles { redo: redo(0x5068_7973, "MariaDB 10.11.19", false), page_size: Some(16384) },
            lower_case_table_names: Some(0),
            parts: crate::tree::Part::ALL.into(),
            speeds: Speeds { sha256: 1, blake3: 1 },
            lanes: 1,
            ..Offer::default()
        }
    }

    fn here(version: Option<&str>) -> Facts {
        Facts {
            server_version: version.map(str::to_owned),
            page_size: Some(PageSize::Configured(16384)),
            lower_case_table_names: Some(0),
            ..Facts::default()
        }
    }

    #[test]
    fn a_newer_donor_is_refused_and_an_unknown_one_is_told() {
        for (theirs, ours, ok, told) in [
            (Some("10.11.19-MariaDB"), Some("10.11.2-MariaDB"), true, 0),
            (Some("10.8.1-MariaDB"), Some("11.4.0-MariaDB"), true, 0),
            (Some("11.4.0-MariaDB"), Some("10.11.2-MariaDB"), false, 0),
            (Some("strange"), Some("10.11.2-MariaDB"), true, 1),
            (None, Some("10.11.2-MariaDB"), true, 1),
            (Some("11.4.0-MariaDB"), None, true, 0),
        ] {
            let found = examine(&Offer { server_version: theirs.map(str::to_owned), ..offer(None) }, &here(ours));
            assert_eq!(found.as_ref().map_or(0, Vec::len), told, "{theirs:?} {ours:?}");
            assert_eq!(found.is_ok(), ok, "{theirs:?} {ours:?}");
        }
        let newer = Offer { server_version: Some("11.4.0-MariaDB\n".into()), ..offer(None) };
        assert_eq!(
            examine(&newer, &here(Some("10.11.2-MariaDB"))).unwrap_err().report(),
            "the donor's server is 11.4.0-MariaDB\\u{a}, this node's is 10.11.2-MariaDB, which cannot read its files\n  \
             remedy: upgrade this node's server first"
        );
    }

    #[test]
    fn a_redo_log_that_the_server_could_not_recover_is_refused() {
        let old = |empty| InnodbFiles { redo: redo(0x5048_5953, "MariaDB 10.5.23", empty), page_size: None };
        let of = |innodb| Offer { innodb, server_version: Some("10.5.23-MariaDB".into()), ..offer(None) };
        let error = examine(&of(old(false)), &here(Some("10.11.19-MariaDB"))).unwrap_err();
        assert_eq!(error.kind(), Kind::Incompatible);
        assert_eq!(
            error.sentence(),
            "the donor's redo log (made by MariaDB 10.5.23) has the format of MariaDB 10.5 to 10.7 and is not known to be empty; \
             this node's server, 10.11.19-MariaDB, can upgrade that format only after a clean shutdown"
        );
        assert!(error.remedy_text().unwrap().starts_with("upgrade the donor first"));
        assert!(examine(&of(old(true)), &here(Some("10.11.19"))).is_ok());
        assert!(examine(&of(old(false)), &here(Some("10.6.19"))).is_ok());
        // The donor's version is not known, and yet its log tells.
        let newer = Offer { server_version: None, ..offer(None) };
        let error = examine(&newer, &here(Some("10.6.1"))).unwrap_err();
        assert!(
            error
                .sentence()
                .ends_with("has the format of MariaDB 10.8 and later, which this node's server, 10.6.1, cannot read")
        );
        let strange = InnodbFiles { redo: redo(6, &"x\n".repeat(1000), false), page_size: None };
        let told = examine(&of(strange), &here(Some("10.11.19"))).unwrap();
        assert!(told[0].contains("a format that is not known here") && told[0].len() < 400, "{}", told[0]);
        let none = InnodbFiles { redo: None, page_size: Some(16384) };
        let told = examine(&of(none), &here(Some("10.11.19"))).unwrap();
        assert!(told[0].starts_with("the donor could not tell the format of its redo log"));
    }

    #[test]
    fn another_page_size_is_refused() {
        let of = |page_size| Offer { innodb: InnodbFiles { redo: None, page_size }, ..offer(None) };
        let of_files = |size| Facts { page_size: Some(PageSize::OfOldData(size)), ..here(Some("10.11.1")) };
        let error = examine(&of(Some(65536)), &here(Some("10.11.1"))).unwrap_err();
        assert_eq!(
            error.report(),
            "the donor's InnoDB pages have 65536 bytes, this node has 16384: its server could not start\n  \
             remedy: set innodb_page_size=65536 on this node"
        );
        let error = examine(&of(Some(4096)), &of_files(16384)).unwrap_err();
        assert!(
            error.report().contains("the data of this node has 16384: its server")
                && error.report().contains("move its ibdata1")
        );
        assert!(examine(&of(Some(4096)), &of_files(4096)).is_ok());
        let unknown = || Facts { page_size: None, ..here(None) };
        let told = examine(&of(Some(4096)), &unknown()).unwrap();
        assert!(told.iter().any(|line| line.ends_with("this node needs innodb_page_size=4096")), "{told:?}");
        assert_eq!(
            examine(&Offer { innodb: offer(None).innodb, ..offer(None) }, &unknown()).unwrap(),
            Vec::<String>::new()
        );
        let told =
            examine(&Offer { lower_case_table_names: Some(1), ..of(Some(16384)) }, &here(Some("10.11.1"))).unwrap();
        assert!(told[1].starts_with("lower_case_table_names is 1 on the donor and 0 here"));
    }

    #[test]
    fn swapped_roles_are_refused_unless_they_are_meant() {
        let old = |uuid: &str, seqno, last_to_leave, older_donor| Facts {
            old: Some(OldData { position: Position::new(uuid, seqno).unwrap(), last_to_leave, older_donor }),
            ..here(Some("10.11.19"))
        };
        let at = |seqno: i64| format!("{UUID}:{seqno}");
        let zeros = "00000000-0000-0000-0000-000000000000";
        use OlderDonor::{Refused, Told};
        for (theirs, ours, result) in [
            (Some(at(100)), old(UUID, 900, true, Refused), Err(())),
            (Some(at(100)), old(UUID, 900, false, Refused), Err(())),
            (Some(at(100)), old(UUID, 900, true, Told), Ok(1)),
            (Some(at(900)), old(UUID, 900, true, Refused), Ok(0)),
            (Some(at(901)), old(UUID, 900, true, Refused), Ok(0)),
            (Some(at(100)), old(UUID, -1, false, Refused), Ok(1)),
            (Some(at(100)), old(UUID, -1, false, Told), Ok(0)),
            (Some(at(100)), old(OTHER, 900, true, Refused), Ok(1)),
            (Some(at(100)), old(zeros, -1, false, Refused), Ok(0)),
            (None, old(UUID, 900, true, Refused), Err(())),
            (None, old(UUID, 900, true, Told), Ok(1)),
            (None, old(UUID, 900, false, Refused), Ok(1)),
            (None, old(zeros, -1, true, Refused), Ok(0)),
        ] {
            let found = examine(&offer(theirs.as_deref()), &ours);
            assert_eq!(found.as_ref().map(Vec::len).map_err(|_| ()), result, "{theirs:?} {:?} {found:?}", ours.old);
        }
        let error = examine(&offer(Some(&at(100))), &old(UUID, 900, true, Refused)).unwrap_err();
        assert_eq!(
            error.sentence(),
            format!(
                "this node stands at {UUID}:900, and grastate.dat says safe_to_bootstrap: 1, so its data may be the newest, and \
                 the donor at {UUID}:100, which is older"
            )
        );
        assert!(error.remedy_text().unwrap().contains("--force-older"));
    }
}
