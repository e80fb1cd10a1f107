//! Checks across keys: values that are valid by themselves but contradict each other.

use std::env;
use std::net::SocketAddr;

use super::destination;
use super::load::Loading;
use super::paths;
use super::raw_value::quoted;
use super::units::show_duration;
use super::values::is_loopback;
use super::{
    Config, ListenerConfig, NoDefaultPath, Origin, ProofChoice, Protocol, ProxyChoice, Secret,
    ServerConfig, ServerUrl, SessionChoice, TransportChoice, Warning, check_token,
};

impl Loading {
    pub(super) fn check(&mut self) {
        self.check_backoff();
        self.check_listen();
        self.check_servers();
        self.check_reads_once();
        self.check_queue();
        self.check_variables();
        self.check_listen_tokens();
        #[cfg(unix)]
        self.check_file_mode();
    }

    fn check_backoff(&mut self) {
        let keys = ["delivery.backoff_min", "delivery.backoff_max"];
        let (min, max) = (self.config.delivery.backoff_min, self.config.delivery.backoff_max);
        if max < min && self.sound(&keys) {
            let [min, max] = [min, max].map(show_duration);
            let message = format!("\"{max}\" is below backoff_min; write at least \"{min}\"");
            let origin = self.origin(&keys);
            self.problem(origin, Some("delivery.backoff_max"), message);
        }
    }

    fn check_listen(&mut self) {
        let Config { source, metrics, .. } = &self.config;
        let on: Vec<_> = [
            ("source.http.listen", &source.http),
            ("source.socketio.listen", &source.socketio),
            ("metrics.listen", metrics),
        ]
        .into_iter()
        .filter(|(_, listener)| listener.enabled)
        .map(|(key, listener)| (key, listener.listen))
        .collect();
        for (index, &(key, listen)) in on.iter().enumerate() {
            let taken = on[..index].iter().find(|(_, other)| overlap(*other, listen));
            if let Some(&(other, _)) = taken
                && self.sound(&[other, key])
            {
                let message = format!(
                    "\"{listen}\" is taken by {other}; write another port, or 0 for a free one"
                );
                self.problem(self.origin(&[other, key]), Some(key), message);
            }
        }
    }

    /// Requires a token for every listener that other machines can reach, and rejects weak tokens.
    fn check_listen_tokens(&mut self) {
        let Config { source, metrics, serve, .. } = self.config.clone();
        for (table, listener) in [
            ("source.http", source.http),
            ("source.socketio", source.socketio),
            ("metrics", metrics),
        ] {
            let ListenerConfig { enabled, listen, token, token_file } = listener;
            let listen_key = format!("{table}.listen");
            let token_key = format!("{table}.token");
            self.check_token(&token_key, &token);
            if enabled
                && token.reveal().is_none()
                && token_file.is_none()
                && !is_loopback(listen.ip())
                && self.sound(&[&listen_key, &token_key])
            {
                let message = format!(
                    "\"{}\" lets other machines in; write {token_key}, 16 characters or more \
                     that they must send, or listen on \"127.0.0.1\"",
                    listen.ip()
                );
                self.problem(self.origin(&[&listen_key]), Some(&listen_key), message);
            }
        }
        // The address of `pitwire serve` is a flag, which that command checks.
        self.check_token("serve.token", &serve.token);
    }

    fn check_token(&mut self, key: &str, token: &Secret) {
        if let Some(token) = token.reveal()
            && let Err(error) = check_token(token)
        {
            let message = format!("\"***\" is a token that {error}");
            self.problem(self.origin(&[key]), Some(key), message);
        }
    }

    /// Warns of a secret that is sent over a network unencrypted.
    fn check_encryption(&mut self) {
        let ServerConfig { url, token, token_file, headers, auth, .. } = self.config.server.clone();
        let has_token = token.reveal().is_some() || token_file.is_some();
        let has_secret = has_token || headers.iter().next().is_some() || auth.reveal().is_some();
        let url_key = self.key("server.url");
        self.warn_if_unencrypted(&url_key, &url, has_secret);
    }

    fn warn_if_unencrypted(&mut self, url_key: &str, url: &ServerUrl, has_secret: bool) {
        if has_secret && self.sound(&[url_key]) && url.is_readable_by_others() {
            let message = format!(
                "\"{url}\" receives its token unencrypted: anyone on the way can read it; use {}",
                match url.protocol() {
                    Protocol::SocketIo => "https",
                    Protocol::Nats => "tls",
                }
            );
            self.warn(url_key, message);
        }
    }

