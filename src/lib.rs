//! Highline moves a whole database directory from a donor to a joiner: encrypted, verified, parallel.
//!
//! The rooms, from the door inwards; an arrow may only point down this list:
//!
//! | room | what is in it |
//! |---|---|
//! | [`install`] | how a new tree takes the place of an old one |
//! | [`tree`] | what travels: roots, relative paths, rules, the scan |
//! | [`position`] | `uuid:seqno` |
//! | [`error`] | what went wrong, on whose side, and what to do |

pub mod error;
pub mod install;
pub mod manifest;
pub mod position;
pub mod tree;
