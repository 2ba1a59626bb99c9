//! What `pull` asks of which cluster, and the joiner that takes what comes.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::listen_address;
use crate::arbitrator::{Cluster, carried, is_loopback};
use crate::check::own::Own;
use crate::cli::{PullArgs, ReceiveArgs, TreeArgs};
use crate::error::{Error, Kind, Printable, Result, Side};
use crate::install::Reuse;
use crate::joiner::{InstallMode, ReceiveOptions};
use crate::sst::layout::Layout;
use crate::sst::options::{OptionFiles, ProviderOptions, Settings, Tier, provider_pairs};
use crate::sst::server_args::{Defaults, ServerArgs};

/// What the server takes for `wsrep_cluster_name` by default.
const GROUP: &str = "my_wsrep_cluster";

/// The cluster, and what is wanted of it.
#[derive(Debug)]
pub struct Wish {
    pub cluster: Cluster,
    pub group: String,
    pub donor: String,
    /// For the arbitrator.
    pub provider: Vec<(String, String)>,
    /// Where the arbitrator listens, if it was said.
    pub group_listen: Option<SocketAddr>,
    files: Option<OptionFiles>,
}

impl Wish {
    pub fn of(args: &PullArgs) -> Result<Wish> {
        let read = |file| {
            let defaults = Defaults::of_file(Some(file), args.defaults_group_suffix.as_ref());
            OptionFiles::read(&defaults, &ServerArgs::default())
        };
        let files = args.defaults_file.as_ref().map(read).transpose()?;
        let written = |key: &str| files.as_ref().and_then(|files| files.last(Tier::Server, key));
        let cluster = match (&args.cluster_address, written("wsrep-cluster-address")) {
            (Some(cluster), _) => cluster.clone(),
            (None, Some(item)) => item.text()?.parse().map_err(|why| {
                Error::new(Kind::Usage, format!("{}: {why}", item.name())).remedy("name a node with --cluster-address")
            })?,
            (None, None) => {
                return Err(Error::new(Kind::Usage, "nothing says where the cluster is")
                    .remedy("give --cluster-address HOST, or --defaults-file with wsrep_cluster_address"));
            }
        };
        let group = match (&args.cluster_name, written("wsrep-cluster-name")) {
            (Some(group), _) => group.as_str(),
            (None, Some(item)) => item.text()?,
            (None, None) => GROUP,
        };
        let provider = match (&args.provider_options, &files) {
            (Some(typed), _) => {
                let here = std::env::current_dir().map_err(|e| Error::io("cannot find", Path::new("."), e))?;
                carried(typed_options(typed)?.into_iter(), &here)
            }
            (None, Some(files)) => {
                let options = ProviderOptions::of(files);
                if let Some(fault) = options.faults().first() {
                    return Err(Error::new(Kind::Usage, fault.clone())
                        .remedy("mend it, or say with --provider-options what replaces it"));
                }
                carried(options.iter(), &files.datadir())
            }
            (None, None) => Vec::new(),
        };
        Ok(Wish {
            cluster,
            group: printable("cluster-name", group)?,
            donor: printable("donor", &args.donor)?,
            provider,
            group_listen: args.group_listen.as_deref().map(|text| listen_address("group-listen", text)).transpose()?,
            files,
        })
    }

    /// Where the copy's files go, and what the operator should know: other directories than `DIR` count only where the
    /// option file is about `DIR`.
    pub fn tree(&self, args: &PullArgs) -> (TreeArgs, Option<String>) {
        let same = |there: PathBuf| {
            let real = |path: &Path| path.canonicalize().or_else(|_| std::path::absolute(path)).ok();
            real(&there).is_some_and(|there| real(&args.to) == Some(there))
        };
        let about_it = self.files.as_ref().is_some_and(|files| same(files.datadir()));
        let note = self.files.as_ref().filter(|_| !about_it).and_then(|files| aside(files, &args.to));
        let tree = TreeArgs {
            datadir: args.to.clone(),
            roots: Vec::new(),
            defaults_file: args.defaults_file.clone().filter(|_| about_it),
            defaults_group_suffix: args.defaults_group_suffix.clone().filter(|_| about_it),
        };
        (tree, note)
    }