    /// Warns of a configuration file with a secret that every user of this PC can read.
    #[cfg(unix)]
    fn check_file_mode(&mut self) {
        use std::os::unix::fs::PermissionsExt as _;
        const READABLE_BY_ALL: u32 = 0o004;
        let secrets = self.origins.iter().filter(|(key, origin)| {
            matches!(origin, Origin::File { .. }) && destination::holds_secret(&self.config, key)
        });
        let Some((key, Origin::File { path, .. })) = secrets.min_by_key(|(_, origin)| *origin)
        else {
            return;
        };
        let is_open = std::fs::metadata(path)
            .is_ok_and(|metadata| metadata.permissions().mode() & READABLE_BY_ALL != 0);
        if is_open {
            let message = format!(
                "every user of this PC can read it in {}; run chmod 600 on that file",
                path.display()
            );
            let key = key.clone();
            self.warn(&key, message);
        }
    }

    /// Checks `[server]` and then each other destination in the place of `[server]`.
    fn check_servers(&mut self) {
        self.check_server();
        let hub = self.config.source.nats.clone();
        if hub.enabled {
            let has_token = hub.token.reveal().is_some() || hub.token_file.is_some();
            self.warn_if_unencrypted("source.nats.url", &hub.url, has_token);
        }
        let names: Vec<_> = self.config.destinations.keys().cloned().collect();
        for name in names {
            let key = destination::named("server.url", Some(&name));
            if !self.sound(&[&key]) {
                continue;
            }
            if !self.origins.contains_key(&key) {
                let message = "is missing; write the address of that server".into();
                self.problem(self.origin_of(&name), Some(&key), message);
                continue;
            }
            self.check_is_another(&name);
            destination::swap(&mut self.config, &name);
            self.destination = Some(name.clone());
            self.check_server();
            self.destination = None;
            destination::swap(&mut self.config, &name);
        }
    }

    fn check_server(&mut self) {
        self.check_circle();
        self.check_encryption();
        self.check_nats();
    }

    /// Requires distinct server addresses: the state of a server is stored under its address.
    fn check_is_another(&mut self, name: &str) {
        let Config { server, destinations, .. } = &self.config;
        let Some(own) = destinations.get(name) else { return };
        let others = destinations.iter().filter(|(other, _)| &***other < name);
        let others = others.map(|(other, config)| (Some(&**other), config));
        let same =
            [(None, server)].into_iter().chain(others).find(|(_, other)| other.url == own.url);
        if let Some((other, _)) = same {
            let keys = [Some(name), other].map(|name| destination::named("server.url", name));
            let message =
                format!("\"{}\" is also {}; write the address of another server", own.url, keys[1]);
            self.problem(self.origin(&[&keys[0]]), Some(&keys[0]), message);
        }
    }

    /// The origin of a destination: that of its last key.
    fn origin_of(&self, name: &str) -> Origin {
        let keys: Vec<&str> = self
            .origins
            .keys()
            .filter(|key| destination::of(key).as_deref() == Some(name))
            .map(String::as_str)
            .collect();
        self.origin(&keys)
    }

    /// The full name of a key of the server that is being checked.
    fn key(&self, key: &str) -> String {
        destination::named(key, self.destination.as_deref())
    }

    /// Rejects a server URL that is the agent's own Socket.IO source: the agent would send the same
    /// frames to itself forever.
    fn check_circle(&mut self) {
        let url = self.key("server.url");
        let keys = ["source.socketio.listen", &url];
        let Config { source, server, .. } = &self.config;
        let (enabled, listen) = (source.socketio.enabled, source.socketio.listen);
        if enabled && server.url.is_at(listen) && self.sound(&keys) {
            let message = format!(
                "\"{}\" is the agent's own address, source.socketio.listen; write the \
                 address of the dashboard server, and another port for one of them",
                server.url
            );
            self.problem(self.origin(&keys), Some(&url), message);
        }
    }

