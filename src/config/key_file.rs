//! Files that keys name: certificates, credentials, recordings. Each fault names the file and what
//! to do.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use super::{Config, CredentialFile, ListenerConfig, Protocol, Secret, check_token, table_of};

/// The maximum size of a certificate file, ten times the bundle of a Linux distribution.
const MAX_CERTIFICATE_BYTES: u64 = 4 << 20;

/// Why the file that a key names cannot be used, as a phrase that follows the key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FileFault {
    #[error("no such file: {0}; write the path of a file that exists")]
    Missing(String),
    #[error("{0} is not a file; write the path of a file")]
    NotAFile(String),
    #[error("{path} cannot be read: {error}; let the user that runs pitwire read it")]
    Unreadable { path: String, error: String },
    #[error("{path} has more than {limit} bytes; write the path of another file")]
    TooLarge { path: String, limit: u64 },
    #[error("{0} is not text in UTF-8; write the path of another file")]
    NotText(String),
    #[error("{path} is not a certificate in PEM format: {error}; convert it, or name another one")]
    NotPem { path: String, error: String },
    #[error("{path} holds a token that {why}")]
    WeakToken { path: String, why: String },
    #[error("CREDENTIALS_DIRECTORY is not set; only systemd units with LoadCredential= have it")]
    NoCredentialsDirectory,
}

/// Reads a text file of at most `limit` bytes. May block.
pub(super) fn read_text(path: &Path, limit: u64) -> Result<String, FileFault> {
    // Opening a pipe would block until another program writes to it.
    check_is_file(path)?;
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(limit + 1).read_to_end(&mut bytes));
    let read = read.map_err(|error| fault(path, &error))?;
    if read as u64 > limit {
        return Err(FileFault::TooLarge { path: full(path), limit });
    }
    String::from_utf8(bytes).map_err(|_| FileFault::NotText(full(path)))
}

/// Reads a file with a certificate authority in PEM format. May block.
pub(crate) fn read_ca(path: &Path) -> Result<Vec<u8>, FileFault> {
    let pem = read_text(path, MAX_CERTIFICATE_BYTES)?.into_bytes();
    match native_tls::Certificate::from_pem(&pem) {
        Ok(_) => Ok(pem),
        Err(error) => Err(FileFault::NotPem { path: full(path), error: error.to_string() }),
    }
}

/// The token of a listener: from the token file if one is configured, else from the configuration
/// itself. May block.
pub(crate) fn listener_token(
    token: &Secret,
    file: Option<&CredentialFile>,
) -> Result<Secret, FileFault> {
    let Some(file) = file else { return Ok(token.clone()) };
    let token = Secret::from(file.read()?.as_str());
    match check_token(token.reveal().unwrap_or_default()) {
        Ok(()) => Ok(token),
        Err(why) => Err(FileFault::WeakToken { path: file.to_string(), why }),
    }
}

/// The keys whose files `pitwire run` cannot use, and why. Reads the files, which may block.
pub(super) fn faults(config: &Config) -> Vec<(String, FileFault)> {
    let mut faults = FileFaults::default();
    for name in config.destination_names() {
        let (table, server) = (table_of(&name), config.towards(&name).server);
        faults.credentials(&table, "token_file", server.token_file.as_ref());
        faults.ca(&table, server.ca_file.as_deref());
        if server.url.protocol() == Protocol::Nats {
            faults.credentials(&table, "credentials_file", server.credentials_file.as_ref());
        }
    }
    let Config { source, metrics, .. } = config;
    if source.nats.enabled {
        let (table, hub) = ("source.nats", &source.nats);
        faults.credentials(table, "token_file", hub.token_file.as_ref());
        faults.ca(table, hub.ca_file.as_deref());
        faults.credentials(table, "credentials_file", hub.credentials_file.as_ref());
    }
    for (table, listener) in
        [("source.http", &source.http), ("source.socketio", &source.socketio), ("metrics", metrics)]
    {
        let ListenerConfig { enabled, token, token_file, .. } = listener;
        if *enabled {
            faults.add(table, "token_file", listener_token(token, token_file.as_ref()));
        }
    }
    if let Some(recording) = &source.file.path {
        // A recording may be a pipe.
        let found = fs::metadata(recording).map_err(|error| fault(recording, &error));
        let is_folder = found.as_ref().is_ok_and(fs::Metadata::is_dir);
        let found = if is_folder { Err(FileFault::NotAFile(full(recording))) } else { found };
        faults.add("source.file", "path", found);
    }
    faults.0
}

#[derive(Default)]
struct FileFaults(Vec<(String, FileFault)>);

impl FileFaults {
    fn credentials(&mut self, table: &str, key: &str, file: Option<&CredentialFile>) {
        if let Some(file) = file {
            self.add(table, key, file.read());
        }
    }

    fn ca(&mut self, table: &str, path: Option<&Path>) {
        if let Some(path) = path {
            self.add(table, "ca_file", read_ca(path));
        }
    }

    fn add<T>(&mut self, table: &str, key: &str, read: Result<T, FileFault>) {
        self.0.extend(read.err().map(|fault| (format!("{table}.{key}"), fault)));
    }
}

fn check_is_file(path: &Path) -> Result<(), FileFault> {
    match fs::metadata(path) {
        Ok(about) if about.is_file() => Ok(()),
        Ok(_) => Err(FileFault::NotAFile(full(path))),
        Err(error) => Err(fault(path, &error)),
    }
}

fn fault(path: &Path, error: &io::Error) -> FileFault {
    match error.kind() {
        io::ErrorKind::NotFound => FileFault::Missing(full(path)),
        _ => FileFault::Unreadable { path: full(path), error: error.to_string() },
    }
}

/// The path with the working directory, in which a relative one starts.
fn full(path: &Path) -> String {
    std::path::absolute(path).unwrap_or_else(|_| path.into()).display().to_string()
}
