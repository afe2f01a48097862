//! The network of the initrd: one card, an address by DHCPv4 (RFC 2131) or from `hints.json`, and nothing else. Everything that comes over it is the host's to write, so address, prefix and gateway are all that is taken; no name
//! is ever resolved. Before systemd starts, all of it is taken away again.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use attest::cluster::StaticNetwork;
use futures_util::TryStreamExt;
use mozim::{DhcpV4Client, DhcpV4Config, DhcpV4State};
use rtnetlink::packet_route::route::{RouteMessage, RouteScope};
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder};
use tokio::runtime::Runtime;
use tokio::time::timeout;

/// Where the kernel lists its links.
const LINKS: &str = "/sys/class/net";
/// ARPHRD_ETHER.
const ETHERNET: &str = "1";
/// The link lo has this index (Linux, `LOOPBACK_IFINDEX`).
const LOOPBACK: u32 = 1;
/// How long a lease may take.
const LEASE: Duration = Duration::from_secs(10);

/// A network that is up.
pub struct Network {
    runtime: Runtime,
    link: Link,
}

/// A network card.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Link {
    name: String,
    index: u32,
    address: Vec<u8>,
}

/// An address of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Lease {
    address: Ipv4Addr,
    prefix: u8,
    gateway: Option<Ipv4Addr>,
}

impl Lease {
    /// Whether the kernel reaches this address without a route.
    fn reaches(&self, other: Ipv4Addr) -> bool {
        let host_bits = 32_u32.saturating_sub(self.prefix.into());
        let differing = u32::from(self.address) ^ u32::from(other);
        differing.checked_shr(host_bits).unwrap_or_default() == 0
    }
}

impl Network {
    /// Brings the first card up. What is wrong may pass: a cable, a DHCP server.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn up(wanted: Option<&StaticNetwork>) -> Result<Self, String> {
        let link = first_link(Path::new(LINKS)).ok_or("there is no network card")?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| format!("the network cannot be used: {error}"))?;
        let network = Self { runtime, link };
        let done = network.runtime.block_on(network.bring_up(wanted));
        done.map_err(|problem| format!("{}: {problem}", network.link.name)).map(|()| network)
    }

    async fn bring_up(&self, wanted: Option<&StaticNetwork>) -> Result<(), String> {
        let handle = handle()?;
        for index in [LOOPBACK, self.link.index] {
            let up = LinkUnspec::new_with_index(index).up().build();
            handle.link().set(up).execute().await.map_err(|error| format!("bringing it up: {error}"))?;
        }
        let lease = match wanted {
            Some(wanted) => fixed(wanted).ok_or("hints.json has no address that can be used")?,
            None => timeout(LEASE, ask(&self.link)).await.map_err(|_| "no DHCP server answers")??,
        };
        let Lease { address, prefix, gateway } = lease;
        self.clear(&handle).await;
        let add = handle.address().add(self.link.index, address.into(), prefix).execute();
        add.await.map_err(|error| format!("setting the address {address}/{prefix}: {error}"))?;
        for route in routes(&lease, self.link.index) {
            let add = handle.route().add(route).execute();
            add.await.map_err(|error| format!("setting the route to the gateway {gateway:?}: {error}"))?;
        }
        Ok(())
    }

    /// Takes all addresses away, with the routes over them.
    async fn clear(&self, handle: &Handle) {
        let mut addresses = handle.address().get().set_link_index_filter(self.link.index).execute();
        while let Ok(Some(address)) = addresses.try_next().await {
            // What cannot be taken away is replaced by whoever configures the card next.
            let _ = handle.address().del(address).execute().await;
        }
    }

    /// Takes addresses and link down: the running system begins as if nobody had been there.
    pub fn down(self) {
        self.runtime.block_on(async {
            let Ok(handle) = handle() else { return };
            self.clear(&handle).await;
            let _ = handle.link().set(LinkUnspec::new_with_index(self.link.index).down().build()).execute().await;
        });
    }
}

/// To be called inside the runtime.
fn handle() -> Result<Handle, String> {
    let (connection, handle, _) =
        rtnetlink::new_connection().map_err(|error| format!("the kernel's rtnetlink cannot be opened: {error}"))?;
    tokio::spawn(connection);
    Ok(handle)
}

/// Asks the network for an address.
async fn ask(link: &Link) -> Result<Lease, String> {
    let failed = |error: mozim::DhcpError| format!("DHCP: {error}");
    let mut config = DhcpV4Config::new(&link.name);
    config.set_iface_index(link.index);
    config.set_iface_mac_raw(&link.address).map_err(failed)?;
    let mut client = DhcpV4Client::init(config, None).await.map_err(failed)?;
    loop {
        if let DhcpV4State::Done(lease) = client.run().await.map_err(failed)? {
            let gateway = lease.gateways.as_ref().and_then(|gateways| gateways.first().copied());
            return Ok(Lease { address: lease.yiaddr, prefix: lease.prefix_length(), gateway });
        }
    }
}

