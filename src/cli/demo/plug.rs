//! A network cable between the agent and the server that can be pulled.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// A relay on a port of its own. Pulled, it cuts what is connected and takes nothing new.
#[derive(Debug)]
pub(super) struct Plug {
    address: SocketAddr,
    is_in: watch::Sender<bool>,
    _relay: JoinSet<()>,
}

impl Plug {
    /// Starts a relay to `server`, plugged in.
    pub(super) async fn start(server: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let (is_in, state) = watch::channel(true);
        let mut relay = JoinSet::new();
        relay.spawn(accept(listener, server, state));
        Ok(Self { address, is_in, _relay: relay })
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(super) fn pull(&self) {
        self.set(false);
    }

    pub(super) fn push(&self) {
        self.set(true);
    }

    fn set(&self, is_in: bool) {
        self.is_in.send_if_modified(|state| std::mem::replace(state, is_in) != is_in);
    }
}

async fn accept(listener: TcpListener, server: SocketAddr, state: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        while connections.try_join_next().is_some() {}
        if *state.borrow() {
            connections.spawn(relay(client, server, state.clone()));
        }
    }
}

async fn relay(mut client: TcpStream, server: SocketAddr, mut state: watch::Receiver<bool>) {
    let copy = async {
        let mut server = TcpStream::connect(server).await?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        copy_bidirectional(&mut client, &mut server).await
    };
    tokio::select! {
        biased;
        _ = state.wait_for(|is_in| !is_in) => {}
        _ = copy => {}
    }
}
