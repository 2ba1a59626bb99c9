//! What a manual says of each command beyond its options: notes, exit codes, files, examples. `--help` and the man pages
//! are both made from it.

use std::fmt::Write as _;

/// One command. The texts are wrapped for a terminal of 80 columns; what is between backticks is typed as it stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Manual {
    /// The name of its man page: the command's words, joined by hyphens.
    pub page: &'static str,
    pub notes: &'static [&'static str],
    /// Exit codes of its own; the others are those of `error::Kind`.
    pub exit: &'static [(u8, &'static str)],
    pub files: &'static [(&'static str, &'static str)],
    /// What it is for, and the lines to type.
    pub examples: &'static [(&'static str, &'static str)],
    /// Other pages.
    pub see: &'static [&'static str],
}

const STATUS: (&str, &str) = ("DATADIR/.highline.status", "how this node's last transfer goes, or went");
const MANIFEST: (&str, &str) = ("DATADIR/.highline.manifest", "what the last transfer installed, with digests");
const STAGED: (&str, &str) = ("DATADIR/.highline", "where the new data is staged while a transfer runs");
const KEPT: (&str, &str) = ("DATADIR/.highline.kept.*", "left by a failed transfer for the next one");

pub(super) const MANUALS: &[Manual] = &[
    Manual {
        page: "highline",
        notes: &["\
Start with `highline demo`. To reseed a node by hand, stop its server, run
`highline receive` on it, and give the line it prints to `highline send` on a donor."],
        exit: &[],
        files: &[
            ("/usr/bin/wsrep_sst_highline", "the program that the database server starts for a state transfer"),
            ("[highline] in the server's option files", "options of state transfers; see galera.md"),
        ],
        examples: &[
            ("What it does, with data made for it", "highline demo"),
            ("Whether this node is ready to give and to take a state transfer", "highline check"),
            ("What a state transfer is doing now", "highline status --watch"),
        ],
        see: &["highline-receive", "highline-send", "highline-status", "highline-check", "wsrep_sst_highline"],
    },
    Manual {
        page: "highline-receive",
        notes: &["\
Stop the server first. The first line on standard output is the ticket for
`highline send`: it is secret and valid for one transfer. The old data stays until
the new data is verified and on disk, unless `--install inplace` is given.
As root, it becomes the owner of the data directory before it opens anything there."],
        exit: &[(0, "the new data is verified, installed and on disk")],
        files: &[
            STAGED,
            KEPT,
            MANIFEST,
            STATUS,
            ("DATADIR/grastate.dat", "gets the donor's position, from which the node can join by IST"),
        ],
        examples: &[
            ("Wait for a donor; give it the line that is printed", "highline receive --datadir /var/lib/mysql"),
            (
                "Do both ends from the donor, by ssh",
                "ssh root@joiner highline receive \\\n    --datadir /var/lib/mysql --advertise joiner |\n    highline send --datadir /var/lib/mysql -",
            ),
            (
                "With the other directories that the server's option file names,\nand for ten minutes at most",
                "highline receive --datadir /var/lib/mysql \\\n    --defaults-file /etc/mysql/my.cnf --initial-timeout 10m",
            ),
        ],
        see: &["highline-send", "highline-status", "highline-verify", "highline-recover", "highline-discard"],
    },
    Manual {
        page: "highline-send",
        notes: &["\
Stop the server first, cleanly, so that its position is known; or let it run, with
`--freeze-command` or `--source mariabackup`. The data is only read.
As root, it becomes the owner of the data directory before it opens anything there."],
        exit: &[(0, "the joiner has verified and installed the data, and it is on disk there")],
        files: &[STATUS],
        examples: &[
            (
                "Send to the joiner that printed the ticket: paste it, then Ctrl-D",
                "highline send --datadir /var/lib/mysql -",
            ),
            (
                "Let the server run, and stop it only for the last round",
                "highline send --datadir /var/lib/mysql --freeze-command \\\n    'sudo -n systemctl stop mariadb && echo stopped' -",
            ),
            (
                "Send a backup of the running server, at most 100 MiB a second",
                "highline send --datadir /var/lib/mysql --source mariabackup \\\n    --defaults-file /etc/mysql/my.cnf --rate-limit 100M -",
            ),
        ],
        see: &["highline-receive", "highline-status", "highline-rate"],
    },
    Manual {
        page: "highline-pull",
        notes: &["\
garbd (package galera-arbitrator-4; where that is an rpm, galera-4) joins the cluster
for a second, without a vote, has the donor chosen, and leaves. The donor then sends
as it does for a joining node, by its own [highline] options; `wsrep_sst_highline` must
be installed there. Until the copy is verified the directory holds nothing that a
server would take for its data.

A server that is started on the copy joins its cluster by IST, as long as some node's
gcache reaches back to the copy's position."],
        exit: &[(0, "the copy is verified, in place and on disk")],
        files: &[
            STAGED,
            KEPT,
            MANIFEST,
            STATUS,
            ("DATADIR/grastate.dat", "gets the donor's position, from which a node can join by IST"),
        ],
        examples: &[
            (
                "Seed a new node before its first start, by its own option file",
                "highline pull --to /var/lib/mysql --donor db2 \\\n  --defaults-file /etc/mysql/my.cnf",
            ),
            (
                "A copy to keep",
                "highline pull --to /backup/today --donor db2 \\\n  --cluster-address db1,db2 --cluster-name prod",
            ),
        ],
        see: &["highline-receive", "highline-verify", "highline-status"],
    },
    Manual {
        page: "highline-demo",
        notes: &[],
        exit: &[],
        files: &[],
        examples: &[
            ("With 512 MiB in the temporary directory", "highline demo"),
            (
                "With more, on the disk that counts, compressed",
                "highline demo --size 4G --dir /var/lib --compress zstd:3",
            ),
        ],
        see: &["highline"],
    },
    Manual {
        page: "highline-verify",
        notes: &["\
Without `--pages` it compares with the manifest that the transfer left, so run it
before the server is started: a server changes its files."],
        exit: &[
            (0, "nothing differs, and no page is damaged"),
            (74, "something does; each is named on standard output"),
        ],
        files: &[MANIFEST],
        examples: &[
            ("After a transfer, before the server is started", "highline verify --datadir /var/lib/mysql"),
            (
                "With the other directories that the server's option file names",
                "highline verify --datadir /var/lib/mysql \\\n    --defaults-file /etc/mysql/my.cnf",
            ),
            ("Look for damaged pages, also while the server runs", "highline verify --pages --datadir /var/lib/mysql"),
        ],
        see: &["highline-receive"],
    },
    Manual {
        page: "highline-recover",
        notes: &["\
Stop the server first. It leaves the tree that a server would see: the old one if
the switch had not happened, the new one if it had."],
        exit: &[(0, "done, or there was nothing to do"), (2, "there is no database in the directory: transfer again")],
        files: &[("DATADIR/.highline/journal", "how far the installation had come"), KEPT],
        examples: &[("After a crash during an installation", "highline recover --datadir /var/lib/mysql")],
        see: &["highline-receive", "highline-discard"],
    },
    Manual {
        page: "highline-discard",
        notes: &["The server may run."],
        exit: &[],
        files: &[KEPT],
        examples: &[
            ("Free the space that failed transfers take", "highline discard --datadir /var/lib/mysql"),
            (
                "In the server's other directories too",
                "highline discard --datadir /var/lib/mysql \\\n    --defaults-file /etc/mysql/my.cnf",
            ),
        ],
        see: &["highline-receive", "highline-recover"],
    },
    Manual {
        page: "highline-status",
        notes: &["\
Works on the donor and on the joiner, under Galera and by hand, for root and for
the server's user and group. It reads one file in the data directory and changes
nothing."],
        exit: &[(0, "a transfer is running; with --watch: it succeeded"), (3, "there is none"), (4, "it is stuck")],
        files: &[STATUS],
        examples: &[
            ("What this node is sending or receiving", "highline status"),
            ("Follow it to its end", "highline status --watch"),
            ("A probe that leaves a working transfer alone", "highline status >/dev/null || mariadb-admin ping"),
            ("For a program, without the server's option files", "highline status --json --datadir /var/lib/mysql"),
        ],
        see: &["highline-rate", "highline-send", "highline-receive"],
    },
    Manual {
        page: "highline-rate",
        notes: &["\
Applies to the transfer this node is sending, until that ends; the option file is
not changed. Only root and the owner of the data directory (the server's user)
may do it. What is sent under the lock is not slowed down, unless that is
everything (`freeze=whole`)."],
        exit: &[(0, "the transfer has taken the new limit")],
        files: &[STATUS],
        examples: &[
            ("At most 50 MiB a second from now on", "highline rate 50M"),
            ("No limit any more", "highline rate 0"),
        ],
        see: &["highline-status", "highline-send"],
    },
    Manual {
        page: "highline-certs",
        notes: &["\
A transfer is encrypted and its ends are verified without any of this. These
certificates are for the server's clients and for replication, and to admit only
nodes of your own authority to a transfer."],
        exit: &[],
        files: &[
            ("certs/ca.pem", "the authority, for every node"),
            ("certs/ca-key.pem", "its key: stays where it is; whoever has it can add a node"),
            ("certs/NAME.pem, certs/NAME-key.pem", "certificate and key of the node NAME"),
        ],
        examples: &[
            (
                "A cluster with TLS on all three kinds of traffic, on a host that is not a node.\n\
                 Copy `ca.pem` and each node's own two files to that node, and paste the printed\n\
                 lines into its option file",
                "highline certs ca --name 'Our Galera CA'\n\
                 highline certs node node1 --ip 192.0.2.1\n\
                 highline certs node node2 --ip 192.0.2.2",
            ),
            (
                "Replace the authority without an outage: after the first line copy `ca.pem` to\n\
                 every node and restart each in turn; make a new certificate for every node, copy\n\
                 and restart likewise; after the last line copy `ca.pem` to every node",
                "highline certs ca --rotate\n\
                 highline certs node node1 --ip 192.0.2.1\n\
                 highline certs node node2 --ip 192.0.2.2\n\
                 highline certs ca --retire",
            ),
        ],
        see: &["highline-certs-ca", "highline-certs-node", "highline-certs-show", "highline-check"],
    },
    Manual {
        page: "highline-certs-ca",
        notes: &[],
        exit: &[],
        files: &[("certs/ca.pem", "the authority, for every node"), ("certs/ca-key.pem", "its key; keep it here")],
        examples: &[
            ("A new authority, in the directory certs", "highline certs ca --name 'Our Galera CA'"),
            ("Ten more years for the same authority", "highline certs ca --renew"),
        ],
        see: &["highline-certs", "highline-certs-node"],
    },
    Manual {
        page: "highline-certs-node",
        notes: &[],
        exit: &[],
        files: &[("certs/NAME.pem, certs/NAME-key.pem", "certificate and key of the node NAME")],
        examples: &[
            (
                "For a node that others reach by address and by name",
                "highline certs node node1 --ip 192.0.2.1 --dns node1.example.com",
            ),
            ("Renew it; key and pin stay", "highline certs node node1 --ip 192.0.2.1"),
        ],
        see: &["highline-certs", "highline-certs-show"],
    },
    Manual {
        page: "highline-certs-show",
        notes: &[],
        exit: &[],
        files: &[],
        examples: &[(
            "How long these are valid, and for which names",
            "highline certs show certs/ca.pem certs/node1.pem",
        )],
        see: &["highline-certs", "highline-check"],
    },
    Manual {
        page: "highline-check",
        notes: &["\
Reads the option files as the server does, and examines certificates, programs,
free space, and the permissions that a transfer needs. It changes nothing, and
opens no file that the server has locked. Run it as the server's user or as root,
so that it can read the keys."],
        exit: &[(0, "all is well"), (1, "there are warnings"), (2, "there are errors")],
        files: &[("/etc/mysql/my.cnf, /etc/my.cnf", "and wherever else the server looks for its options")],
        examples: &[
            ("This node, as its server is configured", "highline check"),
            ("Another option file, for a program", "highline check --defaults-file /etc/mysql/node2.cnf --json"),
            ("What a waiting joiner presents, and whether our CA signed it", "highline check --peer 192.0.2.7:4444"),
        ],
        see: &["highline-certs", "highline-status"],
    },
    Manual {
        page: "highline-sst",
        notes: &["\
The server starts it through `wsrep_sst_highline`, with flags of its own, and reads
its standard output. What it says goes to the server's error log, on lines with the
word `Highline`. Its options are in the group `[highline]` of the server's option
files; galera.md lists them."],
        exit: &[],
        files: &[
            ("/usr/bin/wsrep_sst_highline", "what the server starts"),
            ("DATADIR/sst_in_progress", "there while the joiner works"),
            STAGED,
            KEPT,
            MANIFEST,
            STATUS,
        ],
        examples: &[
            ("In the option file of every node", "[mysqld]\nwsrep_sst_method = highline"),
            ("With options", "[highline]\nrate-limit = 200M\nfreeze-limit = 2s"),
        ],
        see: &["highline-check", "highline-status", "highline-rate"],
    },
];

/// The manual of a page.
pub(super) fn of(page: &str) -> Option<&'static Manual> {
    MANUALS.iter().find(|manual| manual.page == page)
}

/// Gives a command and all beneath it the end of their `--help`.
pub(super) fn told(command: clap::Command, page: &str) -> clap::Command {
    let command = command.mut_subcommands(|verb| {
        let page = format!("{page}-{}", verb.get_name());
        told(verb, &page)
    });
    match of(page) {
        Some(manual) if page == "highline" => command.after_help(manual.notes.concat()).after_long_help(manual.help()),
        Some(manual) => command.after_long_help(manual.help()),
        None => command,
    }
}

impl Manual {
    /// What `--help` ends with.
    fn help(&self) -> String {
        let mut text: String = self.notes.iter().map(|note| format!("{note}\n\n")).collect();
        if !self.exit.is_empty() {
            text.push_str("Exit codes:\n");
            for (code, means) in self.exit {
                let _ = writeln!(text, "  {code:>2}  {means}");
            }
            text.push_str("   others: the kind of the failure, see highline(1)\n\n");
        }
        text.push_str("Examples:\n");
        for (what, lines) in self.examples {
            let _ = writeln!(text, "  {}:", what.replace('\n', "\n  "));
            let _ = writeln!(text, "    {}\n", lines.replace('\n', "\n    "));
        }
        text.trim_end().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{command, pages::shown, parse};
    use super::*;

    /// The commands of `highline` in an example, as a shell would pass them.
    fn commands(lines: &str) -> Vec<Vec<String>> {
        let (mut all, mut words, mut word, mut quoted) = (Vec::new(), Vec::new(), None::<String>, false);
        for c in format!("{}\n", lines.replace("\\\n", " ")).chars() {
            match c {
                '\'' => {
                    quoted = !quoted;
                    word.get_or_insert_default();
                }
                _ if quoted => word.get_or_insert_default().push(c),
                ' ' | '\n' | '|' | '>' => {
                    words.extend(word.take());
                    if c != ' ' {
                        all.push(std::mem::take(&mut words));
                    }
                }
                _ => word.get_or_insert_default().push(c),
            }
        }
        let begins = |words: Vec<String>| Some(words[words.iter().position(|word| word == "highline")?..].to_vec());
        all.into_iter().filter_map(begins).collect()
    }

    #[test]
    fn every_example_is_a_command_line_that_is_understood() {
        let mut seen = 0;
        for manual in MANUALS {
            assert!(!manual.examples.is_empty(), "{}", manual.page);
            for (what, lines) in manual.examples {
                assert!(lines.lines().all(|line| line.len() <= 66), "{lines} is cut off by a narrow terminal");
                assert!(what.lines().all(|line| line.len() <= 80) && !what.ends_with('.'), "{what}");
                // Lines of an option file.
                if manual.page == "highline-sst" {
                    continue;
                }
                let commands = commands(lines);
                assert!(!commands.is_empty(), "{lines}");
                for words in commands {
                    let page = manual.page.replace('-', " ");
                    parse(words.iter().map(Into::into)).unwrap_or_else(|told| panic!("{words:?}: {told}"));
                    assert!(words.join(" ").starts_with(&page) || lines.contains(&page), "{page}: {words:?}");
                    seen += 1;
                }
            }
        }
        assert!(seen > 30, "{seen}");
    }

    #[test]
    fn every_command_has_its_manual_and_no_other_has() {
        fn names(command: &clap::Command, page: String, found: &mut Vec<String>) {
            for verb in command.get_subcommands() {
                names(verb, format!("{page}-{}", verb.get_name()), found);
            }
            found.push(page);
        }
        let mut pages = Vec::new();
        names(&shown(), "highline".into(), &mut pages);
        pages.sort_unstable();
        let mut manuals: Vec<&str> = MANUALS.iter().map(|manual| manual.page).collect();
        manuals.sort_unstable();
        assert_eq!(pages, manuals);
        for name in MANUALS.iter().flat_map(|manual| manual.see) {
            assert!(pages.iter().any(|page| page == name) || *name == "wsrep_sst_highline", "{name}");
        }
    }

    #[test]
    fn help_shows_exit_codes_and_examples() {
        let help = |words: &[&str]| {
            let told = command().try_get_matches_from(words).unwrap_err();
            assert!(!told.use_stderr());
            told.to_string()
        };
        let status = help(&["highline", "status", "--help"]);
        for words in [
            "  3  there is none\n",
            "Examples:\n  What this node is sending or receiving:\n",
            "    highline status --watch\n",
        ] {
            assert!(status.contains(words), "{status}");
        }
        assert!(help(&["highline", "certs", "ca", "--help"]).contains("highline certs ca --renew"));
        assert!(help(&["highline", "--help"]).contains("Start with `highline demo`"));
        assert!(!help(&["highline", "status", "-h"]).contains("Examples:"), "the short one is short");
    }
}