    /// Rejects settings that NATS does not support and warns of settings that it ignores.
    fn check_nats(&mut self) {
        self.check_hub();
        let url = self.key("server.url");
        let server = &self.config.server;
        if server.url.protocol() != Protocol::Nats || !self.sound(&[&url]) {
            return;
        }
        let fixed = match &server.session_id {
            SessionChoice::Fixed(id) => Some(id.clone()),
            SessionChoice::Auto => None,
        };
        let unused = [
            (self.key("server.headers"), server.headers.iter().next().is_some()),
            (self.key("server.auth"), server.auth.reveal().is_some()),
            (self.key("server.proxy"), matches!(server.proxy, ProxyChoice::Fixed(_))),
            (self.key("server.transport"), server.transport != TransportChoice::Auto),
            ("delivery.mark".to_owned(), self.config.delivery.mark),
        ];
        if let Some(id) = fixed {
            let session_id = self.key("server.session_id");
            let keys = [&*url, &*session_id];
            let message = format!(
                "\"{id}\" cannot be used on NATS, where the agent names each stint; write \"auto\""
            );
            self.problem(self.origin(&keys), Some(&session_id), message);
        }
        if self.config.delivery.proof == ProofChoice::Echo {
            let keys = [&*url, "delivery.proof"];
            let message = "\"echo\" is not available on NATS, which acknowledges stored entries; \
                           write \"auto\"";
            self.problem(self.origin(&keys), Some("delivery.proof"), message.into());
        }
        for (key, _) in unused.into_iter().filter(|(_, is_set)| *is_set) {
            self.warn(&key, "applies to dashboard servers only; a NATS server ignores it".into());
        }
    }

    /// Rejects a hub that publishes to NATS: it would send the same entries to itself forever.
    fn check_hub(&mut self) {
        let url = self.key("server.url");
        let Config { source, server, .. } = &self.config;
        let keys = ["source.nats.enabled", "source.nats.url", &url];
        if !source.nats.enabled || !self.sound(&keys) {
            return;
        }
        if source.nats.url.protocol() != Protocol::Nats {
            let message = format!(
                "\"{}\" is not a NATS server; write an address such as \"nats://localhost:4222\"",
                source.nats.url
            );
            if self.destination.is_none() {
                self.problem(self.origin(&keys[..2]), Some("source.nats.url"), message);
            }
        } else if server.url.protocol() == Protocol::Nats {
            let message = format!(
                "\"{}\" cannot be a hub's destination: the hub would receive its own entries; \
                 write the address of the dashboard server, or source.nats.enabled = false",
                server.url
            );
            self.problem(self.origin(&keys), Some(&url), message);
        }
    }

    /// Warns if the agent, by default, and a publisher may both read the same game.
    fn check_reads_once(&mut self) {
        let Config { source, .. } = &self.config;
        let is_said = self.origins.contains_key("source.lmu.enabled");
        if source.socketio.enabled && source.lmu.enabled && !is_said {
            let message = "true: if the publisher reads the same game, each frame arrives twice; \
                           write false, or true if it reads another one";
            let origin = self.origin(&["source.socketio.enabled"]);
            let key = Some("source.lmu.enabled".into());
            self.warnings.push(Warning { origin, key, message: message.into() });
        }
    }

    fn check_queue(&mut self) {
        let path = &self.config.queue.path;
        if path.as_os_str().is_empty() {
            return self.check_default_queue();
        }
        if path.starts_with(env::temp_dir()) {
            let path = path.display();
            let message =
                format!("\"{path}\" is in a temporary directory, which a restart empties");
            self.warn("queue.path", message);
        }
    }

    /// Requires a directory for the queue where the platform defines none.
    fn check_default_queue(&mut self) {
        if !self.sound(&["queue.path"]) {
            return;
        }
        let Err(NoDefaultPath { variable }) = paths::queue() else { return };
        let message = "is not set to a full path, so the queue has no default directory; set it, or \
                       name the directory with --queue DIR or queue.path";
        self.problem(Origin::Variable(variable.into()), None, message.into());
    }

    /// Warns of variables with a path that is not used, so that the queue or the configuration file
    /// is elsewhere than intended.
    fn check_variables(&mut self) {
        for (name, value) in paths::ignored_variables() {
            let message = format!(
                "{} is ignored, because it is not a full path; write one that begins with \"/\"",
                quoted(&value.to_string_lossy())
            );
            self.warnings.push(Warning {
                origin: Origin::Variable(name.into()),
                key: None,
                message,
            });
        }
    }
}

/// Whether listening on one address prevents listening on the other.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let all = one.ip().is_unspecified() || other.ip().is_unspecified();
    one.port() == other.port() && one.port() != 0 && (all || one.ip() == other.ip())
}
