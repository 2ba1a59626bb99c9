//! Paths that the joiner keeps although this donor has something there too: they are left out, or the transfer is
//! refused before the server is frozen.

use std::path::Path;

use crate::error::{Error, Kind, Printable, Result};
use crate::tree::{RelPath, Roots, Rules, Shape, holds_tables, is_data_file, locate};
use crate::wire::Kept;

/// The joiner's kept paths at which something here would be sent.
///
/// # Errors
/// One of them is a schema or a table here: the joiner would not get it.
pub(super) fn respected(roots: &Roots, rules: &Rules, kept: &[Kept]) -> Result<Vec<RelPath>> {
    let mut left_out = Vec::new();
    for kept in kept {
        let path = RelPath::parse(kept.path.as_bytes())
            .map_err(|e| Error::new(Kind::Protocol, "the joiner keeps an invalid path").because(e))?;
        let Some(place) = locate(roots, &path) else { continue };
        // A file here, where the joiner has directories.
        let way = || {
            let mut above = path.parent();
            std::iter::from_fn(move || {
                let now = above.take()?;
                above = now.parent();
                Some(now)
            })
        };
        let blocked = way().find(|above| {
            let place = locate(roots, above);
            place.is_some_and(|place| place.symlink_metadata().is_ok_and(|stat| !stat.is_dir()) && place.is_file())
        });
        if let Some(above) = blocked {
            return Err(refuse(&locate(roots, &above).unwrap_or_default(), "a file", kept));
        }
        let holds_root = roots.iter().any(|root| root.path.starts_with(&place));
        if holds_root || place.symlink_metadata().is_err() {
            continue;
        }
        let (parent, name) = (place.parent().unwrap_or(&place), place.file_name().unwrap_or_default());
        let shape = Shape::at(&place);
        let stays = match path.parent() {
            None => !rules.travels(&path.root(), parent, name, shape),
            Some(_) => rules.owns(parent, name, || shape),
        };
        if stays {
            continue;
        }
        match shape {
            Shape::Directory if holds_tables(&place) => return Err(refuse(&place, "a schema", kept)),
            Shape::File if is_data_file(name) => return Err(refuse(&place, "part of a table", kept)),
            _ => left_out.push(path),
        }
    }
    Ok(left_out)
}

fn refuse(place: &Path, what: &str, kept: &Kept) -> Error {
    let (place, why) = (Printable::path(place), Printable(kept.why.as_bytes()));
    Error::new(
        Kind::Usage,
        format!("{place} is {what} here, and the joiner keeps a file of its own at that path ({why})"),
    )
    .remedy(
        "choose another path for the joiner's file or directory in its option file, best outside the data directory",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::fs;

    #[test]
    fn a_schema_is_never_left_out_and_anything_else_is() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().canonicalize().unwrap();
        for name in ["shop", "stale/deep", "logs", "own"] {
            fs::create_dir_all(data.join(name)).unwrap();
        }
        for name in ["shop/db.opt", "stale/deep/x", "logs/e", "logs/t.frm", "file"] {
            fs::write(data.join(name), "").unwrap();
        }
        let roots = Roots::new(&data, &BTreeMap::new()).unwrap();
        let kept = |path: &str| Kept { path: format!("datadir/{path}").as_bytes().into(), why: "tmpdir".into() };
        let ask = |path: &str| respected(&roots, &Rules::default(), &[kept(path)]);
        for (path, count) in [("gone", 0), ("stale", 1), ("logs/e", 1), ("galera.cache", 0), ("logs/x", 0)] {
            assert_eq!(ask(path).unwrap().len(), count, "{path}");
        }
        for (path, says) in [
            ("shop", "shop is a schema here, and the joiner keeps a file of its own at that path (tmpdir)"),
            ("logs/t.frm", "logs/t.frm is part of a table here,"),
            ("file/log", "file is a file here,"),
        ] {
            let said = ask(path).unwrap_err().sentence();
            assert!(said.contains(says), "{said}");
        }
        let outside = Kept { path: b"datadir/../x".as_slice().into(), why: String::new() };
        assert_eq!(respected(&roots, &Rules::default(), &[outside]).unwrap_err().kind(), Kind::Protocol);
    }
}
