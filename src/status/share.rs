//! The link to a dashboard page for other devices, such as the phone that scans the QR code.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;
use url::{Host, Url};

use crate::config::is_loopback;
use crate::net::lan;

/// How long a connection to an address of this PC may take: it does not leave the PC.
const REACH_TIMEOUT: Duration = Duration::from_millis(500);

/// What to do if a page opens only on this PC.
pub(super) const ONLY_HERE: &str = "This link opens only on this PC. For a phone, start the server \
                                    with pitwire serve --lan, or set server.url to an address that \
                                    other devices can open.";

/// The link to a page that other devices can open; `None` if only this PC can.
///
/// A page at `localhost` is shared by an address of this PC if a server accepts connections there.
pub(super) async fn shareable(page: &str) -> Option<String> {
    let Ok(mut url) = Url::parse(page) else { return Some(page.to_owned()) };
    if !is_of_this_pc(&url) {
        return Some(page.to_owned());
    }
    // The certificate of an https server is not for the address.
    let port = url.port_or_known_default().filter(|_| url.scheme() == "http")?;
    for address in lan::addresses() {
        if accepts(address, port).await {
            url.set_ip_host(IpAddr::V4(address)).ok()?;
            return Some(url.into());
        }
    }
    None
}

/// Whether the host of a link means another PC on each PC that opens it.
fn is_of_this_pc(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => address.is_unspecified() || address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_unspecified() || is_loopback(address.into()),
        None => false,
    }
}

async fn accepts(address: Ipv4Addr, port: u16) -> bool {
    let connection = TcpStream::connect(SocketAddr::from((address, port)));
    matches!(timeout(REACH_TIMEOUT, connection).await, Ok(Ok(_)))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_link_to_another_machine_is_shared_as_it_is() {
        for page in ["http://pit:5000/dashboard/a", "https://pit.example/x?y#z", "not a link"] {
            assert_eq!(shareable(page).await.as_deref(), Some(page));
        }
    }

    #[tokio::test]
    async fn a_link_to_this_pc_is_never_shared_as_it_is() {
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let only_here = closed.local_addr().unwrap().port();
        let open = TcpListener::bind("0.0.0.0:0").await.unwrap();
        let for_all = open.local_addr().unwrap().port();
        for host in ["localhost", "LOCALHOST", "127.0.0.1", "127.8.9.1", "[::1]", "0.0.0.0"] {
            assert_eq!(shareable(&format!("http://{host}:{only_here}/a")).await, None, "{host}");
            assert_eq!(shareable(&format!("https://{host}:{for_all}/a")).await, None, "{host}");
            let expected =
                lan::addresses().first().map(|address| format!("http://{address}:{for_all}/a?b"));
            assert_eq!(shareable(&format!("http://{host}:{for_all}/a?b")).await, expected);
        }
    }
}
