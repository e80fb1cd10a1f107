//! The address of a server.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

use url::{Host, Url};

use super::ParseError;
use super::url_hint::correction;
use super::values::{Textual, is_loopback};

/// The address of a server. A dashboard server: `http` or `https`, a host, optionally a port and a
/// path prefix. NATS: `nats` or `tls`, a host, optionally a port; or several such addresses of the
/// nodes of a cluster, separated by commas.
///
/// Never contains a user name, a password, a query, a fragment or a trailing `/`, so that a path
/// can be appended and the address can be logged. `parse` also accepts `ws` and `wss` and converts
/// them to `http` and `https`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerUrl(String);

impl ServerUrl {
    /// The default address of the public dashboard server.
    pub(super) fn local() -> Self {
        Self("http://localhost:5000".into())
    }

    /// The default address of a NATS server.
    pub(super) fn local_nats() -> Self {
        Self("nats://localhost:4222".into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The address, or the addresses of all cluster nodes.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = &str> {
        self.0.split(',')
    }

    /// The protocol of the server.
    pub fn protocol(&self) -> Protocol {
        match self.0.split_once(':') {
            Some(("nats" | "tls", _)) => Protocol::Nats,
            _ => Protocol::SocketIo,
        }
    }

    fn without_a_path(self) -> Result<Self, ParseError> {
        let url = Url::parse(&self.0).map_err(|_| ParseError("is not an address"))?;
        match url.host_str() {
            None | Some("") => Err(ParseError("is not an address")),
            Some(_) if !url.path().is_empty() => {
                Err(ParseError("has a path, which NATS does not support"))
            }
            Some(_) => Ok(self),
        }
    }

    /// Whether traffic to the server leaves this PC unencrypted.
    pub(super) fn is_readable_by_others(&self) -> bool {
        self.addresses().any(|address| {
            let Ok(url) = Url::parse(address) else { return false };
            let is_plain = matches!(url.scheme(), "http" | "nats");
            let is_this_pc = match url.host() {
                Some(Host::Domain(name)) => name.eq_ignore_ascii_case("localhost"),
                Some(Host::Ipv4(ip)) => is_loopback(ip.into()),
                Some(Host::Ipv6(ip)) => is_loopback(ip.into()),
                None => false,
            };
            // For unknown schemes, the `url` crate parses an IP address as a domain name.
            let is_address = url.host_str().and_then(|host| host.parse().ok());
            is_plain && !is_this_pc && !is_address.is_some_and(is_loopback)
        })
    }

    /// Whether this URL reaches a listener on `address` of this machine.
    pub(super) fn is_at(&self, address: SocketAddr) -> bool {
        let Ok(url) = Url::parse(&self.0) else { return false };
        let own = address.ip().to_canonical();
        let ip: Option<IpAddr> = match url.host() {
            Some(Host::Domain("localhost")) if own.is_loopback() => Some(own),
            Some(Host::Domain("localhost")) => Some(Ipv4Addr::LOCALHOST.into()),
            Some(Host::Ipv4(ip)) => Some(ip.into()),
            Some(Host::Ipv6(ip)) => Some(ip.into()),
            Some(Host::Domain(_)) | None => None,
        };
        let is_same_host =
            ip.is_some_and(|ip| ip == own || (own.is_unspecified() && ip.is_loopback()));
        is_same_host && url.port_or_known_default() == Some(address.port())
    }
}

/// The protocol of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// The Socket.IO events of a dashboard server.
    SocketIo,
    Nats,
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ServerUrl {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        if !text.contains(',') {
            return Self::one(text);
        }
        let nodes = text.split(',').map(|node| Ok(Self::one(node.trim())?.0));
        let nodes: Vec<String> = nodes.collect::<Result<_, ParseError>>()?;
        if !["nats://", "tls://"]
            .iter()
            .any(|scheme| nodes.iter().all(|node| node.starts_with(scheme)))
        {
            return Err(ParseError("has addresses that are neither all nats nor all tls"));
        }
        Ok(Self(nodes.join(",")))
    }
}

impl ServerUrl {
    /// Parses a single address.
    fn one(text: &str) -> Result<Self, ParseError> {
        if !text.contains("://") {
            return Err(ParseError("does not begin with a scheme such as http://"));
        }
        let mut url = Url::parse(text).map_err(|_| ParseError("is not an address"))?;
        let scheme = match url.scheme() {
            "http" | "ws" => "http",
            "https" | "wss" => "https",
            "nats" => "nats",
            "tls" => "tls",
            _ => return Err(ParseError("is not an http, https, nats or tls address")),
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err(ParseError("has a user name or a password in it"));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(ParseError("has a query or a fragment"));
        }
        url.set_scheme(scheme).map_err(|()| ParseError("is not an address"))?;
        let url = Self(url.as_str().trim_end_matches('/').into());
        match url.protocol() {
            Protocol::Nats => url.without_a_path(),
            Protocol::SocketIo if url.0.ends_with("/socket.io") => {
                Err(ParseError("ends with /socket.io, which pitwire adds"))
            }
            Protocol::SocketIo => Ok(url),
        }
    }
}

impl Textual for ServerUrl {
    fn read(&mut self, text: &str) -> Result<(), ParseError> {
        *self = text.parse()?;
        Ok(())
    }

    fn show(&self) -> String {
        self.to_string()
    }

    fn allowed(&self) -> String {
        r#"an address such as "http://localhost:5000" or "nats://localhost:4222""#.into()
    }

    fn correction(&self, invalid: &str, table: &str) -> Option<String> {
        correction(invalid, table)
    }
}
