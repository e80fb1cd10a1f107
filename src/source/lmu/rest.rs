//! The game's REST API, asked for the car's setup and nothing else.
//!
//! The game answers its own menus with it. Some of its paths stop the game, and everything but GET
//! changes it: what may be asked is a type here, and one request is over before the next begins.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use crate::config::{GAME_API_PROBE_TIMEOUT, GAME_API_TIMEOUT, GameApi, MAX_SAMPLE_BYTES};
use crate::fields::{self, Json, Refused, Setup};
use crate::request::{Bounds, Bytes, Method, RequestError, StatusCode, request};

/// All that is ever asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Path {
    /// Is the API there?
    Sessions,
    Setup,
    /// The same in older versions of the game; in the menus, a list of those that are saved.
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

/// What the API says.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// The car's setup, as the game gives it.
    Setup(Setup),
    /// There is none now: the player is in the menus or on the track.
    NoSetup,
}

/// Why the API said nothing.
#[derive(Debug, thiserror::Error)]
pub enum RestError {
    /// The game does not run, starts, or is busy.
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error("answers {0}")]
    Status(StatusCode),
    #[error("answers with a setup that is refused: {0}")]
    Refused(#[from] Refused),
}

/// The API, and which of its addresses answered last.
#[derive(Debug)]
pub struct Rest {
    addresses: Vec<SocketAddr>,
    address: Option<SocketAddr>,
}

impl Rest {
    /// Asks nothing yet.
    pub fn new(api: GameApi) -> Self {
        Self { addresses: api.addresses(), address: None }
    }

    /// Asks for the setup: at most four requests, one after the other. Dropping the future ends
    /// the one that is under way.
    pub async fn setup(&mut self) -> Result<Answer, RestError> {
        let address = match self.address {
            Some(address) => address,
            None => self.find().await?,
        };
        let answer = ask_for_setup(address).await;
        self.address = answer.is_ok().then_some(address);
        answer
    }

    /// The first address that has the API; asks each of them once.
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

async fn ask_for_setup(address: SocketAddr) -> Result<Answer, RestError> {
    let (mut status, mut body) = get(address, Path::Setup, GAME_API_TIMEOUT).await?;
    if status == StatusCode::NOT_FOUND {
        (status, body) = get(address, Path::OlderSetup, GAME_API_TIMEOUT).await?;
    }
    match status {
        StatusCode::NOT_FOUND => Ok(Answer::NoSetup),
        status if status.is_success() => read(&body),
        status => Err(RestError::Status(status)),
    }
}

/// A setup is an object that has settings in it.
fn read(body: &[u8]) -> Result<Answer, RestError> {
    if body.trim_ascii().is_empty() {
        return Ok(Answer::NoSetup);
    }
    let answer = fields::read(body)?;
    let settings = answer.member("carSetup").and_then(|car_setup| car_setup.member("garageValues"));
    let is_setup = settings.and_then(Json::as_object).is_some_and(|settings| !settings.is_empty());
    Ok(if is_setup { Answer::Setup(Setup::checked(answer)?) } else { Answer::NoSetup })
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
