//! Classifies host names in requests: this PC, its network, or any other host.

use std::net::IpAddr;

use crate::config::is_loopback;

/// The machines that a Host header, with or without a port, can refer to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HostKind {
    ThisPc,
    /// An address, or a name that public DNS does not resolve: it cannot belong to a foreign page.
    Network,
    /// A name that may belong to a foreign page and resolve to this PC.
    Public,
}

impl HostKind {
    pub(super) fn of(host: &str) -> Self {
        let has_port = host.rsplit_once(':').filter(|(name, _)| {
            !name.contains(':') || (name.starts_with('[') && name.ends_with(']'))
        });
        let name = has_port.map_or(host, |(name, _)| name).to_ascii_lowercase();
        let bare = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(&name);
        match bare.parse::<IpAddr>() {
            Ok(address) if is_loopback(address) => Self::ThisPc,
            // Browsers connect to this PC for it, from any page.
            Ok(address) if address.is_unspecified() => Self::Public,
            Ok(_) => Self::Network,
            Err(_) if name == "localhost" => Self::ThisPc,
            Err(_) if is_label(&name) => Self::Network,
            Err(_) if name.ends_with(".local") || name.ends_with(".internal") => Self::Network,
            Err(_) => Self::Public,
        }
    }
}

/// Whether this is a host name without dots, which no public name is.
fn is_label(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_header_is_classified_as_this_pc_network_or_public() {
        for (host, kind) in [
            ("localhost", HostKind::ThisPc),
            ("LocalHost:9184", HostKind::ThisPc),
            ("127.0.0.1:9184", HostKind::ThisPc),
            ("127.8.9.1", HostKind::ThisPc),
            ("[::1]:9184", HostKind::ThisPc),
            ("[::1]", HostKind::ThisPc),
            ("[::ffff:127.0.0.1]:1", HostKind::ThisPc),
            ("192.168.1.7:5000", HostKind::Network),
            ("[fd00::2]:5000", HostKind::Network),
            ("pit-pc:5000", HostKind::Network),
            ("pit.local", HostKind::Network),
            ("0.0.0.0:9184", HostKind::Public),
            ("[::]:9184", HostKind::Public),
            ("evil.example:9184", HostKind::Public),
            ("localhost.evil.example", HostKind::Public),
            ("127.0.0.1.evil.example", HostKind::Public),
            ("localhost.", HostKind::Public),
            ("", HostKind::Public),
            ("?", HostKind::Public),
        ] {
            assert_eq!(HostKind::of(host), kind, "{host}");
        }
    }
}
