//! A network between the agent and a server that can be cut, stalled and slowed.

use std::net::{Ipv4Addr, SocketAddr};
use std::thread;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

/// How the network is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// Everything passes, this much later each way.
    Up { latency: Duration },
    /// Connections are cut, and new ones refused as soon as they are made.
    Down,
    /// Connections stay open, and nothing passes any more: a half-open link.
    Stalled,
}

impl Network {
    pub const UP: Self = Self::Up { latency: Duration::ZERO };
}

/// A relay on a port and a thread of its own.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    network: watch::Sender<Network>,
}

impl Proxy {
    /// A relay to the server on this port of loopback.
    pub fn start(server_port: u16) -> Self {
        let (network, state) = watch::channel(Network::UP);
        let (send, address) = std::sync::mpsc::channel();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
                send.send(listener.local_addr().unwrap()).unwrap();
                accept(listener, server_port, state).await;
            });
        });
        Self { address: address.recv().unwrap(), network }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn set(&self, network: Network) {
        self.network.send_replace(network);
    }
}

async fn accept(listener: TcpListener, server_port: u16, mut state: watch::Receiver<Network>) {
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((client, _)) = accepted else { continue };
                if *state.borrow() != Network::Down {
                    tokio::spawn(connection(client, server_port, state.clone()));
                }
            }
            // The test is over.
            changed = state.changed() => if changed.is_err() { return },
        }
    }
}

async fn connection(client: TcpStream, server_port: u16, mut state: watch::Receiver<Network>) {
    let relay = relay(client, server_port, state.clone());
    tokio::select! {
        _ = state.wait_for(|network| *network == Network::Down) => {}
        () = relay => {}
    }
}

async fn relay(mut client: TcpStream, server_port: u16, state: watch::Receiver<Network>) {
    let Ok(mut server) = TcpStream::connect((Ipv4Addr::LOCALHOST, server_port)).await else {
        return;
    };
    client.set_nodelay(true).unwrap();
    server.set_nodelay(true).unwrap();
    if *state.borrow() == Network::UP {
        let mut changed = state.clone();
        changed.mark_unchanged();
        tokio::select! {
            _ = copy_bidirectional(&mut client, &mut server) => return,
            _ = changed.changed() => {}
        }
    }
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::join!(pipe(from_client, to_server, state.clone()), pipe(from_server, to_client, state),);
}

/// One direction, late by the latency at the time of reading.
async fn pipe(mut from: OwnedReadHalf, to: OwnedWriteHalf, mut state: watch::Receiver<Network>) {
    let (chunks, late) = mpsc::channel::<(Instant, Vec<u8>)>(4096);
    let write = write_late(to, late);
    let read = async move {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let up = state.wait_for(|network| matches!(network, Network::Up { .. })).await;
            let Ok(Network::Up { latency }) = up.map(|network| *network) else { return };
            tokio::select! {
                read = from.read(&mut buffer) => match read {
                    Ok(0) | Err(_) => return,
                    Ok(count) => {
                        let due = Instant::now() + latency;
                        let _ = chunks.send((due, buffer[..count].to_vec())).await;
                    }
                },
                _ = state.changed() => {}
            }
        }
    };
    tokio::join!(read, write);
}

async fn write_late(mut to: OwnedWriteHalf, mut late: mpsc::Receiver<(Instant, Vec<u8>)>) {
    while let Some((due, chunk)) = late.recv().await {
        sleep_until(due).await;
        if to.write_all(&chunk).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    const SHORT: Duration = Duration::from_millis(300);

    /// Sends a byte through the proxy to a server that sends it back.
    async fn round_trip(client: &mut TcpStream) -> Option<Duration> {
        let start = Instant::now();
        client.write_all(b"x").await.ok()?;
        client.read_u8().await.ok()?;
        Some(start.elapsed())
    }

    #[tokio::test]
    async fn the_network_is_as_it_is_told_to_be() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let proxy = Proxy::start(listener.local_addr().unwrap().port());
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = client.split();
                    tokio::io::copy(&mut from, &mut to).await
                });
            }
        });
        let address = proxy.url().replace("http://", "");
        let mut client = TcpStream::connect(address).await.unwrap();
        assert!(round_trip(&mut client).await.unwrap() < SHORT);
        proxy.set(Network::Up { latency: SHORT });
        // The relay hears of it a moment later.
        tokio::time::sleep(SHORT).await;
        assert!(round_trip(&mut client).await.unwrap() >= SHORT * 2);
        proxy.set(Network::Stalled);
        tokio::time::sleep(SHORT).await;
        assert!(timeout(SHORT, round_trip(&mut client)).await.is_err(), "open, and silent");
        proxy.set(Network::UP);
        assert_eq!(client.read_u8().await.unwrap(), b'x', "late and not lost");
        proxy.set(Network::Down);
        assert_eq!(timeout(SHORT, round_trip(&mut client)).await, Ok(None), "cut");
    }
}
