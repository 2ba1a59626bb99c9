//! `wsrep_sst_mysqldump`: the donor loads a dump into the joiner as a client.

use super::{HERE, USE_HIGHLINE, check_program, check_script};
use crate::check::options::Group;
use crate::check::{Node, Report};

pub(super) fn check(node: &Node, report: &mut Report) {
    check_script(node, "mysqldump", report);
    check_program(node, "wsrep_sst_mysqldump", "mariadb-dump", report);
    let options = &node.options;
    let account = options.first(&[Group::Server, Group::Sst], "wsrep-sst-auth").is_some()
        || options.get(Group::Client, "user").is_some();
    if !account {
        report.error(
            HERE,
            "wsrep_sst_auth is not set, so the donor has no account on the joiner: every transfer fails",
            "set wsrep_sst_auth=USER:PASSWORD in [mysqld] on every node, with an account that has all privileges",
        );
    }
    let client_tls = options.switch(Group::Client, "ssl") == Some(true)
        || options.get(Group::Client, "ssl-ca").is_some()
        || options.get(Group::Client, "ssl-cert").is_some();
    let verified = options.switch(Group::Client, "ssl-verify-server-cert") == Some(true);
    match (client_tls, verified) {
        (false, _) => report.warning(
            HERE,
            "the donor sends the dump and the account's password as an ordinary client, and [client] does not ask for TLS",
            format!("set ssl-ca and ssl-verify-server-cert in [client]; or {USE_HIGHLINE}"),
        ),
        (true, false) => report.warning(
            HERE,
            "the donor sends the dump as an ordinary client, and [client] does not verify the other server",
            "set ssl-verify-server-cert in [client]",
        ),
        (true, true) => report.ok(HERE, "the donor sends the dump over TLS and verifies the joiner's certificate"),
    }
    report.note(HERE, "a dump is the slowest way, and needs a running joiner and an account with all privileges");
}
