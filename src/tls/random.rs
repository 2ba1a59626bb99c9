//! Random numbers of the library that TLS uses.

use crate::error::{Error, Kind, Result};

/// # Errors
/// The system has none.
pub fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes)
        .map_err(|e| Error::new(Kind::Io, "the system gives no random numbers").because(e))?;
    Ok(bytes)
}
