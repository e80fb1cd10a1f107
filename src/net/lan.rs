//! The addresses of this PC in its networks. No other file uses the `if-addrs` crate.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};

/// The maximum addresses: a PC with many virtual networks has more, of no use to a phone.
const MAX_ADDRESSES: usize = 8;

/// The IPv4 addresses of this PC that other devices may reach, most likely the first. Needs no
/// route to the Internet: a race network may have none.
pub(crate) fn addresses() -> Vec<Ipv4Addr> {
    let interfaces = if_addrs::get_if_addrs().unwrap_or_else(|error| {
        tracing::warn!(%error, "cannot list the network interfaces");
        Vec::new()
    });
    let interfaces = interfaces.into_iter().filter(|interface| !interface.is_loopback());
    let own = interfaces.filter_map(|interface| match interface.ip() {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    });
    in_order(own.collect(), default_route())
}

/// The address of the default route first, then private networks before others.
fn in_order(mut own: Vec<Ipv4Addr>, default_route: Option<Ipv4Addr>) -> Vec<Ipv4Addr> {
    own.extend(default_route);
    // A link-local address means that no router assigned one.
    own.retain(|address| {
        !address.is_loopback() && !address.is_unspecified() && !address.is_link_local()
    });
    own.sort_by_key(|address| (Some(*address) != default_route, !address.is_private(), *address));
    own.dedup();
    own.truncate(MAX_ADDRESSES);
    own
}

/// This PC's address in the network of its default route. Connecting a UDP socket selects it and
/// sends nothing.
fn default_route() -> Option<Ipv4Addr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    // RFC 5737 reserves 198.51.100.0/24 for documentation.
    socket.connect((Ipv4Addr::new(198, 51, 100, 1), 9)).ok()?;
    match socket.local_addr().ok()?.ip() {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_route_comes_first_and_addresses_that_no_phone_reaches_are_left_out() {
        let ip = |text: &str| text.parse::<Ipv4Addr>().unwrap();
        let own = ["203.0.113.5", "172.17.0.1", "192.168.1.20", "127.0.0.1", "169.254.3.4"];
        let ordered = in_order(own.map(ip).to_vec(), Some(ip("192.168.1.20")));
        assert_eq!(ordered, ["192.168.1.20", "172.17.0.1", "203.0.113.5"].map(ip));
        // A network without a route to the Internet.
        assert_eq!(in_order(vec![ip("10.0.0.2")], None), [ip("10.0.0.2")]);
        let many = (0..100).map(|last| Ipv4Addr::new(10, 0, 0, last)).collect();
        assert_eq!(in_order(many, None).len(), MAX_ADDRESSES);
    }

    #[test]
    fn this_machine_lists_no_loopback_address() {
        assert!(addresses().iter().all(|address| !address.is_loopback()));
    }
}
