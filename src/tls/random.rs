//! Random numbers from the library that TLS uses.

use crate::error::{Error, Kind, Result};

/// # Errors
/// The system cannot provide any.
pub fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes)
        .map_err(|e| Error::new(Kind::Io, "the system cannot provide random numbers").because(e))?;
    Ok(bytes)
}
