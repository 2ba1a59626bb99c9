//! What a state transfer is allowed to do here: started by the server, as its user; and by hand, as the user who runs
//! this check.
//!
//! It goes by owners, modes, capabilities and mounts. Where an access list decides it assumes the best; it cannot see
//! what SELinux or AppArmor forbid.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::StatVfsMountFlags;

use super::actor::{Actor, account, called, owner, server_on, word};
use super::{Channel, Level, Node, Report};
use crate::error::{Printable, Side};
use crate::sst::layout::Layout;
use crate::sst::options::Settings;
use crate::tree::{Roots, Rules, Scope, Shape};

const HERE: Channel = Channel::Host;

/// How many descriptors a joiner may have open at once.
const FILES: u64 = 512;

pub fn check(node: &Node, report: &mut Report) {
    let Ok(datadir) = std::fs::metadata(node.datadir()) else { return };
    let layout = match Layout::of_files(&node.datadir(), &node.options.files) {
        Ok(layout) => layout,
        Err(e) => return report.failure(HERE, Level::Error, &e),
    };
    let pid = server_on(&node.datadir(), node.options.server("pid-file").map(Path::new));
    let running = pid.and_then(Actor::child_of);
    let named = node.options.server("user").and_then(account);
    let (uid, gid) = named.unwrap_or((datadir.uid(), datadir.gid()));
    let server = running.clone().unwrap_or_else(|| Actor::of_account(uid, gid));
    if server.uid == 0 && running.is_none() && named.is_none() {
        let shown = Printable::path(layout.roots.datadir());
        return report.warning(
            HERE,
            format!("{shown} belongs to root, but the server runs as another user unless user=root is set"),
            format!("chown -R mysql: {shown}"),
        );
    }
    check_tree(&server, &layout, report);
    check_port(&server, running.is_some(), node.transfer_port(), report);
    check_files(&server, report);
    check_metrics(&server, node, report);
    if let Some(view) = pid.and_then(View::of) {
        view.check(node, &layout.roots, report);
    }
    if let Some(myself) = Actor::myself()
        && myself.uid != server.uid
    {
        check_by_hand(&myself, &server, &datadir, report);
    }
}

/// A donor reads every file that is sent; a joiner makes, moves and removes names in every directory.
fn check_tree(server: &Actor, layout: &Layout, report: &mut Report) {
    let user = called(server.uid);
    let mut fine = true;
    for directory in layout.roots.directories() {
        let shown = Printable::path(directory);
        match std::fs::metadata(directory) {
            Err(_) if barrier(server, directory).is_some() => {}
            Err(_) => continue,
            Ok(_) if read_only(directory) => {
                fine = false;
                report.error(
                    HERE,
                    format!("{shown} is mounted read-only: this node cannot join by a full transfer"),
                    "mount it read-write",
                );
                continue;
            }
            Ok(_) => {}
        }
        if let Some(above) = barrier(server, directory) {
            fine = false;
            let above = Printable::path(above);
            report.error(
                HERE,
                format!("the server's user {user} may not search {above} to reach {shown}: every transfer fails"),
                format!("chmod o+x {above}"),
            );
        } else if closed(server, directory, 7) {
            fine = false;
            report.error(
                HERE,
                format!("the server's user {user} may not read and write {shown}: every transfer fails"),
                format!("chown -R {} {shown}", owner(server.uid)),
            );
        }
    }
    let mut beneath = Beneath { server, closed: Vec::new(), unseen: Vec::new() };
    beneath.roots(layout);
    if let Some(first) = beneath.closed.first() {
        fine = false;
        let (count, first) = (beneath.closed.len(), Printable::path(first));
        let more = if count > 1 { format!(" and {} more", count.saturating_sub(1)) } else { String::new() };
        report.error(
            HERE,
            format!("the server's user {user} may not use {first}{more}: transfers fail when they get there"),
            format!("chown -R {} {}", owner(server.uid), Printable::path(layout.roots.datadir())),
        );
    }
    if let Some(unseen) = beneath.unseen.first() {
        let unseen = Printable::path(unseen);
        report.note(HERE, format!("this check may not look into {unseen}: run it as root or as {user}"));
    } else if fine {
        report.ok(HERE, format!("the server's user {user} has the permissions that a transfer needs"));
    }
}

/// The metrics file is replaced by a rename, so its directory must be writable.
fn check_metrics(server: &Actor, node: &Node, report: &mut Report) {
    let Ok(settings) = Settings::resolve(&node.options.files, Side::Joiner, &node.datadir()) else { return };
    let Some(directory) = settings.metrics.as_deref().and_then(Path::parent) else { return };
    let (shown, user) = (Printable::path(directory), called(server.uid));
    let remedy = format!("mkdir -p {shown} && chown {} {shown}", owner(server.uid));
    if !directory.is_dir() {
        report.warning(HERE, format!("metrics: there is no directory {shown}"), remedy);
    } else if closed(server, directory, 3) || barrier(server, directory).is_some() {
        report.warning(HERE, format!("metrics: the server's user {user} may not write in {shown}"), remedy);
    }
}

