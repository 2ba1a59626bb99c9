//! Checks a chunk's pages as they are read: see [`super::pages`].

use std::path::Path;

use super::pages::{Suspect, refuse};
use super::transfer::{Round, Transfer};
use crate::archive::Located;
use crate::direct::Pages;
use crate::error::{Error, Printable, Result};
use crate::pages::{Tablespace, is_tablespace};
use crate::tree::Source;

/// What a chunk is read from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading<'a> {
    pub(super) located: &'a Located,
    pub(super) source: &'a Source,
    pub(super) place: &'a Path,
}

/// Examines a chunk whose data was read into `data`. If a page fails, it is read once more.
///
/// # Errors
/// A damaged page while nobody writes; those of reading.
pub(super) fn examine(
    transfer: &Transfer,
    round: &Round,
    (number, chunk): (u32, u64),
    reading: Reading<'_>,
    data: &mut [u8],
    span: &mut Pages,
) -> Result<Option<Suspect>> {
    let Reading { located, source, place } = reading;
    let path = &round.catalog.get(number).entry.path;
    let Some(check) = transfer.pages.as_ref().filter(|_| is_tablespace(path)) else { return Ok(None) };
    // Which pages are free is certain only when the server has written everything it knows.
    let look = |data: &[u8], knows: bool| {
        let first = (chunk == 0).then(|| located.first(data, Tablespace::HEADER));
        let space = round.catalog.space(number, source, place, first)?;
        let more = |at, into: &mut [u8]| knows && source.read(place, at, into).is_ok();
        Ok::<_, Error>(space.examine((located.offset, located.len.into()), located.runs(), data, more))
    };
    let mut findings = look(data, false)?;
    if findings.damaged > 0 {
        located.read(source, place, data, span)?;
        findings = look(data, !round.live)?;
    }
    check.count(findings, place);
    let Some(first) = findings.first else { return Ok(None) };
    let suspect = Suspect { first, count: findings.damaged };
    if round.strict {
        return Err(refuse(&[(Printable::path(place).to_string(), suspect)]));
    }
    Ok(Some(suspect))
}
