//! Places for connections: a few in all, and fewer for each address, so that one client cannot take them all.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// Connections at a time; the next is closed at once.
const MAX: usize = 8;
/// Connections of one address at a time.
const MAX_OF_ADDRESS: usize = 2;

/// The places.
#[derive(Clone, Default)]
pub struct Places {
    taken: Arc<Mutex<BTreeMap<IpAddr, usize>>>,
}

/// A place, which is free again when this is dropped.
pub struct Place {
    taken: Arc<Mutex<BTreeMap<IpAddr, usize>>>,
    address: IpAddr,
}

impl Places {
    /// A place for this address; nothing where there is none.
    pub fn take(&self, address: IpAddr) -> Option<Place> {
        let address = address.to_canonical();
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let of_address = taken.get(&address).copied().unwrap_or(0);
        if of_address >= MAX_OF_ADDRESS || taken.values().sum::<usize>() >= MAX {
            return None;
        }
        taken.insert(address, of_address + 1);
        Some(Place { taken: self.taken.clone(), address })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        match taken.get_mut(&self.address) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(taken.remove(&self.address)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    #[test]
    fn one_address_leaves_places_for_others() {
        let places = Places::default();
        let kept: Vec<Place> = (0..MAX).filter_map(|_| places.take(address(1))).collect();
        assert_eq!(kept.len(), MAX_OF_ADDRESS);
        let mapped: IpAddr = "::ffff:192.0.2.1".parse().unwrap();
        assert!(places.take(mapped).is_none(), "the same address, written as IPv6");
        assert!(places.take(address(2)).is_some());
        drop(kept);
        assert!(places.take(address(1)).is_some());
    }

    #[test]
    fn all_addresses_together_have_so_many_places() {
        let places = Places::default();
        let kept: Vec<Place> = (0..=u8::MAX).filter_map(|last| places.take(address(last))).collect();
        assert_eq!(kept.len(), MAX);
        drop(kept);
        assert!(places.taken.lock().unwrap().is_empty());
    }
}
