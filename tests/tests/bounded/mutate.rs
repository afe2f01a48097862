//! Damage to an input, the same in every run: flipped bits, numbers that parsers trip over, ranges cut off, doubled, or taken from another input.

/// Numbers that lengths, counts and positions should not have.
const NUMBERS: [u64; 9] = [0, 1, 2, 0x7f, 0xff, 0xffff, 0x7fff_ffff, 0xffff_ffff, u64::MAX];
/// No mutation is longer.
const LARGEST: usize = 64 << 10;

/// Xorshift (Marsaglia, 2003), from a fixed seed.
pub struct Random(u64);

impl Random {
    /// The sequence of this text.
    pub fn of(text: &str) -> Self {
        // FNV-1a; xorshift must not begin with 0.
        Self(
            text.bytes()
                .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
                | 1,
        )
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % end
    }

    /// A place in `bytes`, rather one that holds something.
    fn place(&mut self, bytes: &[u8]) -> usize {
        let places = [(); 6].map(|()| self.below(bytes.len().max(1)));
        places.into_iter().find(|at| bytes.get(*at).is_some_and(|byte| *byte != 0)).unwrap_or(places[0])
    }
}

/// `seed` with one to four changes; `other` is where ranges come from.
pub fn mutated(random: &mut Random, seed: &[u8], other: &[u8]) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=random.below(4) {
        change(random, &mut bytes, other);
    }
    bytes.truncate(LARGEST.max(seed.len()));
    bytes
}

fn change(random: &mut Random, bytes: &mut Vec<u8>, other: &[u8]) {
    let at = random.place(bytes);
    if bytes.is_empty() {
        return bytes.extend(other);
    }
    let rest = bytes.len() - at;
    match random.below(16) {
        0..=3 => bytes[at] ^= 1 << random.below(8),
        4 => bytes[at] = random.below(256) as u8,
        5..=10 => number(random, bytes, at),
        11 => bytes.truncate(at),
        12 => {
            let range = bytes[at..at + random.below(rest.min(256)) + 1].to_vec();
            bytes.splice(at..at, range);
        }
        13 => {
            let range = bytes[at..at + random.below(rest.min(64)) + 1].to_vec();
            let to = random.below(bytes.len() - range.len() + 1);
            bytes[to..to + range.len()].copy_from_slice(&range);
        }
        14 => drop(bytes.drain(at..at + random.below(rest.min(64)) + 1)),
        _ => {
            let from = random.place(other);
            bytes.truncate(at);
            bytes.extend(&other[from.min(other.len())..]);
        }
    }
}

/// A little-endian number of 2, 4 or 8 bytes at an aligned place.
fn number(random: &mut Random, bytes: &mut [u8], at: usize) {
    let width = 2 << random.below(3);
    let length = bytes.len() as u64;
    let value = match random.below(NUMBERS.len() + 3) {
        index if index < NUMBERS.len() => NUMBERS[index],
        index if index == NUMBERS.len() => length,
        index if index == NUMBERS.len() + 1 => length - at as u64,
        _ => random.below(1 << 16) as u64,
    };
    let start = at - at % width;
    if let Some(place) = bytes.get_mut(start..start + width) {
        place.copy_from_slice(&value.to_le_bytes()[..width]);
    }
}