/// The nearest directory above `path` that `actor` may not search.
fn barrier<'a>(actor: &Actor, path: &'a Path) -> Option<&'a Path> {
    path.ancestors().skip(1).find(|above| closed(actor, above, 1))
}

/// Whether `actor` lacks the permissions `wanted`. If an access list decides, it counts as permitted.
fn closed(actor: &Actor, path: &Path, wanted: u32) -> bool {
    std::fs::metadata(path).is_ok_and(|file| refuses(actor, path, &file, wanted))
}

fn refuses(actor: &Actor, path: &Path, file: &Metadata, wanted: u32) -> bool {
    let no_list = || rustix::fs::lgetxattr(path, "system.posix_acl_access", &mut [0_u8; 0]).is_err();
    !actor.may(wanted, file) && no_list()
}

/// The entries that a transfer would touch, examined only with `stat`.
struct Beneath<'a> {
    server: &'a Actor,
    closed: Vec<PathBuf>,
    /// Directories that this process may not list.
    unseen: Vec<PathBuf>,
}

impl Beneath<'_> {
    fn roots(&mut self, layout: &Layout) {
        const DEPTH: u32 = 16;
        let (roots, rules) = (&layout.roots, Rules::new(Vec::new(), layout.own.clone()));
        for directory in roots.directories() {
            for path in self.list(directory) {
                let Some(name) = path.file_name() else { continue };
                let shape = Shape::at(&path);
                let owner = roots.owner(directory, name, shape).filter(|root| root.scope != Scope::Listed);
                if owner.is_some_and(|root| rules.travels(&root.name, directory, name, shape)) {
                    self.entry(&path, roots, DEPTH);
                }
            }
        }
    }

    fn entry(&mut self, path: &Path, roots: &Roots, depth: u32) {
        let Ok(file) = std::fs::symlink_metadata(path) else { return };
        let kind = file.file_type();
        if roots.iter().any(|root| root.path == path) || !(kind.is_dir() || kind.is_file()) {
            return;
        }
        if refuses(self.server, path, &file, if kind.is_dir() { 7 } else { 4 }) {
            self.closed.push(path.to_owned());
        } else if let Some(deeper) = depth.checked_sub(1).filter(|_| kind.is_dir()) {
            self.list(path).iter().for_each(|path| self.entry(path, roots, deeper));
        }
    }

    fn list(&mut self, directory: &Path) -> Vec<PathBuf> {
        match std::fs::read_dir(directory) {
            Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
            Err(e) => {
                if e.kind() == std::io::ErrorKind::PermissionDenied {
                    self.unseen.push(directory.to_owned());
                }
                Vec::new()
            }
        }
    }
}

fn check_port(server: &Actor, known: bool, port: u16, report: &mut Report) {
    let first = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    let first = first.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(1024);
    if port >= first || server.has("CAP_NET_BIND_SERVICE") {
        return;
    }
    let remedy = "use port 1024 or above in wsrep_sst_receive_address, or set AmbientCapabilities=CAP_NET_BIND_SERVICE in the server's unit";
    let user = called(server.uid);
    if known {
        let what = format!("the server's user {user} may not listen on port {port}: it has no CAP_NET_BIND_SERVICE");
        report.error(HERE, what, remedy);
    } else {
        let what = format!("port {port} requires CAP_NET_BIND_SERVICE, which user {user} does not normally have");
        report.warning(HERE, what, remedy);
    }
}

fn check_files(server: &Actor, report: &mut Report) {
    if let Some(files) = server.files.filter(|files| *files < FILES) {
        report.warning(
            HERE,
            format!("the server's limit of open files is {files}, and transfers inherit it: they may need {FILES}"),
            "raise LimitNOFILE in the server's unit, or its ulimit -n",
        );
    }
}

fn check_by_hand(myself: &Actor, server: &Actor, datadir: &Metadata, report: &mut Report) {
    let (me, user) = (called(myself.uid), called(server.uid));
    if myself.uid != 0 {
        let what = format!("this check runs as {me}: highline receive and send by hand need root or {user}");
        return report.note(HERE, what);
    }
    // Root switches to the owner of the data directory before it opens anything in it.
    let needed = ["CAP_SETUID", "CAP_SETGID"];
    let missing: Vec<&str> = needed.into_iter().filter(|name| !myself.has(name)).collect();
    if datadir.uid() != 0 && !missing.is_empty() {
        report.warning(
            HERE,
            format!("root has no {} here: highline receive by hand cannot switch to {user}", missing.join(", ")),
            format!(
                "run it as the server's user: setpriv --reuid={} --regid={} --init-groups highline receive",
                word(server.uid),
                server.groups.first().copied().unwrap_or(server.uid)
            ),
        );
    }
}

