//! The bytes of a path as text: `%`, `=` and everything outside `!` to `~` is written `%xx`.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

/// A path or name, which need not be UTF-8, in JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Escaped(Vec<u8>);

impl Escaped {
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

impl From<&[u8]> for Escaped {
    fn from(bytes: &[u8]) -> Escaped {
        Escaped(bytes.to_vec())
    }
}

impl TryFrom<String> for Escaped {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Escaped, &'static str> {
        unescape(&text).map(Escaped).ok_or("a path's text is malformed")
    }
}

impl From<Escaped> for String {
    fn from(bytes: Escaped) -> String {
        let mut text = String::new();
        escape(&bytes.0, &mut text);
        text
    }
}

pub(super) fn escape(bytes: &[u8], out: &mut String) {
    for &byte in bytes {
        if byte.is_ascii_graphic() && byte != b'%' && byte != b'=' {
            out.push(byte.into());
        } else {
            let _ = write!(out, "%{byte:02x}");
        }
    }
}

pub(super) fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => hex(rest.next()?, rest.next()?)?,
            byte => byte,
        });
    }
    Some(bytes)
}

pub(super) fn hex(high: u8, low: u8) -> Option<u8> {
    let digit = |b: u8| char::from(b).to_digit(16).filter(|_| !b.is_ascii_uppercase());
    u8::try_from(digit(high)? << 4 | digit(low)?).ok()
}
