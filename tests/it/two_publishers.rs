//! Two publishers on one page: the server stores every frame of both, regardless of their
//! interleaving.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::sleep;

use crate::agent::eventually;
use crate::hostile::Pit;
use crate::long::is_long;
use crate::peers::{Kind, Peer, frames};
use crate::proxy::{Network, Proxy};

/// The interval between frames, for 20 Hz.
const FRAME_INTERVAL: Duration = Duration::from_millis(50);
/// Frames of one driver that the server may store twice after a cut: they were in flight, and the
/// page shows only the newest frame, which is the other driver's.
const IN_FLIGHT: usize = 40;

/// Which of the two has its connection cut.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Cut {
    /// The publisher that asked for the session.
    Auto,
    /// The publisher whose `server.session_id` is that session.
    Fixed,
}

#[tokio::test]
async fn a_backlog_is_published_though_another_publisher_sends_newer_frames_to_the_page() {
    let cuts: &[u64] = if is_long() { &[6, 19, 60] } else { &[3] };
    let rounds = cuts.iter().flat_map(|&seconds| {
        [Cut::Auto, Cut::Fixed].map(|cut| cut_one_of_two(cut, Duration::from_secs(seconds)))
    });
    join_all(rounds).await;
}

async fn cut_one_of_two(cut: Cut, outage: Duration) {
    let server = Peer::start(Kind::Asgi, &[]);
    let network = Proxy::start(server.port());
    let url = |of: Cut| if of == cut { network.url() } else { server.url() };
    let settings = [("delivery.backoff_min", "50ms"), ("delivery.proof_timeout", "2s")];
    let ana = Pit::new(&url(Cut::Auto), &settings);
    let session = eventually("a session", async || ana.status().session).await;
    let ben = Pit::new(
        &url(Cut::Fixed),
        &[settings.as_slice(), &[("server.session_id", &session)]].concat(),
    );

    let mut laps = 0;
    drive(&ana, &ben, &mut laps, Duration::from_secs(1)).await;
    network.set(Network::Down);
    drive(&ana, &ben, &mut laps, outage).await;
    network.set(Network::UP);
    drive(&ana, &ben, &mut laps, Duration::from_secs(2)).await;
    ana.drained().await;
    ben.drained().await;

    let mut kept: BTreeMap<(String, u64), usize> = BTreeMap::new();
    for frame in frames(&server.url(), &session).await {
        let driver = frame["player_name"].as_str().unwrap().to_owned();
        *kept.entry((driver, frame["lap"].as_u64().unwrap())).or_default() += 1;
    }
    for (pit, driver, is_cut) in [(&ana, "Ana", cut == Cut::Auto), (&ben, "Ben", cut == Cut::Fixed)]
    {
        let times = |lap| kept.get(&(driver.to_owned(), lap)).copied().unwrap_or_default();
        let lost: Vec<u64> = (1..=laps).filter(|&lap| times(lap) == 0).collect();
        let twice = (1..=laps).filter(|&lap| times(lap) > 1).count();
        assert_eq!(lost, [0; 0], "{driver}, {cut:?} cut for {outage:?}: recorded as delivered");
        assert_eq!(pit.publisher.queue_status().server().ledger.delivered, laps);
        let most = if is_cut { IN_FLIGHT } else { 0 };
        assert!(twice <= most, "{driver}, {cut:?} cut for {outage:?}: {twice} frames twice");
    }
}

/// Publishes frames of both drivers for this long.
async fn drive(ana: &Pit, ben: &Pit, laps: &mut u64, time: Duration) {
    let start = tokio::time::Instant::now();
    while start.elapsed() < time {
        *laps += 1;
        ana.store(*laps..=*laps, "Ana").await;
        ben.store(*laps..=*laps, "Ben").await;
        sleep(FRAME_INTERVAL).await;
    }
}