/// This host's files as a running server sees them; its unit may restrict that.
struct View(PathBuf);

impl View {
    /// `None` if it may not be examined, or if the server has a different root directory: a container.
    fn of(pid: u32) -> Option<View> {
        let root = PathBuf::from(format!("/proc/{pid}/root/"));
        (identity(&root)? == identity(Path::new("/"))?).then_some(View(root))
    }

    fn check(&self, node: &Node, roots: &Roots, report: &mut Report) {
        for directory in roots.directories() {
            let Some(there) = self.there(directory) else { continue };
            if read_only(&there) {
                report.error(
                    HERE,
                    format!(
                        "{} is read-only for the running server: a full transfer fails",
                        Printable::path(directory)
                    ),
                    "add it to ReadWritePaths in the server's unit, and restart the server",
                );
            }
            self.must_show(directory, report);
        }
        if node.method() != "highline" {
            return;
        }
        for side in [Side::Donor, Side::Joiner] {
            let Ok(Settings { tls, .. }) = Settings::resolve(&node.options.files, side, &node.datadir()) else {
                continue;
            };
            let files = [tls.cert, tls.key]
                .into_iter()
                .chain(tls.ca.into_iter().map(Some))
                .chain(tls.crls.into_iter().map(Some));
            files.flatten().for_each(|file| self.must_show(&file, report));
        }
    }

    /// A link would lead out of the view, so the path is resolved on this side.
    fn there(&self, path: &Path) -> Option<PathBuf> {
        Some(self.0.join(path.canonicalize().ok()?.strip_prefix("/").ok()?))
    }

    fn must_show(&self, path: &Path, report: &mut Report) {
        let Some(there) = self.there(path) else { return };
        if std::fs::metadata(&there).is_err_and(|e| e.kind() == std::io::ErrorKind::PermissionDenied)
            || identity(&there) == identity(path)
        {
            return;
        }
        report.error(
            HERE,
            format!("{} is hidden from the running server: transfers fail when they need it", Printable::path(path)),
            "move it out of /home, /root and /tmp, or change ProtectHome, PrivateTmp or InaccessiblePaths in the server's unit",
        );
    }
}

fn read_only(path: &Path) -> bool {
    rustix::fs::statvfs(path).is_ok_and(|fs| fs.f_flag.contains(StatVfsMountFlags::RDONLY))
}

