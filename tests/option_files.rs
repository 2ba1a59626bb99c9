//! Option files as people have them, one for each form: what `check`, `check --json` and both roles of `sst` say about it.

use crate::support::command::{bounded, run, text};
use crate::support::template::scratch;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(20);
const GTID: &str = "848c3c55-e803-11f1-bdd2-6275f5042ecd:5";

/// How a role ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The joiner says `ready`, the donor `done`.
    Well,
    /// Before that, with this exit code.
    Code(i32),
}
use End::{Code, Well};

/// A file of `option_files`, how the joiner and the donor end, the exit code of `check`, and words that all of them say.
type Row = (&'static str, End, End, i32, &'static str);

const ROWS: &[Row] = &[
    ("plain.cnf", Well, Well, 1, ""),
    ("empty.cnf", Well, Well, 1, ""),
    ("comments.cnf", Well, Well, 1, ""),
    ("carriage_returns.cnf", Well, Well, 1, ""),
    ("empty_values.cnf", Well, Well, 1, ""),
    ("dashes_and_case.cnf", Well, Well, 1, ""),
    (
        "byte_order_mark.cnf",
        Code(22),
        Code(22),
        22,
        "begins with a byte order mark, which the server reads as part of an option",
    ),
    ("no_group.cnf", Code(22), Code(22), 22, "Found option without preceding group"),
    ("broken_group.cnf", Code(22), Code(22), 22, "Wrong group definition"),
    ("include_missing.cnf", Code(22), Code(22), 22, "my_print_defaults cannot read the option files"),
    ("includedir.cnf", Well, Well, 1, "ssl-mode in [sst]: DISABLED has no effect: every transfer is encrypted anyway"),
    ("repeats.cnf", Well, Well, 1, "ssl-mode in [sst]: DISABLED has no effect"),
    ("curly_quotes.cnf", Code(22), Code(22), 2, "lanes in [highline]: `“4”` is not a number from 1 to 32"),
    (
        "curly_quotes_elsewhere.cnf",
        Well,
        Well,
        1,
        "wsrep-cluster-name in [mysqld]: the typographic quote “ does not quote anything",
    ),
    ("curly_provider.cnf", Well, Well, 2, "wsrep-provider-options in [mysqld]: it contains the typographic quote “"),
    ("quote_over_lines.cnf", Well, Well, 2, "wsrep-provider-options in [mysqld]: its quote is not closed on its line"),
    ("line_break_escaped.cnf", Well, Well, 1, ""),
    ("quote_never_ends.cnf", Well, Well, 1, "tca in [sst]: its quote is not closed on its line"),
    ("stray_semicolon.cnf", Well, Well, 2, "wsrep-provider-options in [mysqld]: a ; follows the closing quote"),
    (
        "provider_twice.cnf",
        Well,
        Well,
        1,
        "wsrep_provider_options is given 2 times, but only the last, in [galera], counts: socket.ssl_cert, socket.ssl_key, socket.ssl_ca of an earlier one have no effect",
    ),
    (
        "relative_paths.cnf",
        Code(2),
        Code(2),
        2,
        "the certificate file DIR/data/server-cert.pem, the private key file DIR/data/./server-key.pem, the CA file DIR/data/ca.pem do not exist",
    ),
    (
        "version_groups.cnf",
        Well,
        Well,
        1,
        "ssl-mode in [mysqld] or another group of the server: DISABLED has no effect",
    ),
    ("misspelt.cnf", Code(22), Code(22), 2, "lannes in [highline] is not known"),
    ("misspelt_sst.cnf", Well, Well, 1, "rlimt in [sst] is not known and has no effect; did you mean rlimit?"),
    ("control_characters.cnf", Code(22), Code(22), 2, "lanes in [highline]: `4\\u{1b}[31m` is not a number"),
    ("not_utf8.cnf", Code(22), Well, 2, "install in [highline]: \\xff\\xfe is not UTF-8"),
    ("another_method.cnf", Well, Well, 2, "`qpress -io` is none of zstd, lz4, gzip and pigz"),
    ("less_security.cnf", Well, Well, 1, "ssl-mode in [sst]: DISABLED has no effect"),
    ("less_security_own.cnf", Code(22), Code(22), 2, "ssl-mode in [highline]: DISABLED would send a copy"),
    ("donors_business.cnf", Well, Code(22), 2, "rlimit in [sst]: `fast` is not a rate"),
    ("joiners_business.cnf", Code(22), Well, 2, "install in [highline]: `never` is none of auto, staged and inplace"),
];

