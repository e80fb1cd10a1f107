//! A fault proxy between the agent and a server: it can cut, stall and slow down the network.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};

/// The state of the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// Forwards everything with this latency in each direction.
    Up { latency: Duration },
    /// Forwards everything with a random latency up to `most`.
    Jittery { most: Duration },
    /// Limits the bandwidth in each direction.
    Slow { bytes_per_second: u32 },
    /// Forwards everything in pieces of a few bytes.
    Sliced,
    /// Cuts connections, and closes new ones at once.
    Down,
    /// Keeps connections open and forwards nothing.
    Stalled,
    /// Forwards to the server but not back, like a half-open link.
    Mute,
}

/// The maximum size of a piece of a sliced stream, in bytes.
const SLICE: usize = 7;
/// The pause between two pieces.
const SLICE_PAUSE: Duration = Duration::from_micros(100);

#[derive(Clone, Copy, PartialEq)]
enum Direction {
    ToServer,
    ToClient,
}

impl Network {
    pub const UP: Self = Self::Up { latency: Duration::ZERO };

    fn passes(self, direction: Direction) -> bool {
        match self {
            Self::Down | Self::Stalled => false,
            Self::Mute => direction == Direction::ToServer,
            _ => true,
        }
    }

    /// The maximum number of bytes to read at once.
    fn piece(self, chance: &mut SmallRng) -> usize {
        match self {
            Self::Sliced => chance.random_range(1..=SLICE),
            Self::Slow { .. } => 1 << 10,
            _ => 64 << 10,
        }
    }

    /// The latency of a piece.
    fn latency(self, chance: &mut SmallRng) -> Duration {
        match self {
            Self::Up { latency } => latency,
            Self::Jittery { most } => most.mul_f64(chance.random()),
            _ => Duration::ZERO,
        }
    }

    /// The pause after reading this number of bytes.
    fn pause(self, bytes: usize) -> Duration {
        match self {
            Self::Slow { bytes_per_second } => {
                Duration::from_secs_f64(bytes as f64 / f64::from(bytes_per_second))
            }
            Self::Sliced => SLICE_PAUSE,
            _ => Duration::ZERO,
        }
    }
}

/// A TCP relay with its own port and thread.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    network: watch::Sender<Network>,
    resets: watch::Sender<()>,
    releases: watch::Sender<()>,
    hampered: Arc<AtomicU64>,
    delayed: Arc<AtomicU64>,
}

/// The network state that a connection shares with the proxy.
#[derive(Clone)]
struct Wire {
    network: watch::Receiver<Network>,
    resets: watch::Receiver<()>,
    releases: watch::Receiver<()>,
    hampered: Arc<AtomicU64>,
    delayed: Arc<AtomicU64>,
}

impl Proxy {
    /// Starts a relay to the server on this loopback port.
    pub fn start(server_port: u16) -> Self {
        let (network, state) = watch::channel(Network::UP);
        let (resets, reset) = watch::channel(());
        let (releases, release) = watch::channel(());
        let (hampered, delayed) = <(Arc<AtomicU64>, Arc<AtomicU64>)>::default();
        let wire = Wire {
            network: state,
            resets: reset,
            releases: release,
            hampered: Arc::clone(&hampered),
            delayed: Arc::clone(&delayed),
        };
        let (send, address) = std::sync::mpsc::channel();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
                send.send(listener.local_addr().unwrap()).unwrap();
                accept(listener, server_port, wire).await;
            });
        });
        let address = address.recv().unwrap();
        Self { address, network, resets, releases, hampered, delayed }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn set(&self, network: Network) {
        self.network.send_replace(network);
    }

    /// Resets every connection; new ones are accepted.
    pub fn reset(&self) {
        self.resets.send_replace(());
    }

    /// Delivers all currently delayed bytes, including those of clients that have closed their end.
    pub fn release(&self) {
        self.releases.send_replace(());
    }

    /// The number of bytes to the server that are currently delayed.
    pub fn delayed(&self) -> u64 {
        self.delayed.load(Ordering::Relaxed)
    }

    /// The number of pieces that were delayed, sliced or slowed so far.
    pub fn hampered(&self) -> u64 {
        self.hampered.load(Ordering::Relaxed)
    }
}

async fn accept(listener: TcpListener, server_port: u16, mut wire: Wire) {
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((client, _)) = accepted else { continue };
                if *wire.network.borrow() != Network::Down {
                    let mut wire = wire.clone();
                    wire.resets.mark_unchanged();
                    tokio::spawn(connection(client, server_port, wire));
                }
            }
            // The test is over.
            changed = wire.network.changed() => if changed.is_err() { return },
        }
    }
}

async fn connection(mut client: TcpStream, server_port: u16, mut wire: Wire) {
    let Ok(mut server) = TcpStream::connect((Ipv4Addr::LOCALHOST, server_port)).await else {
        return;
    };
    client.set_nodelay(true).unwrap();
    server.set_nodelay(true).unwrap();
    let (mut network, pipes) = (wire.network.clone(), wire.clone());
    let is_reset = tokio::select! {
        _ = network.wait_for(|network| *network == Network::Down) => false,
        _ = wire.resets.changed() => true,
        () = relay(&mut client, &mut server, pipes) => false,
    };
    if is_reset {
        // Closing with a linger time of zero resets the connection.
        client.set_zero_linger().unwrap();
        server.set_zero_linger().unwrap();
    }
}

async fn relay(client: &mut TcpStream, server: &mut TcpStream, wire: Wire) {
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    tokio::join!(
        pipe(from_client, to_server, Direction::ToServer, wire.clone()),
        pipe(from_server, to_client, Direction::ToClient, wire),
    );
}