/// Device and inode.
fn identity(path: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, chown};
    use std::time::SystemTime;

    use super::*;
    use crate::check::options::tests::read;

    /// A data directory with a schema, another with InnoDB's log, and who looks at them.
    struct Host {
        dir: tempfile::TempDir,
        layout: Layout,
    }

    fn set_mode(path: &Path, mode: u32) {
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    }

    impl Host {
        fn new() -> Host {
            let dir = tempfile::tempdir().unwrap();
            for sub in ["data/shop", "redo"] {
                std::fs::create_dir_all(dir.path().join(sub)).unwrap();
            }
            for file in ["data/ibdata1", "data/shop/t.ibd", "data/server-key.pem", "redo/ib_logfile0"] {
                std::fs::write(dir.path().join(file), "").unwrap();
                set_mode(&dir.path().join(file), 0o666);
            }
            for sub in ["", "data", "data/shop", "redo"] {
                set_mode(&dir.path().join(sub), 0o777);
            }
            let options = format!("[mysqld]\ninnodb_log_group_home_dir={}\n", dir.path().join("redo").display());
            let layout = Layout::of_files(&dir.path().join("data"), &read(&options).files).unwrap();
            Host { dir, layout }
        }

        /// The worst finding and all of them as text, where this host's folder is `DIR`.
        fn check(&self, server: &Actor) -> (Level, String) {
            let mut report = Report::default();
            check_tree(server, &self.layout, &mut report);
            (report.worst(), report.to_string().replace(self.dir.path().to_str().unwrap(), "DIR"))
        }
    }

    fn stranger(capabilities: u64) -> Actor {
        Actor { uid: 4_000_000_000, groups: vec![4_000_000_000], capabilities, files: None }
    }

    #[test]
    fn what_the_servers_user_may_not_do_is_named() {
        for (sub, mode, said) in [
            ("", 0o777, None),
            (
                "",
                0o776,
                Some("may not search DIR to reach DIR/data: every transfer fails\n           -> chmod o+x DIR\n"),
            ),
            (
                "data",
                0o775,
                Some(
                    "may not read and write DIR/data: every transfer fails\n           -> chown -R 4000000000 DIR/data\n",
                ),
            ),
            ("redo", 0o770, Some("may not read and write DIR/redo: every")),
            (
                "data/shop",
                0o755,
                Some(
                    "may not use DIR/data/shop: transfers fail when they get there\n           -> chown -R 4000000000 DIR/data\n",
                ),
            ),
            ("data/shop/t.ibd", 0o660, Some("may not use DIR/data/shop/t.ibd: ")),
            ("redo/ib_logfile0", 0o660, Some("may not use DIR/redo/ib_logfile0: ")),
            // It never travels, and only its name would be in the way.
            ("data/server-key.pem", 0o600, None),
        ] {
            let host = Host::new();
            set_mode(&host.dir.path().join(sub), mode);
            let (worst, text) = host.check(&stranger(0));
            match said {
                None => assert!(
                    worst == Level::Ok && text.contains("has the permissions that a transfer needs"),
                    "{sub}\n{text}"
                ),
                Some(said) => assert!(worst == Level::Error && text.contains(said), "{sub}\n{text}"),
            }
            let (worst, text) = host.check(&stranger(1 << 1));
            assert_eq!(worst, Level::Ok, "CAP_DAC_OVERRIDE passes all: {sub}\n{text}");
        }
        let host = Host::new();
        for file in ["ibdata1", "shop/t.ibd"] {
            set_mode(&host.dir.path().join("data").join(file), 0o600);
        }
        let (_, text) = host.check(&stranger(0));
        assert!(text.contains(" and 1 more: "), "{text}");
    }

    #[test]
    fn low_ports_need_a_capability() {
        for (port, capability, known, worst) in [
            (4444, 0, true, Level::Ok),
            (80, 0, true, Level::Error),
            (80, 0, false, Level::Warning),
            (80, 1 << 10, true, Level::Ok),
        ] {
            let mut report = Report::default();
            check_port(&stranger(capability), known, port, &mut report);
            assert_eq!(report.worst(), worst, "{port} {capability} {known}: {report}");
        }
    }

    #[test]
    fn few_descriptors_are_said() {
        for (files, worst) in [(None, Level::Ok), (Some(FILES), Level::Ok), (Some(256), Level::Warning)] {
            let mut report = Report::default();
            check_files(&Actor { files, ..stranger(0) }, &mut report);
            assert_eq!(report.worst(), worst, "{report}");
        }
    }

    #[test]
    fn by_hand_root_needs_what_makes_it_root() {
        let dir = tempfile::tempdir().unwrap();
        let owned_by_root = std::fs::metadata("/").unwrap();
        let mut foreign = None;
        if rustix::process::geteuid().is_root() {
            chown(dir.path(), Some(12), Some(12)).unwrap();
            foreign = Some(std::fs::metadata(dir.path()).unwrap());
        }
        let root = |without: u32| Actor { uid: 0, capabilities: !(1 << without), ..stranger(0) };
        let said = |myself: &Actor, datadir: &Metadata| {
            let mut report = Report::default();
            check_by_hand(myself, &stranger(0), datadir, &mut report);
            (report.worst(), report.to_string())
        };
        assert_eq!(said(&root(0), &owned_by_root).0, Level::Ok);
        assert_eq!(said(&stranger(0), &owned_by_root).0, Level::Note);
        let Some(foreign) = foreign else { return };
        assert_eq!(said(&root(10), &foreign).0, Level::Ok);
        for (bit, name) in [(6, "CAP_SETGID"), (7, "CAP_SETUID")] {
            let (worst, text) = said(&root(bit), &foreign);
            assert!(worst == Level::Warning && text.contains(&format!("root has no {name} here")), "{text}");
        }
    }

    #[test]
    fn what_a_server_does_not_see_is_named() {
        let host = Host::new();
        let cert = host.dir.path().join("cert.pem");
        std::fs::write(&cert, "").unwrap();
        let options = format!(
            "[mysqld]\nwsrep_sst_method=highline\n[highline]\nssl-mode=VERIFY_CA\ncert={0}\nkey={0}\nca={0}\n",
            cert.display()
        );
        let node = Node { options: read(&options), path: Default::default(), now: SystemTime::now() };
        let said = |view: View| {
            let mut report = Report::default();
            view.check(&node, &host.layout.roots, &mut report);
            report.to_string().replace(host.dir.path().to_str().unwrap(), "DIR")
        };
        let all = said(View::of(std::process::id()).unwrap());
        assert!(all.contains("0 errors"), "{all}");
        let nothing = said(View(host.dir.path().join("redo")));
        for path in ["DIR/data", "DIR/redo", "DIR/cert.pem"] {
            assert!(nothing.contains(&format!("{path} is hidden from the running server")), "{nothing}");
        }
        assert!(nothing.contains("3 errors"), "each once: {nothing}");
    }
}