struct Host {
    dir: tempfile::TempDir,
    port: usize,
}

impl Host {
    fn new(file: &str, port: usize) -> Host {
        let host = Host { dir: scratch("highline-options-"), port };
        let (from, here) = (Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/option_files"), host.dir.path());
        std::fs::create_dir(here.join("included")).unwrap();
        for name in [file, "included/own.cnf", "included/sst.cnf"] {
            let mut bytes = std::fs::read(from.join(name)).unwrap();
            if name == file {
                // What makes it a node, after the lines under test.
                bytes.extend_from_slice(host.node().as_bytes());
                if let Ok(whole) = String::from_utf8(bytes.clone()) {
                    bytes = whole.replace("DIR", here.to_str().unwrap()).into_bytes();
                }
            }
            std::fs::write(here.join(if name == file { "my.cnf" } else { name }), bytes).unwrap();
        }
        std::fs::write(here.join("bare.cnf"), host.node()).unwrap();
        for folder in ["data", "donor"] {
            std::fs::create_dir(here.join(folder)).unwrap();
        }
        host
    }

    fn node(&self) -> String {
        format!(
            "\n[mysqld]\nwsrep_on=ON\nwsrep_provider=/usr/lib/galera/libgalera_smm.so\nwsrep_sst_method=highline\n\
             wsrep_sst_receive_address=127.0.85.16:{}\ndatadir={}/data\nuser=root\n",
            self.port,
            self.dir.path().display()
        )
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn said(&self, name: &str) -> String {
        text(&std::fs::read(self.at(name)).unwrap_or_default()).replace(self.dir.path().to_str().unwrap(), "DIR")
    }

    fn check(&self, more: &[&str]) -> (Option<i32>, String) {
        let file = format!("--defaults-file={}", self.at("my.cnf").display());
        let program = PathBuf::from(env!("CARGO_BIN_EXE_highline"));
        let wrapper = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts");
        let path =
            format!("{}:{}:{}", program.parent().unwrap().display(), wrapper.display(), std::env::var("PATH").unwrap());
        let output = run(bounded(LIMIT, &program).args(["check", &file]).args(more).env("PATH", path));
        let said = text(&output.stdout) + &text(&output.stderr);
        (output.status.code(), said.replace(self.dir.path().to_str().unwrap(), "DIR"))
    }

    fn role(&self, role: &str, options: &str, words: &[&str], auth: &str) -> Child {
        let folder = if role == "joiner" { "data" } else { "donor" };
        let out = |suffix: &str| Stdio::from(File::create(self.at(&format!("{role}.{suffix}"))).unwrap());
        let mut command = bounded(LIMIT, env!("CARGO_BIN_EXE_highline"));
        command.args(["sst", "--role", role, "--parent", &std::process::id().to_string()]);
        command.arg("--datadir").arg(self.at("data")).arg("--defaults-file").arg(self.at(options)).args(words);
        command.env("WSREP_SST_OPT_REMOTE_AUTH", auth).current_dir(self.at(folder));
        command.stdin(Stdio::null()).stdout(out("out")).stderr(out("err")).spawn().unwrap()
    }

    /// Until `ready`, or its end.
    fn joiner(&self, options: &str) -> Result<(Child, String), i32> {
        let mut joiner = self.role("joiner", options, &["--address", &format!("127.0.85.16:{}", self.port)], "");
        let end = Instant::now() + LIMIT;
        loop {
            if let Some(line) = self.said("joiner.out").lines().find_map(|line| line.strip_prefix("ready ")) {
                return Ok((joiner, line.to_owned()));
            }
            if let Some(status) = joiner.try_wait().unwrap() {
                return Err(status.code().unwrap());
            }
            assert!(Instant::now() < end, "{}", self.said("joiner.err"));
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Both roles, and what they said. If its joiner does not wait, the donor gets another one.
    fn roles(&self) -> (End, End, String) {
        let (joined, mut said) = match self.joiner("my.cnf") {
            Ok(waiting) => (Ok(waiting), self.said("joiner.err")),
            Err(code) => (Err(code), self.said("joiner.err")),
        };
        let first = joined.as_ref().map_or_else(|code| Code(*code), |_| Well);
        let (mut joiner, ready) = joined.or_else(|_| self.joiner("bare.cnf")).unwrap();
        let (auth, address) = ready.rsplit_once('@').unwrap();
        let mut donor = self.role("donor", "my.cnf", &["--address", address, "--gtid", GTID, "--bypass"], auth);
        let second = match donor.wait().unwrap().code() {
            Some(0) => Well,
            code => Code(code.unwrap()),
        };
        said.push_str(&self.said("donor.err"));
        if second != Well {
            let group = rustix::process::Pid::from_raw(joiner.id().cast_signed()).unwrap();
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::TERM);
        }
        joiner.wait().unwrap();
        (first, second, said)
    }
}

/// Every text in a JSON value.
fn texts(value: &serde_json::Value, into: &mut String) {
    match value {
        serde_json::Value::String(text) => into.push_str(&format!("{text}\n")),
        serde_json::Value::Array(all) => all.iter().for_each(|one| texts(one, into)),
        serde_json::Value::Object(all) => all.values().for_each(|one| texts(one, into)),
        _ => {}
    }
}

#[test]
fn every_shape_is_told_the_same_by_all() {
    let mut wrong = Vec::new();
    for ((file, joiner, donor, code, words), port) in ROWS.iter().zip(24_500..) {
        let host = Host::new(file, port);
        let (table_code, table) = host.check(&[]);
        let (json_code, json) = host.check(&["--json"]);
        let object: serde_json::Value = serde_json::from_str(&json).unwrap_or_else(|e| panic!("{file}: {e}\n{json}"));
        let mut found = String::new();
        texts(&object, &mut found);
        let (first, second, said) = host.roles();
        let ended = (first, second, table_code, json_code) == (*joiner, *donor, Some(*code), Some(*code));
        let told = [&table, &found, &said].iter().all(|text| text.contains(words));
        let leaked = [&table, &json, &said].iter().any(|text| text.contains("s3cret"));
        if !ended || !told || leaked {
            wrong.push(format!("{file}: {first:?} {second:?} {table_code:?} {json_code:?}; {words}\n{table}\n{said}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {} files:\n{}", wrong.len(), ROWS.len(), wrong.join("\n----\n"));
}

#[test]
fn every_file_has_a_row() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/option_files");
    for entry in std::fs::read_dir(dir).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(name == "included" || ROWS.iter().any(|row| row.0 == name), "{name}");
    }
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let host = Host::new("plain.cnf", 24_600);
    for more in ["", "--json"] {
        let line = format!(
            "set -o pipefail; for i in 1 2 3 4 5; do {} check --defaults-file={} {more} | true; echo ${{PIPESTATUS[0]}}; done",
            env!("CARGO_BIN_EXE_highline"),
            host.at("my.cnf").display()
        );
        let output = run(bounded(LIMIT, "bash").args(["-c", &line]));
        assert_eq!(text(&output.stderr), "", "{more}");
        // The verdict: this program is not where a server would find it.
        assert_eq!(text(&output.stdout), "2\n2\n2\n2\n2\n", "{more}");
    }
    let output = run(bounded(LIMIT, env!("CARGO_BIN_EXE_highline")).args(["check", "--json", "--nonsense"]));
    let object: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), &object["failure"]["kind"]), (Some(22), &"usage".into()), "{object}");
}
