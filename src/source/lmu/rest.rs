//! A client for the game's REST API that requests the car's setup and nothing else.
//!
//! The API serves the game's own menus. Some of its paths stop the game, and every method except
//! GET changes its state. The permitted paths are therefore an enum, and requests never overlap.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use crate::config::GameApi;
use crate::fields::{self, Json, MAX_SAMPLE_BYTES, Refused, Setup};
use crate::net::http_client::{Bounds, Bytes, Method, RequestError, StatusCode, request};

/// The maximum time from a request to its complete response, for the probe whether the API exists
/// and for data.
const GAME_API_PROBE_TIMEOUT: Duration = Duration::from_secs(1);
const GAME_API_TIMEOUT: Duration = Duration::from_secs(2);

/// The only paths that are requested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Path {
    /// Detects the API.
    Sessions,
    Setup,
    /// The setup in older versions of the game; in the menus, a list of the saved setups.
    OlderSetup,
}

impl Path {
    fn as_str(self) -> &'static str {
        match self {
            Self::Sessions => "/rest/sessions",
            Self::Setup => "/rest/garage/UIScreen/CarSetupOverview",
            Self::OlderSetup => "/rest/garage/setup",
        }
    }
}

/// The result of a request for the setup.
#[derive(Clone, Debug, PartialEq)]
pub enum SetupResponse {
    /// The car's setup in the game's format.
    Setup(Setup),
    /// Not available now: the player is in the menus or on the track.
    NoSetup,
}

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum RestError {
    /// The game is not running, still starting, or busy.
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error("answers {0}")]
    Status(StatusCode),
    #[error("answers with an invalid setup: {0}")]
    Refused(#[from] Refused),
}

/// The API, and which of its addresses answered last.
#[derive(Debug)]
pub struct Rest {
    addresses: Vec<SocketAddr>,
    address: Option<SocketAddr>,
}

impl Rest {
    /// Creates the client without sending a request.
    pub fn new(api: GameApi) -> Self {
        Self { addresses: api.addresses(), address: None }
    }

    /// Requests the setup with at most four requests, one after the other. Dropping the future
    /// aborts the current request.
    pub async fn setup(&mut self) -> Result<SetupResponse, RestError> {
        let address = match self.address {
            Some(address) => address,
            None => self.find().await?,
        };
        let answer = ask_for_setup(address).await;
        self.address = answer.is_ok().then_some(address);
        answer
    }

    /// Finds the first address that serves the API; tries each address once.
    pub async fn find(&self) -> Result<SocketAddr, RestError> {
        let mut error =
            RestError::from(RequestError::from(io::Error::from(io::ErrorKind::NotFound)));
        for &address in &self.addresses {
            match get(address, Path::Sessions, GAME_API_PROBE_TIMEOUT).await {
                Ok((StatusCode::OK, _)) => return Ok(address),
                Ok((status, _)) => error = RestError::Status(status),
                Err(failed) => error = failed,
            }
        }
        Err(error)
    }
}

async fn ask_for_setup(address: SocketAddr) -> Result<SetupResponse, RestError> {
    let (mut status, mut body) = get(address, Path::Setup, GAME_API_TIMEOUT).await?;
    if status == StatusCode::NOT_FOUND {
        (status, body) = get(address, Path::OlderSetup, GAME_API_TIMEOUT).await?;
    }
    match status {
        StatusCode::NOT_FOUND => Ok(SetupResponse::NoSetup),
        status if status.is_success() => read(&body),
        status => Err(RestError::Status(status)),
    }
}

/// Parses the answer; only an object with settings counts as a setup.
fn read(body: &[u8]) -> Result<SetupResponse, RestError> {
    if body.trim_ascii().is_empty() {
        return Ok(SetupResponse::NoSetup);
    }
    let text = fields::text(body)?;
    let answer = fields::parse(&text)?;
    let settings = answer.member("carSetup").and_then(|car_setup| car_setup.member("garageValues"));
    let is_setup = settings.and_then(Json::as_object).is_some_and(|settings| !settings.is_empty());
    Ok(if is_setup { SetupResponse::Setup(Setup::parse(body)?) } else { SetupResponse::NoSetup })
}

async fn get(
    address: SocketAddr,
    path: Path,
    limit: Duration,
) -> Result<(StatusCode, Bytes), RestError> {
    let bounds = Bounds { time: limit, answer_bytes: MAX_SAMPLE_BYTES };
    let address = address.to_string();
    Ok(request(&address, Method::GET, path.as_str(), Bytes::new(), bounds).await?)
}