/// The routes of an address: one over the gateway, and before it one to a gateway outside of the prefix, which the kernel
/// does not reach otherwise (networks with prefixes of 32 bits, for example Google Cloud's).
fn routes(lease: &Lease, link: u32) -> Vec<RouteMessage> {
    let Some(gateway) = lease.gateway else { return vec![] };
    let route = || RouteMessageBuilder::<Ipv4Addr>::new().output_interface(link);
    let to_gateway = route().destination_prefix(gateway, 32).scope(RouteScope::Link).build();
    let over_gateway = route().gateway(gateway).build();
    if lease.reaches(gateway) { vec![over_gateway] } else { vec![to_gateway, over_gateway] }
}

/// A static address.
fn fixed(wanted: &StaticNetwork) -> Option<Lease> {
    let (address, prefix) = wanted.address.split_once('/')?;
    let prefix = prefix.parse().ok().filter(|prefix| *prefix <= 32)?;
    let gateway = wanted.gateway.as_ref().map(|gateway| gateway.parse());
    Some(Lease { address: address.parse().ok()?, prefix, gateway: gateway.transpose().ok()? })
}

/// The card with the lowest index.
fn first_link(links: &Path) -> Option<Link> {
    let entries = fs::read_dir(links).ok()?;
    let found = entries.flatten().filter_map(|entry| link(&entry.path()));
    found.min_by_key(|link| link.index)
}

fn link(folder: &Path) -> Option<Link> {
    let text = |name: &str| Some(fs::read_to_string(folder.join(name)).ok()?.trim().to_owned());
    let name = folder.file_name()?.to_str()?.to_owned();
    if name == "lo" || text("type")? != ETHERNET {
        return None;
    }
    let address: Option<Vec<u8>> = text("address")?.split(':').map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    Some(Link { name, index: text("ifindex")?.parse().ok()?, address: address? })
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_route::route::RouteAttribute;

    use super::*;

    #[test]
    fn the_first_card_is_taken_and_loopback_is_none() {
        let folder = tempfile::tempdir().unwrap();
        for (name, kind, index, address) in [
            ("lo", "772", "1", "00:00:00:00:00:00"),
            ("eth1", "1", "3", "52:54:00:12:34:57"),
            ("eth0", "1", "2", "52:54:00:12:34:56"),
            ("sit0", "776", "0", "0.0.0.0"),
        ] {
            let link = folder.path().join(name);
            fs::create_dir(&link).unwrap();
            for (file, content) in [("type", kind), ("ifindex", index), ("address", address)] {
                fs::write(link.join(file), format!("{content}\n")).unwrap();
            }
        }
        let link = first_link(folder.path()).unwrap();
        assert_eq!((link.name.as_str(), link.index), ("eth0", 2));
        assert_eq!(link.address, [0x52, 0x54, 0, 0x12, 0x34, 0x56]);
        assert_eq!(first_link(&folder.path().join("lo")), None);
    }

    #[test]
    fn gateway_outside_of_the_prefix_gets_a_route_of_its_own() {
        for (address, prefix, gateway, routed) in [
            ("10.0.2.15", 24, "10.0.2.2", false),
            ("10.0.2.15", 24, "10.0.3.2", true),
            ("10.128.0.7", 32, "10.128.0.1", true),
            ("10.128.0.7", 31, "10.128.0.6", false),
            ("10.128.0.7", 0, "192.0.2.1", false),
        ] {
            let gateway: Ipv4Addr = gateway.parse().unwrap();
            let lease = Lease { address: address.parse().unwrap(), prefix, gateway: Some(gateway) };
            let routes = routes(&lease, 2);
            assert_eq!(routes.len(), 1 + usize::from(routed), "{lease:?}");
            let gateways =
                routes.iter().map(|route| route.attributes.contains(&RouteAttribute::Gateway(gateway.into())));
            let over: Vec<bool> = gateways.collect();
            assert_eq!(over.last(), Some(&true), "the default route is the last: {lease:?}");
            if routed {
                let route = &routes[0];
                assert!(route.attributes.contains(&RouteAttribute::Destination(gateway.into())), "{route:?}");
                assert_eq!((route.header.destination_prefix_length, route.header.scope), (32, RouteScope::Link));
            }
            assert_eq!(super::routes(&Lease { gateway: None, ..lease }, 2), []);
        }
    }

    #[test]
    fn a_static_address_is_an_address_with_a_prefix() {
        let wanted = |address: &str, gateway: Option<&str>| {
            fixed(&StaticNetwork { address: address.into(), gateway: gateway.map(str::to_owned) })
        };
        let lease = wanted("10.0.2.15/24", Some("10.0.2.2")).unwrap();
        assert_eq!((lease.prefix, lease.gateway), (24, Some(Ipv4Addr::new(10, 0, 2, 2))));
        assert!(wanted("10.0.2.15/24", None).is_some());
        for (address, gateway) in
            [("10.0.2.15", None), ("10.0.2.15/33", None), ("x/24", None), ("10.0.2.15/24", Some("x"))]
        {
            assert_eq!(wanted(address, gateway), None, "{address} {gateway:?}");
        }
    }
}