/// Forwards one direction. The latency of each piece is that at the time of reading.
async fn pipe(mut from: ReadHalf<'_>, to: WriteHalf<'_>, direction: Direction, wire: Wire) {
    let Wire { network: mut state, hampered, releases, delayed, .. } = wire;
    let delayed = (direction == Direction::ToServer).then_some(delayed);
    let (chunks, late) = mpsc::channel::<Chunk>(4096);
    let write = write_late(to, late, releases, delayed.clone());
    let read = async move {
        let mut buffer = vec![0; 64 << 10];
        let (mut due, mut chance) = (Instant::now(), SmallRng::seed_from_u64(1));
        loop {
            let network = state.wait_for(|network| network.passes(direction)).await;
            let Ok(network) = network.map(|network| *network) else { return };
            tokio::select! {
                // Nothing that is sent after a call of `set` passes as if before it.
                biased;
                _ = state.changed() => {}
                read = from.read(&mut buffer[..network.piece(&mut chance)]) => match read {
                    Ok(0) | Err(_) => return,
                    Ok(count) => {
                        // Preserve the order: never deliver before an earlier piece.
                        let read_at = Instant::now();
                        due = due.max(read_at + network.latency(&mut chance));
                        if let Some(delayed) = &delayed {
                            delayed.fetch_add(count as u64, Ordering::Relaxed);
                        }
                        let bytes = buffer[..count].to_vec();
                        let _ = chunks.send(Chunk { read_at, due, bytes }).await;
                        if network != Network::UP {
                            hampered.fetch_add(1, Ordering::Relaxed);
                        }
                        tokio::select! {
                            () = sleep(network.pause(count)) => {}
                            _ = state.changed() => {}
                        }
                    }
                },
            }
        }
    };
    tokio::join!(read, write);
}

/// A piece of a stream that is relayed as a unit.
struct Chunk {
    read_at: Instant,
    due: Instant,
    bytes: Vec<u8>,
}

async fn write_late(
    mut to: WriteHalf<'_>,
    mut late: mpsc::Receiver<Chunk>,
    mut releases: watch::Receiver<()>,
    delayed: Option<Arc<AtomicU64>>,
) {
    let mut released_at = None;
    while let Some(Chunk { read_at, due, bytes }) = late.recv().await {
        while due > Instant::now() && released_at < Some(read_at) {
            tokio::select! {
                () = sleep_until(due) => {}
                released = releases.changed() => match released {
                    Ok(()) => released_at = Some(Instant::now()),
                    // The test is over.
                    Err(_) => return,
                },
            }
        }
        let written = to.write_all(&bytes).await;
        if let Some(delayed) = &delayed {
            delayed.fetch_sub(bytes.len() as u64, Ordering::Relaxed);
        }
        if written.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    const SHORT: Duration = Duration::from_millis(300);

    /// Sends a byte through the proxy to an echo server, and returns the round-trip time.
    async fn round_trip(client: &mut TcpStream) -> Option<Duration> {
        let start = Instant::now();
        client.write_all(b"x").await.ok()?;
        client.read_u8().await.ok()?;
        Some(start.elapsed())
    }

    #[tokio::test]
    async fn the_proxy_applies_latency_stalls_and_outages() {
        let (proxy, mut client) = echoed().await;
        assert!(round_trip(&mut client).await.unwrap() < SHORT);
        proxy.set(Network::Up { latency: SHORT });
        // The relay applies the change a moment later.
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

    #[tokio::test]
    async fn the_proxy_slows_slices_mutes_and_resets_connections() {
        let (proxy, mut client) = echoed().await;
        assert_eq!(proxy.hampered(), 0);
        proxy.set(Network::Slow { bytes_per_second: 20_000 });
        sleep(SHORT).await;
        let start = Instant::now();
        assert_eq!(echo(&mut client, 10_000).await, Some(10_000));
        assert!(start.elapsed() >= SHORT, "{:?}", start.elapsed());
        proxy.set(Network::Sliced);
        sleep(SHORT).await;
        let before = proxy.hampered();
        assert_eq!(echo(&mut client, 1000).await, Some(1000));
        let pieces = proxy.hampered() - before;
        assert!(pieces > 2 * 1000 / SLICE as u64, "{pieces} pieces");
        proxy.set(Network::Jittery { most: SHORT });
        sleep(SHORT).await;
        assert_eq!(echo(&mut client, 100_000).await, Some(100_000));
        proxy.set(Network::Mute);
        sleep(SHORT).await;
        assert!(timeout(SHORT, round_trip(&mut client)).await.is_err(), "nothing comes back");
        proxy.set(Network::UP);
        assert_eq!(client.read_u8().await.unwrap(), b'x', "it had arrived");
        proxy.reset();
        let broken = client.read_u8().await.unwrap_err();
        assert_eq!(broken.kind(), std::io::ErrorKind::ConnectionReset);
    }

    /// A proxy to an echo server, and a client.
    async fn echoed() -> (Proxy, TcpStream) {
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
        let client = TcpStream::connect(address).await.unwrap();
        (proxy, client)
    }

    /// Sends bytes and returns how many were echoed unmodified.
    async fn echo(client: &mut TcpStream, count: usize) -> Option<usize> {
        let sent: Vec<u8> = (0..count).map(|n| n as u8).collect();
        let (mut from, mut to) = client.split();
        let mut back = vec![0; count];
        let (written, read) = tokio::join!(to.write_all(&sent), from.read_exact(&mut back));
        (written.is_ok() && read.is_ok() && back == sent).then_some(count)
    }
}
