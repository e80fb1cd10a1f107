//! Two publishers on one page, one or both of them cut off: the server stores every frame of both
//! once, regardless of their interleaving, and none counts as delivered before.
//!
//! With `LONG=1`, cuts of 6, 19 and 60 s in all combinations.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::sleep;

use crate::agent::eventually;
use crate::contract::Client;
use crate::hostile::Pit;
use crate::long::is_long;
use crate::peers::{Kind, Peer, frames};
use crate::proxy::{Network, Proxy};

/// The interval between frames, for 20 Hz.
const FRAME_INTERVAL: Duration = Duration::from_millis(50);

/// How the two publishers get their session.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Ids {
    /// Each requests one, and has a separate page.
    AutoAuto,
    /// One requests it, and the other has that id as `server.session_id`.
    AutoFixed,
    /// Both have the id of a session that another program requested.
    FixedFixed,
}

/// Which connections are cut.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Cut {
    First,
    Second,
    Both,
}

/// The message that the cut interrupts.
#[derive(Clone, Copy, Debug, PartialEq)]
enum InFlight {
    /// Everything was delivered before.
    Nothing,
    /// Frames whose delivery cannot be known: the page shows only the newest frame, which is the
    /// other driver's.
    Frames,
}

#[derive(Clone, Copy, Debug)]
struct Round {
    ids: Ids,
    cut: Cut,
    in_flight: InFlight,
    seconds: u64,
}

#[tokio::test]
async fn every_frame_of_two_publishers_on_a_page_is_stored_once_though_their_connections_are_cut() {
    let short = [
        (Ids::AutoFixed, Cut::First, InFlight::Nothing),
        (Ids::AutoFixed, Cut::Second, InFlight::Nothing),
        (Ids::FixedFixed, Cut::First, InFlight::Frames),
        (Ids::FixedFixed, Cut::Both, InFlight::Nothing),
        (Ids::AutoAuto, Cut::Both, InFlight::Nothing),
    ];
    if !is_long() {
        let round = |(ids, cut, in_flight)| Round { ids, cut, in_flight, seconds: 3 };
        return run(short.map(round).to_vec()).await;
    }
    for seconds in [6, 19, 60] {
        for in_flight in [InFlight::Nothing, InFlight::Frames] {
            let mut rounds = Vec::new();
            for ids in [Ids::AutoAuto, Ids::AutoFixed, Ids::FixedFixed] {
                for cut in [Cut::First, Cut::Second, Cut::Both] {
                    rounds.push(Round { ids, cut, in_flight, seconds });
                }
            }
            run(rounds).await;
        }
    }
}

/// Runs the rounds at the same time, each on its own pages of one server.
async fn run(rounds: Vec<Round>) {
    let server = Peer::start(Kind::Flask, &[]);
    join_all(rounds.into_iter().map(|round| drive_through_a_cut(&server, round))).await;
}

/// A publisher, its driver, and the network between it and the server.
struct Car {
    pit: Pit,
    driver: &'static str,
    network: Proxy,
    is_cut: bool,
}

impl Car {
    fn start(server: &Peer, driver: &'static str, session: Option<&str>, is_cut: bool) -> Self {
        let network = Proxy::start(server.port());
        // A timeout on a busy machine would leave more entries in flight than the cut did.
        let mut settings =
            vec![("delivery.backoff_min", "50ms"), ("delivery.proof_timeout", "20s")];
        settings.extend(session.map(|session| ("server.session_id", session)));
        let pit = Pit::new(&network.url(), &settings);
        Self { pit, driver, network, is_cut }
    }

    async fn session(&self) -> String {
        eventually("a session", async || self.pit.status().session).await
    }

    fn set_network(&self, network: Network) {
        if self.is_cut {
            self.network.set(network);
        }
    }

    /// How often the server stores each lap of this driver.
    async fn stored(&self, server: &Peer) -> BTreeMap<u64, u64> {
        let mut stored = BTreeMap::new();
        for frame in frames(&server.url(), &self.session().await).await {
            if frame["player_name"] == self.driver {
                *stored.entry(frame["lap"].as_u64().unwrap()).or_default() += 1;
            }
        }
        stored
    }

    fn delivered(&self) -> u64 {
        self.pit.publisher.queue_status().server().ledger.delivered
    }
}

async fn drive_through_a_cut(server: &Peer, round: Round) {
    let Round { ids, cut, in_flight, seconds } = round;
    let given = match ids {
        Ids::FixedFixed => Some(Client::connect(&server.url()).await.new_session().await),
        Ids::AutoAuto | Ids::AutoFixed => None,
    };
    let ana = Car::start(server, "Ana", given.as_deref(), cut != Cut::Second);
    let given = match ids {
        Ids::AutoAuto => None,
        Ids::AutoFixed => Some(ana.session().await),
        Ids::FixedFixed => given,
    };
    let ben = Car::start(server, "Ben", given.as_deref(), cut != Cut::First);
    let cars = [ana, ben];

    let mut laps = 0;
    drive(&cars, &mut laps, Duration::from_secs(1)).await;
    if in_flight == InFlight::Nothing {
        join_all(cars.iter().map(|car| car.pit.drained())).await;
    }
    cars.iter().for_each(|car| car.set_network(Network::Down));
    let may_be_twice =
        cars.each_ref().map(|car| if car.is_cut { laps - car.delivered() } else { 0 });
    drive(&cars, &mut laps, Duration::from_secs(seconds)).await;
    cars.iter().for_each(|car| car.set_network(Network::UP));
    for _ in 0..4 {
        drive(&cars, &mut laps, Duration::from_millis(500)).await;
        for car in &cars {
            let delivered = car.delivered();
            let stored = car.stored(server).await.len() as u64;
            assert!(stored >= delivered, "{round:?} {}: {delivered} of {stored}", car.driver);
        }
    }
    for (car, may_be_twice) in cars.iter().zip(may_be_twice) {
        car.pit.drained().await;
        let stored = car.stored(server).await;
        let lost: Vec<u64> = (1..=laps).filter(|lap| !stored.contains_key(lap)).collect();
        let twice: u64 = stored.values().map(|times| times - 1).sum();
        println!("{round:?} {}: {laps} frames, {} lost, {twice} twice", car.driver, lost.len());
        assert_eq!(lost, [0; 0], "{round:?} {}", car.driver);
        assert_eq!(car.delivered(), laps, "{round:?} {}", car.driver);
        let most = if in_flight == InFlight::Nothing { 0 } else { may_be_twice };
        let (driver, status) = (car.driver, car.pit.status());
        assert!(twice <= most, "{round:?} {driver}: {twice} twice, at most {most}; {status:?}");
    }
}

/// Publishes frames of both drivers for this long.
async fn drive(cars: &[Car; 2], laps: &mut u64, time: Duration) {
    let start = tokio::time::Instant::now();
    while start.elapsed() < time {
        *laps += 1;
        for car in cars {
            car.pit.store(*laps..=*laps, car.driver).await;
        }
        sleep(FRAME_INTERVAL).await;
    }
}
