//! How one database node is configured: its option file, its folders, its command line.

use super::template;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

/// Lines of a node's option file besides those that every node gets.
///
/// In a line, `{node}` is the node's own folder and `{dir:NAME}` is a folder `NAME` in it, which is made and given to the server.
#[derive(Debug, Clone, Default)]
pub struct NodeOptions {
    /// Lines of `[mysqld]`. Any line here makes the first node install its database with these options.
    pub server: Vec<String>,
    /// Lines of `[sst]`.
    pub sst: Vec<String>,
    /// Lines of `[highline]`.
    pub highline: Vec<String>,
    /// Parts of `wsrep_provider_options`.
    pub provider: Vec<String>,
    /// Arguments of `mariadbd`, after the option file.
    pub arguments: Vec<String>,
    /// Environment of `mariadbd`, inherited by the SST script.
    pub environment: Vec<(String, String)>,
    /// Only the node's server sees its folder `common` as [`Node::common`], so that two nodes on one host can
    /// have different files at one path. Needs root.
    pub private_common: bool,
    /// Another server program than the one in `PATH`.
    pub program: Option<PathBuf>,
    /// The server sees a `/proc` that was mounted with `hidepid=2`. Needs root, and Linux 5.8.
    pub hidden_processes: bool,
    /// The server is process 1 in a namespace of its own, its root is read-only, and its data directory is a mount. Needs root.
    pub container: bool,
}

/// Where the node's folder is, then the server's command.
const CONTAINER: &str = r#"set -e
mount --bind "$1" "$1"
mount --bind "$1/data" "$1/data"
mount -t proc proc /proc
mount -o remount,bind,ro /
if touch /var/tmp/highline-was-here 2>/dev/null; then exit 9; fi
shift
exec "$@""#;

#[derive(Debug)]
pub struct Node {
    pub number: usize,
    pub address: String,
    /// Holds datadir, socket, log, option file and the folders of `{dir:…}`.
    pub folder: PathBuf,
    pub options: NodeOptions,
    pub process: Option<Child>,
}

impl Node {
    pub fn new(number: usize, block: &str, parent: &Path, options: NodeOptions) -> Self {
        let folder = parent.join(format!("node{number}"));
        for dir in [folder.clone(), folder.join("data"), folder.join("tmp"), folder.join("runs")] {
            std::fs::create_dir(&dir).expect("mkdir");
        }
        template::own(&folder);
        Self { number, address: format!("{block}.{number}"), folder, options, process: None }
    }

    pub fn datadir(&self) -> PathBuf {
        self.folder.join("data")
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.join("socket")
    }

    pub fn log(&self) -> PathBuf {
        self.folder.join("error.log")
    }

    /// A path that all nodes share, with a space in it.
    pub fn common(&self) -> PathBuf {
        self.folder.with_file_name("the common place")
    }

    /// The server's program, in a mount namespace of its own if the options ask for it.
    pub fn server_command(&self) -> Command {
        let program = self.options.program.clone().unwrap_or_else(|| "mariadbd".into());
        if self.options.hidden_processes {
            let mut command = Command::new("unshare");
            command.args(["--mount", "sh", "-c", "mount -t proc -o hidepid=2 proc /proc && exec \"$@\"", "sh"]);
            command.arg(program);
            return command;
        }
        if self.options.container {
            let mut command = Command::new("unshare");
            command.args(["--mount", "--pid", "--fork", "sh", "-c", CONTAINER, "sh"]);
            command.arg(&self.folder).arg(program);
            return command;
        }
        if !self.options.private_common {
            return Command::new(program);
        }
        let own = self.folder.join("common");
        for dir in [&own, &self.common()] {
            std::fs::create_dir_all(dir).expect("mkdir");
            template::own_directory(dir);
        }
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", "mount --bind \"$1\" \"$2\" && shift 2 && exec \"$@\"", "sh"]);
        command.arg(own).arg(self.common()).arg(program);
        command
    }

    /// Where the shim records the runs of SST scripts.
    pub fn runs(&self) -> PathBuf {
        self.folder.join("runs")
    }

    pub fn option_file(&self) -> PathBuf {
        self.folder.join("my.cnf")
    }

    /// Writes the option file; a donor reads it again at each SST.
    pub fn write_options(&self, method: &str, members: &str) {
        let (folder, address, number) = (self.folder.display(), &self.address, self.number);
        let mut provider = format!(
            "gmcast.listen_addr=tcp://{address}:4567;ist.recv_addr={address}:4568;gcache.size=64M;gcs.fc_limit=64"
        );
        for part in &self.options.provider {
            provider.push(';');
            provider.push_str(part);
        }
        let mut file = format!(
            "[mysqld]
datadir={folder}/data
tmpdir={folder}/tmp
socket={folder}/socket
pid-file={folder}/pid
log-error={folder}/error.log
port=3306
bind-address={address}
skip-name-resolve
performance_schema=OFF
max_connections=60
key_buffer_size=4M
aria_pagecache_buffer_size=8M
innodb_buffer_pool_size=96M
innodb_log_file_size=48M
innodb_flush_log_at_trx_commit=0
binlog_format=row
innodb_autoinc_lock_mode=2
wsrep_on=ON
wsrep_provider=/usr/lib/galera/libgalera_smm.so
wsrep_cluster_name=lab
wsrep_cluster_address=gcomm://{members}
wsrep_node_address={address}
wsrep_node_name=node{number}
wsrep_sst_method={method}
wsrep_sst_receive_address={address}:4444
wsrep_sst_auth=root:
wsrep_slave_threads=2
wsrep_provider_options=\"{provider}\"
"
        );
        let groups =
            [("", &self.options.server), ("[sst]\n", &self.options.sst), ("[highline]\n", &self.options.highline)];
        for (title, lines) in groups {
            file.push_str(title);
            for line in lines {
                file.push_str(&self.expand(line));
                file.push('\n');
            }
        }
        std::fs::write(self.option_file(), file).expect("option file");
    }

    /// The folders named by `{dir:…}` in the options.
    pub fn extra_folders(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for line in self.options.server.iter().chain(&self.options.sst).chain(&self.options.highline) {
            for part in line.split("{dir:").skip(1) {
                if let Some((name, _)) = part.split_once('}') {
                    found.push(self.folder.join(name));
                }
            }
        }
        found
    }

    pub fn make_folders(&self) {
        for dir in self.extra_folders() {
            if !dir.is_dir() {
                std::fs::create_dir_all(&dir).expect("mkdir");
                template::own(&dir);
            }
        }
    }

    pub fn expand(&self, line: &str) -> String {
        let folder = self.folder.display().to_string();
        let mut rest = line.replace("{node}", &folder);
        while let Some((before, after)) = rest.split_once("{dir:") {
            let (name, after) = after.split_once('}').expect("{dir:NAME} is closed");
            rest = format!("{before}{folder}/{name}{after}");
        }
        rest
    }
}
