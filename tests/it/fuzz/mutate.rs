//! Mutates valid inputs.

use rand::Rng;
use rand::rngs::SmallRng;

/// Size limit of a mutated input, in bytes.
const MOST: usize = 200_000;

/// Fragments that often break parsers.
const PIECES: [&[u8]; 20] = [
    b"\0",
    b"\xff\xff\xff\xff",
    b"\xef\xbb\xbf",
    b"\xf0\x9f\x8f\x8e",
    b"\"",
    b"\\u0000",
    b"\\ud800",
    b"{",
    b"[",
    b"}]",
    b"null",
    b"NaN",
    b"-1e999",
    b"9223372036854775808",
    b"18446744073709551615",
    b"-0.0",
    b"\n",
    b",",
    b"__proto__",
    b"4294967296",
];

/// Mutates an input of the corpus in one to six places; one in twenty is random bytes instead.
pub fn mutate(corpus: &[Vec<u8>], chance: &mut SmallRng) -> Vec<u8> {
    if chance.random_ratio(1, 20) {
        return (0..chance.random_range(0..300)).map(|_| chance.random::<u8>()).collect();
    }
    let mut input = corpus[chance.random_range(0..corpus.len())].clone();
    for _ in 0..chance.random_range(1..=6) {
        change(&mut input, corpus, chance);
        input.truncate(MOST);
    }
    input
}

fn change(input: &mut Vec<u8>, corpus: &[Vec<u8>], chance: &mut SmallRng) {
    let at = chance.random_range(0..=input.len());
    let to = (at + chance.random_range(1..=16_usize)).min(input.len());
    match chance.random_range(0..9) {
        0 if at < input.len() => input[at] ^= 1 << chance.random_range(0..8),
        1 if at < input.len() => input[at] = chance.random(),
        2 => drop(input.drain(at..to)),
        3 => drop(input.splice(at..to, PIECES[chance.random_range(0..PIECES.len())].to_vec())),
        4 => drop(input.splice(at..at, input[at..to].to_vec())),
        // Repeat a fragment: deep nesting or great length.
        5 => {
            let piece = PIECES[chance.random_range(0..PIECES.len())];
            let times = 1 << chance.random_range(0..14);
            drop(input.splice(at..at, piece.repeat(times)));
        }
        6 => input.truncate(at),
        7 => {
            let other = &corpus[chance.random_range(0..corpus.len())];
            let from = chance.random_range(0..=other.len());
            input.truncate(at);
            input.extend_from_slice(&other[from..]);
        }
        _ => another_number(input, at, chance),
    }
}

/// Replaces the first number at or after `at`.
fn another_number(input: &mut Vec<u8>, at: usize, chance: &mut SmallRng) {
    let Some(from) = input[at..].iter().position(u8::is_ascii_digit).map(|ahead| at + ahead) else {
        return;
    };
    let len = input[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let number = match chance.random_range(0..4) {
        0 => chance.random::<u64>().to_string(),
        1 => "0".into(),
        2 => format!("-{}", chance.random::<u32>()),
        _ => "9".repeat(chance.random_range(1..400)),
    };
    input.splice(from..from + len, number.into_bytes());
}

#[test]
fn mutations_differ_and_are_reproducible_from_the_seed() {
    use rand::SeedableRng;

    let corpus = [b"{\"lap\": 3}".to_vec(), b"[1, 2]".to_vec()];
    let all = |first: u64| -> Vec<_> {
        (first..first + 500).map(|n| mutate(&corpus, &mut SmallRng::seed_from_u64(n))).collect()
    };
    assert_eq!(all(0), all(0));
    let different: std::collections::BTreeSet<_> = all(0).into_iter().collect();
    assert!(different.len() > 400, "{}", different.len());
    assert!(different.iter().all(|input| input.len() <= MOST));
}