    /// The joiner, and what the operator should know; `here` is the address by which the cluster sees this host.
    pub fn joiner(&self, args: &PullArgs, tree: TreeArgs, here: IpAddr) -> Result<(ReceiveOptions, Vec<String>)> {
        let listens = listen_address("listen", &args.listen)?.ip();
        let mut notes = Vec::new();
        let advertise = args.advertise.clone().unwrap_or_else(|| {
            let seen = if listens.is_unspecified() { here } else { listens };
            if is_loopback(seen) {
                notes.push(format!(
                    "the donor is told to connect to {seen}, which only this host can: if it is on another, give --advertise"
                ));
            }
            seen.to_string()
        });
        let mut order = super::joiner(&ReceiveArgs {
            tree: Some(tree),
            stdout: false,
            program: Vec::new(),
            listen: args.listen.clone(),
            advertise: Some(advertise.clone()),
            install: InstallMode::Auto,
            reuse: Reuse::Auto,
            force_older: false,
            checksum: args.checksum,
            initial_timeout: Some(args.initial_timeout),
            prepare: args.prepare.clone(),
            identity: args.identity.clone(),
            deadlines: args.deadlines.clone(),
            talk: args.talk.clone(),
        })?;
        // The donor asks of us what its option file says, so a node's own file also says what to show it.
        if let (Some(files), false) = (&self.files, args.identity.says_something()) {
            let settings = Settings::resolve(files, Side::Joiner, &files.datadir())?;
            let own = Own::of(&settings.tls, Side::Joiner, Some(&advertise), SystemTime::now())?;
            if let Some(identity) = own.identity {
                order.identity = identity;
            }
            (order.trust, order.policy) = (own.trust, own.policy);
            notes.extend(own.notes);
        }
        Ok((order, notes))
    }
}

/// What the operator should know if the file's other directories are not used.
fn aside(files: &OptionFiles, to: &Path) -> Option<String> {
    let (datadir, to) = (files.datadir(), Printable::path(to).to_string());
    let others = match Layout::of_files(&datadir, files) {
        Ok(layout) => {
            let others = layout.roots.directories().into_iter().filter(|place| *place != layout.roots.datadir());
            others.map(|place| Printable::path(place).to_string()).collect::<Vec<_>>().join(", ")
        }
        Err(error) => format!("could not be found ({})", error.sentence()),
    };
    (!others.is_empty()).then(|| {
        format!(
            "the option file is about {}, not about {to}, so its other directories are not used: {others}",
            Printable::path(&datadir)
        )
    })
}

fn typed_options(text: &str) -> Result<Vec<(&str, &str)>> {
    provider_pairs(text).map_err(|why| {
        Error::new(Kind::Usage, format!("--provider-options: {why}"))
            .remedy("write name=value, with semicolons in between, as in wsrep_provider_options")
    })
}

