//! What is left of a destroyed row in the pages of the database.

use std::collections::BTreeMap;

use super::*;

/// A reproducible sequence of numbers (xorshift, Marsaglia 2003).
fn numbers(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move |below| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    }
}

/// Rows move between pages when they get longer and when others come: copies stay behind, in bytes of a page that nothing uses.
#[test]
fn destroyed_row_is_in_no_page_of_the_database_wherever_it_was_before() {
    /// Rows of disks that were adopted are that long, and of disks that were opened.
    const BYTES: [usize; 2] = [640, 860];
    /// With this one, a copy stays behind in round 33 if pages are not written anew.
    const SEED: u64 = 2;
    let mut number = numbers(SEED);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("database");
    let store = Sqlite::create(&path).unwrap().with_test_key();
    let mut shares: BTreeMap<String, String> = BTreeMap::new();
    let put = |name: &str, share: Option<&String>, bytes: usize| {
        let text = format!("{:>1$}", share.map_or("", String::as_str), bytes);
        store
            .transact(&mut |open| {
                if share.is_none() {
                    open.destroys();
                }
                open.put(Table::Disks, name.as_bytes(), text.as_bytes())
            })
            .unwrap();
    };
    for round in 0..40 {
        let name = format!("{}-{}/state", ["a", "web", "db", "edge", "node"][number(5) as usize], number(10_000));
        let share = format!("{round:08}{}", hex::encode(number(u64::MAX).to_be_bytes()).repeat(7));
        put(&name, Some(&share), BYTES[0]);
        shares.insert(name, share);
        for _ in 0..number(3) {
            let (name, share) = shares.iter().nth(number(shares.len() as u64) as usize).unwrap();
            put(name, Some(share), BYTES[1]);
        }
        if number(7) == 0 {
            let name = shares.keys().nth(number(shares.len() as u64) as usize).unwrap().clone();
            let share = shares.remove(&name).unwrap();
            put(&name, None, BYTES[0]);
            store.fold(PATIENCE).unwrap();
            let bytes = std::fs::read(&path).unwrap();
            let is_there = bytes.windows(share.len()).any(|found| found == share.as_bytes());
            assert!(!is_there, "round {round}: the share of {name} is in the database, {} disks", shares.len());
        }
    }
}
