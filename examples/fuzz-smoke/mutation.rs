//! Changes bytes at random, and the same way each time.

/// Pieces of the seeds and a generator of numbers (xorshift64*).
pub(crate) struct Mutator {
    state: u64,
    words: Vec<Vec<u8>>,
}

/// Longer inputs only cost time.
const LONGEST: usize = 64 * 1024;

impl Mutator {
    pub(crate) fn new(name: &str, seeds: &[Vec<u8>]) -> Mutator {
        let state = name
            .bytes()
            .fold(0x9e37_79b9_7f4a_7c15, |state, byte| (state ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
        let mut words: Vec<Vec<u8>> = seeds
            .iter()
            .flat_map(|seed| seed.split(|byte| !byte.is_ascii_alphanumeric()))
            .filter(|word| (2..=40).contains(&word.len()))
            .map(<[u8]>::to_vec)
            .collect();
        words.extend(
            ["..", "../", "%", "-1", "18446744073709551616", "4294967295", "\u{1b}[2J\n", "é", "::", "@", "="]
                .map(|word| word.as_bytes().to_vec()),
        );
        words.sort();
        words.dedup();
        Mutator { state, words }
    }

    /// One of the inputs with one to six changes.
    pub(crate) fn change(&mut self, inputs: &[Vec<u8>]) -> Vec<u8> {
        let mut input = inputs[self.below(inputs.len())].clone();
        for _ in 0..=self.below(6) {
            self.once(&mut input, inputs);
        }
        input.truncate(LONGEST);
        input
    }

    fn once(&mut self, input: &mut Vec<u8>, inputs: &[Vec<u8>]) {
        let at = self.below(input.len() + 1);
        let end = (at + 1 + self.below(16)).min(input.len());
        match self.below(9) {
            0 if at < input.len() => input[at] ^= 1 << self.below(8),
            1 if at < input.len() => input[at] = self.next() as u8,
            2 if at < input.len() => input[at] = [0, 1, 0x7f, 0x80, 0xff, b'\n', b' ', b'0'][self.below(8)],
            3 => drop(input.drain(at.min(end)..end)),
            4 => input.truncate(at),
            5 => {
                let word = self.word();
                drop(input.splice(at..at, word));
            }
            6 => {
                let word = self.word();
                let end = (at + word.len()).min(input.len());
                drop(input.splice(at..end, word));
            }
            7 => {
                let piece = input[at.min(end)..end].to_vec();
                drop(input.splice(at..at, piece));
            }
            // The head of this one and the tail of another.
            _ => {
                let other = &inputs[self.below(inputs.len())];
                let from = self.below(other.len() + 1);
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
        }
    }

    fn word(&mut self) -> Vec<u8> {
        let number = self.below(self.words.len());
        self.words[number].clone()
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }

    fn next(&mut self) -> u64 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        self.state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }
}
