//! The packages of the build under test: made, taken apart, and run from where they were unpacked.
//!
//! `scripts/test-packages` does what takes minutes: builds for other machines, and the check that they are reproducible.

use crate::support::command::{bounded, run, succeed, text};
use std::path::{Path, PathBuf};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(20);
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The folder with the packages.
fn packed() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    // Most of a test build is debug information, which is not packed.
    let binary = root.path().join("highline");
    succeed(bounded(LIMIT, "strip").arg("-o").arg(&binary).arg(env!("CARGO_BIN_EXE_highline")));
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/package");
    let mut script = bounded(Duration::from_secs(100), script);
    succeed(script.env("BINARY", &binary).env("OUTPUT", root.path().join("packages")).env("LEVEL", "1"));
    root
}

/// Every file beneath a folder, by its path in there.
fn files(folder: &Path) -> Vec<PathBuf> {
    let listed = succeed(bounded(LIMIT, "find").arg(folder).args(["-not", "-type", "d", "-printf", "%P\n"]));
    let mut files: Vec<PathBuf> = listed.lines().map(PathBuf::from).collect();
    files.sort();
    files
}

#[test]
fn the_packages_hold_the_same_and_run_where_they_are_unpacked() {
    let root = packed();
    let at = |path: &str| root.path().join(path);
    let arch = std::env::consts::ARCH;
    let packages = at("packages");
    succeed(bounded(LIMIT, "sha256sum").args(["--check", "--quiet", "SHA256SUMS"]).current_dir(&packages));

    let deb = files(&packages).into_iter().find(|file| file.extension().is_some_and(|end| end == "deb")).unwrap();
    let deb = packages.join(deb);
    succeed(bounded(LIMIT, "dpkg-deb").arg("-x").arg(&deb).arg(at("deb")));
    let depends = succeed(bounded(LIMIT, "dpkg-deb").arg("-f").arg(&deb).arg("Depends"));
    assert!(depends.starts_with("libc6 (>= 2.") && !depends.contains(','), "{depends}");
    let suggests = succeed(bounded(LIMIT, "dpkg-deb").arg("-f").arg(&deb).arg("Suggests"));
    assert!(suggests.contains("galera-arbitrator-4"), "{suggests}");
    let version = succeed(bounded(LIMIT, "dpkg-deb").arg("-f").arg(&deb).arg("Version"));
    assert_eq!(version.trim(), VERSION);

    let rpm = packages.join(format!("highline-{VERSION}-1.{arch}.rpm"));
    let listed = succeed(bounded(LIMIT, "rpm").args(["-qp", "--nosignature", "--qf", "[%{FILENAMES}\\n]"]).arg(&rpm));
    let needed = succeed(bounded(LIMIT, "rpm").args(["-qp", "--nosignature", "--requires"]).arg(&rpm));
    let suggests = succeed(bounded(LIMIT, "rpm").args(["-qp", "--nosignature", "--suggests"]).arg(&rpm));
    assert!(suggests.lines().any(|line| line == "galera-4"), "{suggests}");
    assert!(needed.contains("libc.so.6(GLIBC_2.") && !needed.contains("libgcc"), "{needed}");

    std::fs::create_dir(at("tar")).unwrap();
    let tarball = packages.join(format!("highline-{VERSION}-{arch}.tar.gz"));
    succeed(bounded(LIMIT, "tar").arg("-xzf").arg(tarball).arg("--strip-components=1").arg("-C").arg(at("tar")));

    // The same files in all three, except where distributions have their own rules.
    let unpacked: Vec<String> = files(&at("tar")).iter().map(|file| format!("/usr/{}", file.display())).collect();
    for file in &unpacked {
        assert!(listed.lines().any(|line| line == file), "{file} is not in the rpm:\n{listed}");
        let in_deb = match file.as_str() {
            "/usr/share/doc/highline/LICENSE" => "/usr/share/doc/highline/copyright",
            "/usr/share/zsh/site-functions/_highline" => "/usr/share/zsh/vendor-completions/_highline",
            same => same,
        };
        assert!(at("deb").join(&in_deb[1..]).exists(), "{in_deb} is not in the Debian package");
    }
    assert_eq!(files(&at("deb")).len(), unpacked.len());
    assert!(unpacked.iter().any(|file| file == "/usr/share/doc/highline/sst-contract.md"));

    let program = at("tar/bin/highline");
    assert_eq!(succeed(bounded(LIMIT, &program).arg("--version")).trim(), format!("highline {VERSION}"));
    let scratch = at("scratch");
    std::fs::create_dir(&scratch).unwrap();
    succeed(bounded(LIMIT, &program).args(["demo", "--size", "16M", "--dir"]).arg(&scratch));

    // The wrapper finds the program beside it, which knows the server's flags.
    let wrapper = at("deb/usr/bin/wsrep_sst_highline");
    let refused = run(bounded(LIMIT, wrapper).args(["--role", "referee"]).env("PATH", "/usr/bin:/bin"));
    assert!(text(&refused.stderr).contains("referee is neither donor nor joiner"), "{}", text(&refused.stderr));

    let share = at("deb/usr/share");
    succeed(bounded(LIMIT, "bash").arg("-n").arg(share.join("bash-completion/completions/highline")));
    let pages = files(&share.join("man/man1"));
    for page in ["highline.1.gz", "highline-sst.1.gz", "wsrep_sst_highline.1.gz"] {
        assert!(pages.iter().any(|found| found == Path::new(page)), "{page} is not among {pages:?}");
    }
    for page in pages {
        let mut mandoc = bounded(LIMIT, "mandoc");
        mandoc.args(["-T", "lint", "-W", "warning"]).arg(Path::new("man1").join(page));
        succeed(mandoc.current_dir(share.join("man")));
    }

    // It lists what is linked, and not what only builds it.
    let list = std::fs::read(packages.join(format!("highline-{VERSION}-{arch}.cdx.json"))).unwrap();
    let list: serde_json::Value = serde_json::from_slice(&list).unwrap();
    assert_eq!((&list["bomFormat"], &list["metadata"]["component"]["version"]), (&"CycloneDX".into(), &VERSION.into()));
    let parts = list["components"].as_array().unwrap();
    let has = |name: &str| parts.iter().any(|part| part["name"] == name && part["hashes"][0]["alg"] == "SHA-256");
    assert!(["aws-lc-sys", "zstd-sys", "tokio", "rustls"].iter().all(|name| has(name)), "{parts:?}");
    assert!(["criterion", "cc", "serde_derive"].iter().all(|name| !has(name)), "{parts:?}");
}
