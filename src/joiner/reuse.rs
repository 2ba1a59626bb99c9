//! Settles with the donor what the joiner already has, between the joiner's consent and the first round.

use std::sync::Arc;

use super::basis::Basis;
use super::seeding::Order;
use crate::error::{Error, Kind, Result};
use crate::link::Control;
use crate::manifest::Checksum;
use crate::progress::{Reporter, counted};
use crate::threads::blocking;
use crate::wire::{Base64, Message, Round};

/// Tells the donor what this node has, answers its question, and learns what is wanted, until the donor announces its
/// first round.
pub(super) async fn arrange(
    control: &mut Control,
    basis: Basis,
    checksum: Checksum,
    reporter: &dyn Reporter,
) -> Result<(Round, Option<Order>)> {
    if basis.is_empty() {
        let round = control.expect(|m| if let Message::Round(round) = m { Ok(round) } else { Err(m) }).await?;
        return Ok((round, None));
    }
    for message in basis.messages() {
        control.send(message).await?;
    }
    let basis = Arc::new(basis);
    let (mut asked, mut wanted) = (None, None);
    loop {
        match control.next().await? {
            Message::Round(round) => {
                let order =
                    asked.zip(wanted).map(|(seed, wanted)| Order { basis, wanted, checksum, seed, tight: false });
                return Ok((round, order));
            }
            Message::Sample { seed, chunks } if asked.is_none() => {
                asked = Some(seed);
                let basis = Arc::clone(&basis);
                let hints = blocking(move || basis.hints(&chunks, seed)).await?;
                control.send(Message::Sampled { hints }).await?;
            }
            Message::Reuse { wanted: told } if asked.is_some() && wanted.is_none() => {
                let numbers = numbers(&told, basis.len())?;
                reporter.note(&format!(
                    "the donor compares {} with those already here, and sends what differs",
                    counted(numbers.len() as u64, "file", "files")
                ));
                wanted = Some(numbers);
            }
            Message::NoReuse if wanted.is_none() => {
                reporter.note("too little of this node's data equals the donor's: everything is sent");
            }
            other => return Err(control.unexpected(&other)),
        }
    }
}

/// The indices of the bits that are set, of `count` files.
fn numbers(wanted: &Base64, count: usize) -> Result<Vec<u32>> {
    let bytes = wanted.as_bytes().iter().enumerate();
    let bits = bytes.flat_map(|(at, byte)| (0..8).filter(move |bit| byte >> bit & 1 == 1).map(move |bit| at * 8 + bit));
    let numbers: Vec<u32> = bits.map(|bit| bit as u32).collect();
    if wanted.as_bytes().len() > count.div_ceil(8) || numbers.last().is_some_and(|last| *last as usize >= count) {
        return Err(Error::new(Kind::Protocol, "the donor wants a file that was not listed"));
    }
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wanted_files_are_listed_ones() {
        let of = |bytes: &[u8], count| numbers(&bytes.to_vec().into(), count);
        assert_eq!(of(&[0b101, 0b10], 10).unwrap(), [0, 2, 9]);
        assert_eq!(of(&[], 10).unwrap(), [0; 0]);
        assert_eq!(of(&[0, 0b100], 10).unwrap_err().kind(), Kind::Protocol);
        assert_eq!(of(&[0, 0, 0], 10).unwrap_err().kind(), Kind::Protocol);
    }
}
