//! HTTP client for the admin address of a running agent.

use std::time::Duration;

use serde::de::DeserializeOwned;

use crate::net::http_client::{Bounds, Bytes, Method, RequestError, StatusCode, request};

/// The maximum time from a request to the agent's response.
pub(super) const TOOL_TIMEOUT: Duration = Duration::from_secs(60);

/// The maximum response of the agent; a page with the largest entry fits.
const MAX_TOOL_ANSWER_BYTES: usize = 8 << 20;

/// An agent's admin address.
#[derive(Clone, Debug)]
pub struct AdminClient {
    /// Host and port.
    address: String,
}

/// Why a request to an agent failed. The text includes advice for the user.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error(
        "--admin: {0:?} is not an admin address; use the one that the agent logs, such as \
         http://127.0.0.1:9184"
    )]
    Address(String),
    #[error(
        "no agent answers at http://{0}: {1}; check that it is running and that its metrics.listen \
         is this address"
    )]
    Unreachable(String, std::io::Error),
    #[error("the agent at http://{0} {1}; try again and check its log")]
    Silent(String, RequestError),
    #[error("the agent at http://{0} refused the request: {1}")]
    Refused(String, String),
    #[error(
        "the server at http://{0} does not know the queue tools; use the pitwire command of the \
         running agent, and its metrics.listen"
    )]
    Strange(String),
}

impl AdminClient {
    /// Creates a client without connecting. `address` is `http://HOST:PORT`, as the agent logs it,
    /// or `HOST:PORT`.
    pub fn new(address: &str) -> Result<Self, ClientError> {
        let bare = address.strip_prefix("http://").unwrap_or(address).trim_end_matches('/');
        let port = bare.rsplit_once(':').filter(|(host, _)| !host.is_empty());
        let is_address = port.is_some_and(|(_, port)| port.parse::<u16>().is_ok_and(|p| p > 0));
        if is_address && !bare.contains(['/', ' ', '@', '?']) {
            Ok(Self { address: bare.into() })
        } else {
            Err(ClientError::Address(address.into()))
        }
    }

    /// Posts a request and parses the response.
    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: impl Into<Bytes>,
    ) -> Result<T, ClientError> {
        let address = || self.address.clone();
        let bounds = Bounds { time: TOOL_TIMEOUT, answer_bytes: MAX_TOOL_ANSWER_BYTES };
        let asked = request(&self.address, Method::POST, path, body.into(), bounds).await;
        let (status, body) = asked.map_err(|error| match error {
            RequestError::Unreachable(error) => ClientError::Unreachable(address(), error),
            error => ClientError::Silent(address(), error),
        })?;
        if status.is_success() {
            return serde_json::from_slice(&body).map_err(|_| ClientError::Strange(address()));
        }
        let error = serde_json::from_slice::<serde_json::Value>(&body).unwrap_or_default();
        match error["error"].as_str() {
            // An agent knows the paths that its client uses, so a 404 is not from an agent.
            Some(error) if status != StatusCode::NOT_FOUND => {
                Err(ClientError::Refused(address(), error.into()))
            }
            _ => Err(ClientError::Strange(address())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_admin_address_must_name_a_host_and_a_port() {
        for (address, bare) in [
            ("http://127.0.0.1:9184", "127.0.0.1:9184"),
            ("http://[::1]:9184/", "[::1]:9184"),
            ("localhost:9184", "localhost:9184"),
        ] {
            assert_eq!(AdminClient::new(address).unwrap().address, bare);
        }
        for address in ["", "9184", "http://127.0.0.1", "https://a:1", "http://a:0", "a:1/metrics"]
        {
            let error = AdminClient::new(address).unwrap_err().to_string();
            assert!(error.starts_with("--admin: "), "{error}");
        }
    }
}
