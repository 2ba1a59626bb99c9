//! The Debian package: built, unpacked into a scratch root, and run from there.

use crate::support::command::{bounded, run, succeed, text};
use std::path::Path;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(20);

/// Packs the build that this test belongs to and unpacks it.
fn unpacked() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let package = root.path().join("highline.deb");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/package");
    succeed(bounded(Duration::from_secs(90), script).env("PROFILE", "dev").env("OUTPUT", &package));
    succeed(bounded(LIMIT, "dpkg-deb").arg("-x").arg(&package).arg(root.path()));
    let depends = succeed(bounded(LIMIT, "dpkg-deb").arg("-f").arg(&package).arg("Depends"));
    assert!(
        depends.split(',').all(|one| one.trim().starts_with("libc6 ")),
        "it needs more than the C library: {depends}"
    );
    root
}

#[test]
fn the_package_runs_where_it_is_unpacked() {
    let root = unpacked();
    let at = |path: &str| root.path().join(path);

    let program = at("usr/bin/highline");
    let version = concat!("highline ", env!("CARGO_PKG_VERSION"));
    assert_eq!(succeed(bounded(LIMIT, &program).arg("--version")).trim(), version);
    let scratch = at("scratch");
    std::fs::create_dir(&scratch).unwrap();
    succeed(bounded(LIMIT, &program).args(["demo", "--size", "16M", "--dir"]).arg(&scratch));

    // The wrapper finds the program that lies beside it, and that knows the server's flags.
    let refused =
        run(bounded(LIMIT, at("usr/bin/wsrep_sst_highline")).args(["--role", "referee"]).env("PATH", "/usr/bin:/bin"));
    assert!(text(&refused.stderr).contains("referee is neither donor nor joiner"), "{}", text(&refused.stderr));

    for file in [
        "usr/share/doc/highline/copyright",
        "usr/share/doc/highline/sst-contract.md",
        "usr/share/bash-completion/completions/highline",
        "usr/share/zsh/vendor-completions/_highline",
        "usr/share/fish/vendor_completions.d/highline.fish",
    ] {
        assert!(at(file).exists(), "{file}");
    }

    succeed(bounded(LIMIT, "bash").arg("-n").arg(at("usr/share/bash-completion/completions/highline")));

    let pages: Vec<_> =
        std::fs::read_dir(at("usr/share/man/man1")).unwrap().map(|page| page.unwrap().file_name()).collect();
    for page in ["highline.1.gz", "highline-sst.1.gz", "wsrep_sst_highline.1.gz"] {
        assert!(pages.iter().any(|found| found == page), "{page} is not among {pages:?}");
    }
    for page in pages {
        let mut mandoc = bounded(LIMIT, "mandoc");
        mandoc.args(["-T", "lint", "-W", "error"]).arg(Path::new("man1").join(page));
        succeed(mandoc.current_dir(at("usr/share/man")));
    }
}
