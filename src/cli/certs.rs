//! What was typed after `highline certs`.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::tls::authority::{NewKey, NodeName};

#[derive(Debug, Args)]
pub struct CertsArgs {
    #[command(subcommand)]
    pub verb: CertsVerb,
}

#[derive(Debug, Subcommand)]
pub enum CertsVerb {
    /// Make the cluster's own certificate authority (CA), or renew or replace it
    Ca(CaArgs),
    /// Make or renew the certificate of one node
    Node(NodeArgs),
    /// Show what is in certificates and keys: names, usage, issuer, days left, pin
    Show(ShowArgs),
}

#[derive(Debug, Args)]
pub struct CaArgs {
    /// Directory of the authority: ca.pem, ca-key.pem, and the nodes' files
    #[arg(long, value_name = "DIR", default_value = "certs")]
    pub dir: PathBuf,
    /// The authority's name, shown in logs and refusals
    #[arg(long, value_name = "NAME", default_value = "Highline cluster CA")]
    pub name: String,
    /// Days until it expires
    #[arg(long, value_name = "N", default_value_t = 3650, value_parser = clap::value_parser!(u32).range(1..=36500))]
    pub days: u32,
    /// Make an RSA key of this many bits instead of ECDSA P-256
    #[arg(long, value_name = "BITS", value_parser = rsa)]
    pub rsa: Option<NewKey>,
    /// Extend the existing authority; its key stays, so what it has signed remains valid
    #[arg(long, group = "change")]
    pub renew: bool,
    /// Make a new authority beside the old one; ca.pem then holds both, so both are trusted
    #[arg(long, group = "change")]
    pub rotate: bool,
    /// End a rotation: leave only the signing authority in ca.pem
    #[arg(long, group = "change")]
    pub retire: bool,
    /// Replace the existing authority and lose its key
    #[arg(long, group = "change")]
    pub force: bool,
}

#[derive(Debug, Args)]
pub struct NodeArgs {
    /// The node's name; it is also the name of its files, and a DNS name in the certificate
    #[arg(value_name = "NAME")]
    pub name: NodeName,
    /// An address that other nodes connect to: wsrep_node_address, wsrep_sst_receive_address (repeatable)
    #[arg(long = "ip", value_name = "ADDRESS")]
    pub addresses: Vec<IpAddr>,
    /// A DNS name that other nodes or clients connect to (repeatable)
    #[arg(long, value_name = "NAME")]
    pub dns: Vec<String>,
    /// Directory of the authority
    #[arg(long, value_name = "DIR", default_value = "certs")]
    pub dir: PathBuf,
    /// Days until it expires
    #[arg(long, value_name = "N", default_value_t = 825, value_parser = clap::value_parser!(u32).range(1..=36500))]
    pub days: u32,
    /// Make an RSA key of this many bits (2048, 3072, 4096) instead of ECDSA P-256
    #[arg(long, value_name = "BITS", value_parser = rsa)]
    pub rsa: Option<NewKey>,
    /// Make a new key too; otherwise a renewal keeps the key, and with it the pin
    #[arg(long)]
    pub new_key: bool,
    /// The directory on the node where the files will go, for the printed option lines
    #[arg(long, value_name = "DIR")]
    pub node_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct ShowArgs {
    /// PEM files: certificates, bundles, keys
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
}

fn rsa(bits: &str) -> Result<NewKey, String> {
    match bits {
        "2048" => Ok(NewKey::Rsa2048),
        "3072" => Ok(NewKey::Rsa3072),
        "4096" => Ok(NewKey::Rsa4096),
        _ => Err("an RSA key has 2048, 3072 or 4096 bits".to_owned()),
    }
}
