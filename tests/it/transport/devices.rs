//! Network devices between the agent and a server.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

/// The reaction of a middlebox to a WebSocket handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    Pass,
    /// Answers 400, as a reverse proxy without the upgrade headers does.
    Refuse,
    /// Closes the connection.
    Cut,
    /// Never answers.
    Swallow,
    /// Answers 101 and passes nothing on.
    Mute,
}

/// A device in front of one server that lets plain HTTP pass.
pub struct Middlebox {
    address: SocketAddr,
    rule: Arc<Mutex<Rule>>,
    log: Log,
    clients: Arc<Mutex<Vec<AbortHandle>>>,
    _tasks: JoinSet<()>,
}

/// The request heads that a device has seen.
type Log = Arc<Mutex<Vec<String>>>;

impl Middlebox {
    pub async fn start(server_port: u16, rule: Rule) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (rule, log) = (Arc::new(Mutex::new(rule)), Log::default());
        let clients = Arc::<Mutex<Vec<AbortHandle>>>::default();
        let (rules, heads, handles) = (rule.clone(), log.clone(), clients.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut running = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let (rules, heads) = (rules.clone(), heads.clone());
                let handle = running.spawn(async move {
                    let rule = move || *rules.lock().unwrap();
                    pass(client, server_port, rule, heads).await;
                });
                handles.lock().unwrap().push(handle);
            }
        });
        Self { address, rule, log, clients, _tasks: tasks }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn set(&self, rule: Rule) {
        *self.rule.lock().unwrap() = rule;
    }

    /// Cuts all connections.
    pub fn cut(&self) {
        self.clients.lock().unwrap().drain(..).for_each(|client| client.abort());
    }

    /// The head of the first request of each connection.
    pub fn heads(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }
}

async fn pass(mut client: TcpStream, port: u16, rule: impl Fn() -> Rule, heads: Log) {
    let Some((head, rest)) = read_head(&mut client).await else { return };
    heads.lock().unwrap().push(head.clone());
    if head.to_lowercase().contains("upgrade: websocket") {
        match rule() {
            Rule::Pass => {}
            Rule::Refuse => {
                let answer = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n";
                let _ = client.write_all(answer).await;
                return;
            }
            Rule::Cut => return,
            Rule::Swallow => std::future::pending().await,
            Rule::Mute => {
                let accept = |line: &str| {
                    let key = line.split_once(": ")?;
                    let is_key = key.0.eq_ignore_ascii_case("sec-websocket-key");
                    is_key.then(|| accept_key(key.1))
                };
                let key = head.lines().find_map(accept).unwrap();
                let answer = format!(
                    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
                     Upgrade: websocket\r\nSec-WebSocket-Accept: {key}\r\n\r\n"
                );
                let _ = client.write_all(answer.as_bytes()).await;
                std::future::pending().await
            }
        }
    }
    let Ok(mut server) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await else { return };
    let _ = server.write_all(head.as_bytes()).await;
    let _ = server.write_all(&rest).await;
    let _ = copy_bidirectional(&mut client, &mut server).await;
}

fn accept_key(key: &str) -> String {
    tokio_tungstenite::tungstenite::handshake::derive_accept_key(key.as_bytes())
}

/// Reads up to the end of a request's head; returns it and what follows.
async fn read_head(client: &mut TcpStream) -> Option<(String, Vec<u8>)> {
    let mut read = Vec::new();
    loop {
        if let Some(end) = read.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            let rest = read.split_off(end + 4);
            return Some((String::from_utf8(read).ok()?, rest));
        }
        if client.read_buf(&mut read).await.ok()? == 0 {
            return None;
        }
    }
}

/// A forward proxy that reaches one server, whatever name it is asked for.
pub struct ForwardProxy {
    address: SocketAddr,
    log: Log,
    _tasks: JoinSet<()>,
}

impl ForwardProxy {
    /// Requires `credentials` (`user:password`, percent-encoded), if any.
    pub async fn start(server_port: u16, credentials: Option<&str>, allows_connect: bool) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let expected = credentials.map(|text| match text {
            "me:secret" => "Basic bWU6c2VjcmV0",
            "me:s%C3%A9cret" => "Basic bWU6c8OpY3JldA==",
            other => panic!("no base64 of {other}"),
        });
        let log = Log::default();
        let heads = log.clone();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut clients = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let heads = heads.clone();
                clients.spawn(serve(client, server_port, expected, allows_connect, heads));
            }
        });
        Self { address, log, _tasks: tasks }
    }

    /// The address of the proxy, with `credentials` such as `user:password@`.
    pub fn url(&self, credentials: &str) -> String {
        format!("http://{credentials}{}", self.address)
    }

    /// The heads of all requests.
    pub fn heads(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }
}

async fn serve(
    mut client: TcpStream,
    port: u16,
    expected: Option<&str>,
    allows_connect: bool,
    heads: Log,
) -> Option<()> {
    let (head, mut body) = read_head(&mut client).await?;
    heads.lock().unwrap().push(head.clone());
    let header = |name: &str| {
        let parse = |line: &str| {
            let (known, value) = line.split_once(": ")?;
            known.eq_ignore_ascii_case(name).then(|| value.to_owned())
        };
        head.lines().find_map(parse)
    };
    let is_connect = head.starts_with("CONNECT ");
    let refusal = if expected.is_some() && header("proxy-authorization").as_deref() != expected {
        Some("407 Proxy Authentication Required")
    } else if is_connect && !allows_connect {
        Some("403 Forbidden")
    } else {
        None
    };
    if let Some(status) = refusal {
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
        return client.write_all(answer.as_bytes()).await.ok();
    }
    let mut server = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.ok()?;
    if is_connect {
        client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.ok()?;
        copy_bidirectional(&mut client, &mut server).await.ok()?;
        return Some(());
    }
    // Forwards one request per connection.
    let length = header("content-length").map_or(0, |length| length.parse().unwrap());
    while body.len() < length {
        client.read_buf(&mut body).await.ok()?;
    }
    let (line, rest) = head.split_once("\r\n")?;
    let (method, rest_of_line) = line.split_once(" http://")?;
    let path = &rest_of_line[rest_of_line.find('/')?..];
    let request = format!("{method} {path}\r\nConnection: close\r\n{rest}");
    server.write_all(request.as_bytes()).await.ok()?;
    server.write_all(&body).await.ok()?;
    copy_bidirectional(&mut client, &mut server).await.ok()?;
    Some(())
}

/// An address, `::1` if this machine has it, on whose `port` no connection is ever established: its
/// backlog is full.
pub fn dead_address(port: u16) -> (std::net::IpAddr, Vec<Socket>) {
    let addresses: [SocketAddr; 2] =
        [(Ipv6Addr::LOCALHOST, port).into(), (Ipv4Addr::new(127, 0, 0, 2), port).into()];
    let (address, listener) = addresses
        .into_iter()
        .find_map(|address| {
            let listener = Socket::new(Domain::for_address(address), Type::STREAM, None).ok()?;
            listener.set_reuse_address(true).ok()?;
            listener.bind(&address.into()).ok()?;
            listener.listen(0).ok()?;
            Some((address, listener))
        })
        .expect("an address that can be made dead");
    let mut sockets = vec![listener];
    for _ in 0..4 {
        let client = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
        client.set_nonblocking(true).unwrap();
        let _ = client.connect(&address.into());
        sockets.push(client);
    }
    (address.ip(), sockets)
}
