//! A TCP proxy between the agent and the server that can cut or stall its connections.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// The state of the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LinkState {
    In,
    /// Connections are cut, and new ones are closed.
    Out,
    /// Connections stay open, but no data passes.
    Stalled,
}

/// The proxy, listening on a separate port.
#[derive(Debug)]
pub(super) struct FaultProxy {
    address: SocketAddr,
    link: watch::Sender<LinkState>,
    _relay: JoinSet<()>,
}

impl FaultProxy {
    /// Starts a proxy to `server`, with the link up.
    pub(super) async fn start(server: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let (link, state) = watch::channel(LinkState::In);
        let mut relay = JoinSet::new();
        relay.spawn(accept(listener, server, state));
        Ok(Self { address, link, _relay: relay })
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(super) fn set(&self, link: LinkState) {
        self.link.send_if_modified(|state| std::mem::replace(state, link) != link);
    }
}

async fn accept(listener: TcpListener, server: SocketAddr, state: watch::Receiver<LinkState>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        while connections.try_join_next().is_some() {}
        if *state.borrow() != LinkState::Out {
            connections.spawn(relay(client, server, state.clone()));
        }
    }
}

async fn relay(mut client: TcpStream, server: SocketAddr, mut state: watch::Receiver<LinkState>) {
    let copy = async {
        let mut server = TcpStream::connect(server).await?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        copy_bidirectional(&mut client, &mut server).await
    };
    tokio::pin!(copy);
    loop {
        let link = *state.borrow_and_update();
        tokio::select! {
            biased;
            changed = state.changed() => if changed.is_err() { return },
            _ = std::future::ready(()), if link == LinkState::Out => return,
            _ = &mut copy, if link == LinkState::In => return,
        }
    }
}
