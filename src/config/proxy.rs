//! The forward proxy to a server: from `server.proxy`, else from the environment as curl and
//! python-requests read it.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::percent_decode_str;
use url::Url;

use super::ParseError;
use super::values::{Textual, is_loopback};

/// The text shown in place of a proxy's user name and password.
const HIDDEN: &str = "***";

/// How to choose the proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ProxyChoice {
    /// By the environment variables `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY`.
    #[default]
    Environment,
    /// No proxy, whatever the environment says.
    Direct,
    /// This proxy, for any server.
    Fixed(Proxy),
}

/// An HTTP proxy. Its user name and password are never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    host: String,
    port: u16,
    credentials: Option<Credentials>,
}

#[derive(Clone, PartialEq, Eq)]
struct Credentials {
    user: String,
    password: String,
}

impl Proxy {
    /// The host name or IP address, without the brackets of IPv6.
    pub(crate) fn host(&self) -> &str {
        self.host.trim_matches(['[', ']'])
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The value of the `Proxy-Authorization` header.
    pub(crate) fn authorization(&self) -> Option<String> {
        let Credentials { user, password } = self.credentials.as_ref()?;
        Some(format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))))
    }

    /// The texts that must never be logged.
    pub(crate) fn secrets(&self) -> Vec<String> {
        let Some(Credentials { user, password }) = &self.credentials else { return Vec::new() };
        let texts = [user.clone(), password.clone(), format!("{user}:{password}")];
        texts.into_iter().filter(|text| !text.is_empty()).collect()
    }
}

/// Without user name and password.
impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}:{}", self.host, self.port)
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Proxy {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let text = text.trim();
        // `proxy:3128`, as curl accepts it.
        let full = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let url = Url::parse(&full).map_err(|_| ParseError("is not an address"))?;
        match url.scheme() {
            "http" => {}
            "socks" | "socks4" | "socks4a" | "socks5" | "socks5h" => {
                return Err(ParseError("is a SOCKS proxy, which pitwire does not support"));
            }
            _ => return Err(ParseError("is not an http address")),
        }
        if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
            return Err(ParseError("has a path, a query or a fragment"));
        }
        let credentials = match (url.username(), url.password()) {
            ("", None) => None,
            (user, password) => {
                let invalid = ParseError("has an invalid user name or password");
                let user = decode(user).ok_or(invalid)?;
                let password = decode(password.unwrap_or_default()).ok_or(invalid)?;
                Some(Credentials { user, password })
            }
        };
        let port = url.port_or_known_default().unwrap_or(80);
        let host = url.host_str().ok_or(ParseError("has no host"))?.to_owned();
        Ok(Self { host, port, credentials })
    }
}

/// Decodes the user name or the password of a URL.
fn decode(text: &str) -> Option<String> {
    let text = percent_decode_str(text).decode_utf8().ok()?;
    Some(text.into_owned()).filter(|text| !text.contains(char::is_control))
}

impl Textual for ProxyChoice {
    fn read(&mut self, text: &str) -> Result<(), ParseError> {
        *self = match text.trim() {
            "" => Self::Environment,
            "none" => Self::Direct,
            text => Self::Fixed(text.parse()?),
        };
        Ok(())
    }

    fn show(&self) -> String {
        match self {
            Self::Environment => String::new(),
            Self::Direct => "none".into(),
            Self::Fixed(_) => HIDDEN.into(),
        }
    }

    fn allowed(&self) -> String {
        r#"an address such as "http://user:password@proxy:3128", "none" for no proxy, or "" for the proxy of the environment (HTTP_PROXY, HTTPS_PROXY, NO_PROXY)"#.into()
    }

    fn is_secret(&self) -> bool {
        true
    }

    fn secrets(&self) -> Vec<String> {
        match self {
            Self::Environment | Self::Direct => Vec::new(),
            Self::Fixed(proxy) => proxy.secrets(),
        }
    }
}

/// An environment variable with an invalid proxy. Does not quote the value, which may contain a
/// password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the environment variable {name} {wrong}; set it to an address such as http://proxy:3128, or set server.proxy"
)]
pub struct InvalidProxyVariable {
    name: &'static str,
    wrong: ParseError,
}

