//! The shell around the program: the wrapper that Galera calls, and the installer.

use crate::support::command::{bounded, run, succeed, text};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(10);

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts").join(name)
}

/// A program that prints its arguments, one on each line.
fn stand_in(folder: &Path) {
    let file = folder.join("highline");
    std::fs::write(&file, "#!/bin/sh\nprintf '[%s]\\n' \"$@\"\n").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn the_wrapper_passes_every_word_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(script("wsrep_sst_highline"), folder.path().join("wsrep_sst_highline")).unwrap();
    let words = ["--role", "joiner", "--address", "a b'c", "--mysqld-args", "--x=$HOME `id`", "", "*"];
    let expected = words.map(|word| format!("[{word}]\n")).concat();
    let path = format!("{}:/usr/bin:/bin", folder.path().display());

    stand_in(folder.path());
    let beside = succeed(bounded(LIMIT, folder.path().join("wsrep_sst_highline")).args(words));
    assert_eq!(beside, format!("[sst]\n{expected}"));

    let by_path = succeed(bounded(LIMIT, script("wsrep_sst_highline")).args(words).env("PATH", path));
    assert_eq!(by_path, format!("[sst]\n{expected}"));
}

#[test]
fn the_wrapper_says_what_is_missing() {
    if ["/usr/bin/highline", "/usr/local/bin/highline"].iter().any(|file| Path::new(file).exists()) {
        return;
    }
    let output = run(bounded(LIMIT, script("wsrep_sst_highline")).env("PATH", "/usr/bin:/bin"));
    assert_eq!(output.status.code(), Some(2));
    assert!(output.stdout.is_empty(), "standard output belongs to the server");
    let said = text(&output.stderr);
    assert!(said.contains("'highline'") && said.contains("/usr/bin:/bin"), "{said}");
}

#[test]
fn the_installer_fills_a_package_root() {
    let root = tempfile::tempdir().unwrap();
    let mut install = bounded(LIMIT, script("install"));
    install.env("DESTDIR", root.path()).env("PREFIX", "/usr").env("BINARY", env!("CARGO_BIN_EXE_highline"));
    succeed(&mut install);
    for program in ["highline", "wsrep_sst_highline"] {
        let mode = std::fs::metadata(root.path().join("usr/bin").join(program)).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o755, "{program}");
    }
    for file in ["doc/highline/LICENSE", "man/man1/highline-send.1", "bash-completion/completions/highline"] {
        assert!(root.path().join("usr/share").join(file).exists(), "{file}");
    }

    let output = run(install.env("BINARY", "/nonexistent/highline"));
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("cargo build --release"));
}

/// Each shell is asked what it would complete, not only whether it can read the file.
#[test]
fn completions_complete_in_bash_zsh_and_fish() {
    let folder = tempfile::tempdir().unwrap();
    let highline = env!("CARGO_BIN_EXE_highline");
    succeed(bounded(LIMIT, highline).arg("generate").arg(folder.path()).args(["--date", "2026-11-25"]));
    let offered = |shell: &str, script: &str| {
        let mut asked = bounded(LIMIT, shell);
        asked.arg("-c").arg(script).current_dir(folder.path().join("completions")).env("HOME", folder.path());
        succeed(&mut asked)
    };
    let bash = "source ./highline.bash; COMP_WORDS=(highline re); COMP_CWORD=1; _highline highline re highline; \
                printf '%s\\n' \"${COMPREPLY[@]}\"";
    assert_eq!(offered("bash", bash), "receive\nrecover\n");
    let options = "source ./highline.bash; COMP_WORDS=(highline send --rate); COMP_CWORD=2; \
                   _highline highline --rate send; printf '%s\\n' \"${COMPREPLY[@]}\"";
    assert_eq!(offered("bash", options), "--rate-limit\n");
    let fish = offered("fish", "source ./highline.fish; complete -C 'highline re'");
    let names: Vec<_> = fish.lines().filter_map(|line| line.split('\t').next()).collect();
    assert_eq!(names, ["receive", "recover"]);
    let zsh = "fpath=($PWD $fpath); autoload -Uz compinit; compinit -u; print $_comps[highline]; \
               autoload -Uz +X _highline; whence -w _highline; print -rl -- ${(M)${(f)functions[_highline_commands]}:#*re*}";
    let zsh = offered("zsh", zsh);
    assert!(zsh.starts_with("_highline\n_highline: function\n"), "{zsh}");
}
