//! Addresses of the brokers, in the order in which they are asked: nodes begin at different ones, and go on to the next after each wait.

use std::net::SocketAddr;

/// The addresses.
pub(crate) struct Brokers {
    addresses: Vec<SocketAddr>,
}

impl Brokers {
    /// Begins at the address with this number, modulo how many there are.
    pub(crate) fn starting_at(addresses: &[SocketAddr], start: usize) -> Self {
        let mut addresses = addresses.to_vec();
        if !addresses.is_empty() {
            let start = start % addresses.len();
            addresses.rotate_left(start);
        }
        Self { addresses }
    }

    /// All of them, the next one first.
    pub(crate) fn in_order(&self) -> Vec<SocketAddr> {
        self.addresses.clone()
    }

    /// Begins at this one.
    pub(crate) fn begin_at(&mut self, address: SocketAddr) {
        if let Some(index) = self.addresses.iter().position(|one| *one == address) {
            self.addresses.rotate_left(index);
        }
    }

    /// Begins at the next one.
    pub(crate) fn rotate(&mut self) {
        if !self.addresses.is_empty() {
            self.addresses.rotate_left(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_is_the_first_one_for_some_nodes_and_after_some_waits() {
        let addresses: Vec<SocketAddr> = (1..4).map(|port| ([192, 0, 2, 1], port).into()).collect();
        let first = |start| Brokers::starting_at(&addresses, start).in_order()[0].port();
        assert_eq!([0, 1, 2, 3, 255].map(first), [1, 2, 3, 1, 1]);
        let mut brokers = Brokers::starting_at(&addresses, 2);
        let ports = |brokers: &Brokers| brokers.in_order().iter().map(SocketAddr::port).collect::<Vec<_>>();
        assert_eq!(ports(&brokers), [3, 1, 2]);
        brokers.rotate();
        assert_eq!(ports(&brokers), [1, 2, 3]);
        brokers.begin_at(addresses[2]);
        assert_eq!(ports(&brokers), [3, 1, 2]);
        assert!(Brokers::starting_at(&[], 7).in_order().is_empty());
    }
}
