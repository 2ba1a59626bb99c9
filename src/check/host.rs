//! The host: versions, the port of state transfers, space for a second copy, and what a transfer is allowed to do.

use std::path::Path;

use super::{Channel, Node, Report, privileges, storage};
use crate::error::Printable;
use crate::tree::free_space;

const HERE: Channel = Channel::Host;

pub fn check(node: &Node, report: &mut Report) {
    match node.server_version() {
        Some(version) => report.ok(HERE, format!("MariaDB {version}")),
        None => report.warning(
            HERE,
            "mariadbd is not in PATH",
            "install the server, or run the check with the server's PATH",
        ),
    }
    if !node.is_galera() {
        return;
    }
    if node.addresses().is_empty() {
        report.note(
            HERE,
            "neither wsrep_node_address nor wsrep_sst_receive_address is set: the server guesses which address other nodes connect to",
        );
    }
    let port = node.transfer_port();
    match listeners(port) {
        true => report.warning(
            HERE,
            format!("a program is listening on port {port}, which state transfer needs when this node joins"),
            format!("find it with `ss -ltnp sport = :{port}`; ignore this if a transfer is running now"),
        ),
        false => report.ok(HERE, format!("port {port} is free for state transfer")),
    }
    check_space(node, report);
    privileges::check(node, report);
}

/// Whether anything listens on that TCP port; read from the kernel's table, without opening a socket.
fn listeners(port: u16) -> bool {
    const LISTEN: &str = "0A";
    let wanted = format!("{port:04X}");
    ["/proc/net/tcp", "/proc/net/tcp6"].iter().filter_map(|table| std::fs::read_to_string(table).ok()).any(|table| {
        table.lines().skip(1).any(|line| {
            let mut fields = line.split_whitespace();
            let local = fields.nth(1).and_then(|address| address.rsplit_once(':'));
            let state = fields.nth(1);
            local.is_some_and(|(_, port)| port == wanted) && state == Some(LISTEN)
        })
    })
}

fn check_space(node: &Node, report: &mut Report) {
    let datadir = node.datadir();
    let shown = Printable::path(&datadir);
    let Ok(free) = free_space(&datadir) else {
        report.warning(HERE, format!("there is no data directory {shown}"), "create it, or set datadir in [mysqld]");
        return;
    };
    let used = allocated(&datadir, 16);
    let text = format!("{shown} holds {}, its filesystem has {} free", size(used), size(free));
    if free < used {
        report.warning(
            HERE,
            format!("{text}: too little for a second copy, so a full transfer has to remove the old data first"),
            "free space, or allow that with install=inplace in [highline]",
        );
    } else {
        report.ok(HERE, text);
    }
    if node.method() == "highline" {
        storage::check(node, used, report);
    }
}

/// Bytes a tree takes on disk, as far as this process may read it; links are not followed.
fn allocated(dir: &Path, depth: u32) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Some(deeper) = depth.checked_sub(1) else { return 0 };
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    entries
        .flatten()
        .filter_map(|entry| entry.metadata().ok().map(|metadata| (entry.path(), metadata)))
        .map(|(path, metadata)| {
            let own = metadata.blocks().saturating_mul(512);
            if metadata.is_dir() { own.saturating_add(allocated(&path, deeper)) } else { own }
        })
        .fold(0, u64::saturating_add)
}

fn size(bytes: u64) -> String {
    let units = [("GiB", 30_u32), ("MiB", 20), ("KiB", 10)];
    let fit = units.into_iter().find(|(_, shift)| bytes >> shift > 0);
    fit.map_or(format!("{bytes} B"), |(unit, shift)| format!("{} {unit}", bytes >> shift))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_seen_without_touching_it() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let socket = std::net::TcpListener::bind(address).unwrap();
            let port = socket.local_addr().unwrap().port();
            assert!(listeners(port));
            drop(socket);
            assert!(!listeners(port));
        }
    }

    #[test]
    fn sizes_are_short() {
        assert_eq!([0, 1023, 5 << 20, 3 << 30].map(size), ["0 B", "1023 B", "5 MiB", "3 GiB"]);
    }
}