impl ProxyChoice {
    /// The proxy for a server. `environment` returns the value of a variable.
    pub(crate) fn for_server(
        &self,
        url: &Url,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Proxy>, InvalidProxyVariable> {
        match self {
            Self::Direct => return Ok(None),
            Self::Fixed(proxy) => return Ok(Some(proxy.clone())),
            Self::Environment => {}
        }
        let names = if matches!(url.scheme(), "https" | "wss") {
            ["https_proxy", "HTTPS_PROXY"]
        } else {
            ["http_proxy", "HTTP_PROXY"]
        };
        let Some((name, proxy)) = first_set(&environment, names) else { return Ok(None) };
        let excluded = first_set(&environment, ["no_proxy", "NO_PROXY"]);
        let excluded = excluded.map(|(_, list)| list).unwrap_or_default();
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
        let port = url.port_or_known_default().unwrap_or_default();
        if is_this_pc(host) || is_excluded(&excluded, host, port) {
            return Ok(None);
        }
        proxy.parse().map(Some).map_err(|wrong| InvalidProxyVariable { name, wrong })
    }
}

/// The first of two variables that is set and not blank, and its value.
fn first_set(
    environment: impl Fn(&str) -> Option<String>,
    names: [&'static str; 2],
) -> Option<(&'static str, String)> {
    names
        .into_iter()
        .filter_map(|name| Some((name, environment(name)?)))
        .find(|(_, value)| !value.trim().is_empty())
}

/// A proxy of the environment is for other machines: programs on this PC are reached directly.
fn is_this_pc(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse().is_ok_and(is_loopback)
}

/// Whether a list as in `NO_PROXY` contains the host: `*`, domain suffixes with or without a
/// leading dot, IP addresses, networks such as `10.0.0.0/8`, each but the last with an optional
/// port.
fn is_excluded(list: &str, host: &str, port: u16) -> bool {
    let ip: Option<IpAddr> = host.parse().ok();
    list.split([',', ' ']).map(str::trim).filter(|item| !item.is_empty()).any(|item| {
        if item == "*" {
            return true;
        }
        if let (Some((network, bits)), Some(ip)) = (item.split_once('/'), ip) {
            return is_in_network(network, bits, ip);
        }
        let is_ipv6 = item.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6());
        let item = match item.rsplit_once(':') {
            Some((name, own)) if !is_ipv6 => {
                if own.parse() != Ok(port) {
                    return false;
                }
                name
            }
            _ => item,
        };
        let item = item.trim_matches(['[', ']']);
        if let Ok(item) = item.parse::<IpAddr>() {
            return ip == Some(item);
        }
        let (domain, host) = (item.trim_start_matches('.').to_lowercase(), host.to_lowercase());
        host == domain || host.strip_suffix(&domain).is_some_and(|rest| rest.ends_with('.'))
    })
}

fn is_in_network(network: &str, bits: &str, ip: IpAddr) -> bool {
    let Ok(bits) = bits.parse::<u32>() else { return false };
    match (network.parse(), ip) {
        (Ok(IpAddr::V4(network)), IpAddr::V4(ip)) if bits <= 32 => {
            let differing = network.to_bits() ^ ip.to_bits();
            bits == 0 || differing >> (32 - bits) == 0
        }
        (Ok(IpAddr::V6(network)), IpAddr::V6(ip)) if bits <= 128 => {
            let differing = network.to_bits() ^ ip.to_bits();
            bits == 0 || differing >> (128 - bits) == 0
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn a_proxy_address_is_parsed_and_printed_without_its_password() {
        for (text, shown, authorization) in [
            ("http://proxy:3128", "http://proxy:3128", None),
            ("proxy:3128/", "http://proxy:3128", None),
            ("http://proxy", "http://proxy:80", None),
            ("http://proxy:80", "http://proxy:80", None),
            ("http://[::1]:3128", "http://[::1]:3128", None),
            ("http://me:p%40ss@proxy:1", "http://proxy:1", Some("Basic bWU6cEBzcw==")),
        ] {
            let proxy: Proxy = text.parse().unwrap();
            assert_eq!(proxy.to_string(), shown);
            assert_eq!(format!("{proxy:?}"), shown);
            assert_eq!(proxy.authorization().as_deref(), authorization);
        }
    }

    #[test]
    fn an_address_that_is_no_http_proxy_is_rejected() {
        for text in [
            "socks5://proxy:1080",
            "https://proxy",
            "http://proxy/path",
            "http://",
            "http://u:%ff@p",
        ] {
            assert!(text.parse::<Proxy>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_environment_selects_a_proxy_as_for_other_programs() {
        let both = [("HTTP_PROXY", "http://plain:1"), ("https_proxy", "http://secure:2")];
        // The lower-case name has precedence.
        let two = [("HTTP_PROXY", "http://upper:1"), ("http_proxy", "http://lower:1")];
        for (variables, url, expected) in [
            (&both[..], "http://pit:5000", Some("http://plain:1")),
            (&both, "https://pit", Some("http://secure:2")),
            (&[], "https://pit", None),
            (&[("HTTP_PROXY", " ")], "http://pit", None),
            (&two, "http://pit", Some("http://lower:1")),
            (&both, "http://localhost:5000", None),
            (&both, "http://127.0.0.1:5000", None),
            (&both, "http://[::1]:5000", None),
        ] {
            let variables: HashMap<&str, &str> = variables.iter().copied().collect();
            let proxy = ProxyChoice::Environment
                .for_server(&Url::parse(url).unwrap(), |name| {
                    variables.get(name).map(|value| (*value).to_owned())
                })
                .unwrap();
            assert_eq!(proxy.map(|proxy| proxy.to_string()).as_deref(), expected, "{url}");
        }
    }

    #[test]
    fn no_proxy_excludes_hosts() {
        for (list, host, expected) in [
            ("*", "pit", true),
            ("example.org", "pit.example.org", true),
            (".example.org", "pit.example.org", true),
            ("EXAMPLE.org", "example.ORG", true),
            ("example.org", "badexample.org", false),
            ("a, pit ,b", "pit", true),
            ("pit:5000", "pit", true),
            ("pit:5001", "pit", false),
            ("10.0.0.0/8", "10.1.2.3", true),
            ("10.0.0.0/8", "11.1.2.3", false),
            ("fd00::/8", "fd12::1", true),
            ("::1", "::1", true),
            ("192.168.1.5", "192.168.1.5", true),
            ("192.168.1.5", "pit", false),
            ("10.0.0.0/x", "10.1.2.3", false),
            ("", "pit", false),
        ] {
            assert_eq!(is_excluded(list, host, 5000), expected, "{list} {host}");
        }
    }

    #[test]
    fn an_invalid_variable_is_named_without_its_value() {
        let url = Url::parse("http://pit").unwrap();
        let error = ProxyChoice::Environment
            .for_server(&url, |name| {
                (name == "HTTP_PROXY").then(|| "socks5://me:hunter2@p".to_owned())
            })
            .unwrap_err()
            .to_string();
        assert!(error.contains("HTTP_PROXY is a SOCKS proxy"), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
}