fn printable(option: &str, text: &str) -> Result<String> {
    if text.trim().is_empty() || text.chars().any(char::is_control) {
        return Err(super::bad(option, text, "a name"));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Command, parse};

    fn args(words: &[&str]) -> PullArgs {
        let words = ["highline", "pull", "--donor", "node1"].iter().chain(words);
        let Command::Pull(args) = parse(words.map(Into::into)).unwrap().command else { panic!() };
        args
    }

    #[test]
    fn the_option_file_says_where_the_cluster_is_and_the_command_line_has_the_last_word() {
        let dir = tempfile::tempdir().unwrap();
        let (file, data) = (dir.path().join("my.cnf"), dir.path().join("data"));
        let text = "[mysqld]\nwsrep_cluster_address=gcomm://a,b:1?x=y\nwsrep_cluster_name=prod\n\
                    wsrep_provider_options=\"gcache.size=1G;socket.ssl_key=key.pem;pc.weight=3\"\n";
        std::fs::write(&file, format!("{text}datadir={}\n", data.display())).unwrap();
        let (file, data) = (file.to_str().unwrap(), data.to_str().unwrap());
        let typed = args(&["--to", data, "--defaults-file", file]);
        let wish = Wish::of(&typed).unwrap();
        assert_eq!((wish.cluster.to_string().as_str(), wish.group.as_str()), ("gcomm://a,b:1", "prod"));
        assert_eq!(wish.provider, [("socket.ssl_key".to_owned(), format!("{data}/key.pem"))]);
        // The file's other directories are those of its own data directory.
        assert!(matches!(wish.tree(&typed), (TreeArgs { defaults_file: Some(_), .. }, None)));
        let elsewhere = args(&["--to", dir.path().to_str().unwrap(), "--defaults-file", file]);
        let (tree, note) = Wish::of(&elsewhere).unwrap().tree(&elsewhere);
        assert_eq!((tree.defaults_file, note), (None, None));

        let words = ["--cluster-address", "c", "--cluster-name", "other", "--provider-options", "gmcast.segment = 1;;"];
        let typed = args(&[&["--to", data, "--defaults-file", file], &words[..]].concat());
        let wish = Wish::of(&typed).unwrap();
        assert_eq!((wish.cluster.to_string().as_str(), wish.group.as_str()), ("gcomm://c", "other"));
        assert_eq!(wish.provider, [("gmcast.segment".to_owned(), "1".to_owned())]);
    }

    #[test]
    fn an_option_file_without_a_datadir_is_about_the_servers_default() {
        let dir = tempfile::tempdir().unwrap();
        let (file, redo) = (dir.path().join("my.cnf"), dir.path().join("redo"));
        let redo = redo.to_str().unwrap();
        let text = "wsrep_cluster_address=gcomm://a\nwsrep_provider_options=socket.ssl_key=key.pem";
        std::fs::write(&file, format!("[mysqld]\n{text}\ninnodb_log_group_home_dir={redo}\n")).unwrap();
        let file = file.to_str().unwrap();
        let typed = args(&["--to", "/var/lib/mysql", "--defaults-file", file]);
        let wish = Wish::of(&typed).unwrap();
        assert!(matches!(wish.tree(&typed), (TreeArgs { defaults_file: Some(_), .. }, None)));
        let to = dir.path().to_str().unwrap();
        let elsewhere = args(&["--to", to, "--defaults-file", file]);
        let wish = Wish::of(&elsewhere).unwrap();
        assert_eq!(wish.provider, [("socket.ssl_key".to_owned(), "/var/lib/mysql/key.pem".to_owned())]);
        let (tree, note) = wish.tree(&elsewhere);
        assert!(tree.defaults_file.is_none());
        assert_eq!(
            note.unwrap(),
            format!(
                "the option file is about /var/lib/mysql, not about {to}, so its other directories are not used: {redo}"
            )
        );
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        for (words, says) in [
            (&[][..], "nothing says where the cluster is"),
            (&["--cluster-address", "h", "--cluster-name", " "], "--cluster-name: ` ` is not a name"),
            (
                &["--cluster-address", "h", "--provider-options", "a=b;socket.ssl"],
                "--provider-options: `socket.ssl` has no value",
            ),
            (
                &["--cluster-address", "h", "--group-listen", "x"],
                "--group-listen: `x` is not HOST:PORT, such as [::]:4444 or 192.0.2.1:4444",
            ),
        ] {
            let error = Wish::of(&args(&[&["--to", "/d"], words].concat())).unwrap_err();
            assert_eq!((error.kind(), error.sentence().as_str()), (Kind::Usage, says));
            assert!(error.remedy_text().is_some());
        }
        assert_eq!(Wish::of(&args(&["--to", "/d", "--cluster-address", "h"])).unwrap().group, GROUP);
    }
}
