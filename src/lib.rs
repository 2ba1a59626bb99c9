//! Highline moves a whole database directory from a donor to a joiner: encrypted, verified, parallel.
//!
//! The rooms, from the outside inwards; an arrow may only point down this list:
//!
//! | room | what is in it |
//! |---|---|
//! | [`commands`] | a file a verb; `sst` is a folder, a file a role |
//! | [`config`] | what was typed means this: one checked value a role |
//! | [`cli`] | what was typed |
//! | [`check`] | is every channel of this node secured; would a transfer of ours work, which `sst` asks too |
//! | [`sst`] | the contract with the database server: flags, dialogue, option files, layout |
//! | [`donor`] | the sending pipeline, a file a stage |
//! | [`joiner`] | the receiving pipeline, mirrored |
//! | [`install`] | staging, switch, recovery; takes `Verified` |
//! | [`pipe`] | the two ends of a byte stream, and the programs that Highline runs there |
//! | [`link`] | one authenticated connection: dial, listener; and the conversation that outlives it: control |
//! | [`arbitrator`] | `garbd`, which asks a cluster for a transfer with no server behind it |
//! | [`tls`] | who we are, who they are: identity, verification, ticket, proof |
//! | [`archive`] | chunks as archive members: pack and unpack, compression |
//! | [`wire`] | the conversation as bytes |
//! | [`manifest`] | digests, the seal over them, and the comparison that makes `Verified` |
//! | [`pages`] | InnoDB's pages: is each what InnoDB wrote |
//! | [`tree`] | what travels: roots, relative paths, node-owned names and paths, the scan |
//! | [`backup`] | `mariadb-backup`: its stream on the donor, what it prepares on the joiner |
//! | [`progress`] | how a transfer tells what it does |
//! | [`stop`] | a request to stop |
//! | `programs` | programs of others, in `PATH` |
//! | `threads` | work on threads of its own, the values they share, and what a panic costs |
//! | [`direct`] | reading and writing past the page cache |
//! | [`pace`] | the rate limit |
//! | `choice` | an option that takes one of a few words |
//! | [`host_port`] | `HOST:PORT` as people write it |
//! | [`position`] | `uuid:seqno`, and the domain behind it |
//! | [`version`] | a server's version, and whose files it can read |
//! | [`error`] | what went wrong, on whose side, and what to do |

pub mod arbitrator;
pub mod archive;
pub mod backup;
pub mod check;
mod choice;
pub mod cli;
pub mod commands;
pub mod config;
pub mod direct;
pub mod donor;
pub mod error;
#[doc(hidden)]
pub mod fuzzing;
pub mod host_port;
pub mod install;
pub mod joiner;
pub mod link;
pub mod manifest;
pub mod pace;
pub mod pages;
pub mod pipe;
pub mod position;
mod programs;
pub mod progress;
pub mod sst;
pub mod stop;
mod threads;
pub mod tls;
pub mod tree;
pub mod version;
pub mod wire;
