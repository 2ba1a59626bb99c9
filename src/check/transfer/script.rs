//! The certificates that the server's own scripts take, by their own rules of precedence.

use crate::check::certificates::{Materials, Need};
use crate::check::node::paths;
use crate::check::options::Group;
use crate::check::{Channel, Node, Report};

const HERE: Channel = Channel::StateTransfer;
const PARTS: [&str; 4] = ["ca", "capath", "cert", "key"];

/// Where the scripts look for `ssl-…`: the server's groups win over `[sst]`.
pub(super) const GROUPS: [Group; 3] = [Group::Server, Group::Sst, Group::Backup];

/// The certificates of a script of the server, `check_server_ssl_config` in `wsrep_sst_common`.
#[derive(Debug, Default)]
pub(super) struct ScriptTls<'a> {
    pub(super) ca: Option<&'a str>,
    pub(super) capath: Option<&'a str>,
    pub(super) cert: Option<&'a str>,
    pub(super) key: Option<&'a str>,
}

impl<'a> ScriptTls<'a> {
    pub(super) fn of(node: &'a Node, report: &mut Report) -> ScriptTls<'a> {
        let options = &node.options;
        let [ca, capath, cert, key] = PARTS.map(|part| options.get(Group::Sst, &format!("t{part}")));
        let old = ScriptTls { ca, capath, cert, key };
        let [ca, capath, cert, key] = PARTS.map(|part| options.first(&GROUPS, &format!("ssl-{part}")));
        let new = ScriptTls { ca, capath, cert, key };
        if old.is_empty() {
            for part in PARTS {
                let name = format!("ssl-{part}");
                if let (Some(server), Some(sst)) = (options.server(&name), options.get(Group::Sst, &name))
                    && server != sst
                {
                    report.warning(
                        HERE,
                        format!("{name} in [sst] has no effect: the script takes {server} from the server's groups"),
                        format!("name it t{part} in [sst]; or with wsrep_sst_method=highline, [sst] wins"),
                    );
                }
            }
            return new;
        }
        if !new.is_empty() {
            report.note(
                HERE,
                "tca, tcapath, tcert or tkey in [sst] is set, so no general ssl-… file is used for transfers",
            );
        }
        old
    }

    pub(super) fn is_empty(&self) -> bool {
        [self.ca, self.capath, self.cert, self.key].iter().all(Option::is_none)
    }

    pub(super) fn has_ca(&self) -> bool {
        self.ca.is_some() || self.capath.is_some()
    }

    pub(super) fn has_identity(&self) -> bool {
        self.cert.is_some() && self.key.is_some()
    }

    /// Names the files of both roles for a closer look; a role may have its own (MDEV-23744).
    pub(super) fn add_to(&self, node: &Node, materials: &mut Materials, verified: bool) {
        for (role, need) in [("server", Need::joiner(node, false)), ("client", Need::donor())] {
            let of_role = |part: &str, general| node.options.first(&GROUPS, &format!("ssl-{role}-{part}")).or(general);
            let cas = paths([of_role("ca", self.ca), of_role("capath", self.capath)]);
            let cas = if verified { cas } else { Vec::new() };
            let (cert, key) = (of_role("cert", self.cert), of_role("key", self.key));
            materials.add("state transfer", cert, key, cas, Vec::new(), need);
        }
    }
}
