//! `pitwire doctor`: unreachable, wrong, locked and silent servers, and servers whose clock is off.

use std::net::Ipv4Addr;
use std::time::Instant;

use pitwire::dashboard::{Behaviour, Server};
use tempfile::tempdir;

use super::{Pc, answering, closed_port, has, http};
use crate::hostile::certificates;
use crate::peers::{Kind, Peer};

const ADDRESS: &str = "check that server.url is the address of the dashboard, including its path";
const PORT: &str = "check that server.url has the port of the dashboard server";
const TOKEN: &str = "ask its operator for a token; put it into server.token or server.token_file, \
                     other credentials into server.auth or server.headers";

#[test]
fn an_unreachable_server_is_a_fault() {
    let port = closed_port();
    let findings = Pc::new().server(&format!("http://127.0.0.1:{port}")).finds(&[(
        "fault",
        "server",
        &format!("nothing listens at http://127.0.0.1:{port}: connection refused"),
        "check that the dashboard server runs, and that server.url has its port",
    )]);
    assert!(has(&findings, "note", "not checked: TLS, Socket.IO, its clock, sessions"));
    // The checks that need no server still run.
    assert!(has(&findings, "ok", "metrics.listen takes a free port"));

    let findings = Pc::new().server("http://pit.invalid:5000").finds(&[(
        "fault",
        "server",
        "cannot reach http://pit.invalid:5000: its name does not resolve: …",
        "check its spelling in server.url, and that this PC is online",
    )]);
    assert!(has(&findings, "note", "not checked: whether it can be reached"));
}

#[test]
fn every_destination_is_checked() {
    let server = Server::start((Ipv4Addr::LOCALHOST, 0).into(), Behaviour::default()).unwrap();
    let port = closed_port();
    let there = Server::start((Ipv4Addr::LOCALHOST, 0).into(), Behaviour::default()).unwrap();
    let others = [
        format!("destination.away.url=http://127.0.0.1:{port}"),
        format!("destination.there.url={}", there.url()),
    ];
    let findings = Pc::new().server(&server.url()).set(others).finds(&[(
        "fault",
        "destination.away",
        &format!("nothing listens at http://127.0.0.1:{port}: connection refused"),
        "check that the dashboard server runs, and that destination.away.url has its port",
    )]);
    for subject in ["server", "destination.there"] {
        let is_ok = |one: &serde_json::Value| one["subject"] == subject && one["severity"] == "ok";
        let mut found = findings.iter().filter(|one| is_ok(one));
        assert!(
            found.any(|one| one["summary"] == "it assigns a session"),
            "{subject}: {findings:?}"
        );
    }
}

#[test]
fn a_server_that_is_not_a_dashboard_is_a_fault() {
    let not_found = answering(|_| Some(http("404 Not Found", "", "nothing here")), None);
    let findings = Pc::new().server(&not_found).finds(&[(
        "fault",
        "server",
        &format!("{not_found} is not a Socket.IO server: it answers 404 Not Found"),
        ADDRESS,
    )]);
    assert!(has(&findings, "note", "it does not report its time"));
    assert!(has(&findings, "note", "not checked: sessions, acknowledgements, echoes"));

    let ssh = answering(|_| Some("SSH-2.0-OpenSSH_9.2\r\n".into()), None);
    let what = format!("{ssh} does not speak HTTP: it breaks off: …");
    Pc::new().server(&ssh).finds(&[("fault", "server", &what, PORT)]);

    let silent = answering(|_| None, None);
    let what = format!("{silent} accepts connections, but answers no request in 5s");
    let advice =
        "check that the dashboard server is not overloaded, and that server.url has its port";
    Pc::new().server(&silent).finds(&[("fault", "server", &what, advice)]);

    let plain = Server::start((Ipv4Addr::LOCALHOST, 0).into(), Behaviour::default()).unwrap();
    let url = plain.url().replace("http://", "https://");
    Pc::new().server(&url).finds(&[(
        "fault",
        "server",
        &format!("TLS failed: {url} answers plain HTTP, without TLS"),
        &format!("write {} in server.url, or the port that has TLS", plain.url()),
    )]);
}

#[test]
fn a_proxy_that_blocks_websockets_is_a_fault() {
    let proxy = answering(
        |line| {
            Some(match line.contains("transport=polling") {
                true => http("200 OK", "", r#"0{"sid":"a","upgrades":["websocket"]}"#),
                false => http("400 Bad Request", "", ""),
            })
        },
        None,
    );
    Pc::new().server(&proxy).finds(&[(
        "fault",
        "server",
        &format!("{proxy} speaks Socket.IO, but no WebSocket gets through: …"),
        "let the proxy in front of it pass WebSocket upgrades on to it",
    )]);
}

#[test]
fn refused_access_is_a_fault() {
    let server = Peer::start(Kind::Asgi, &["--token", "hunter2"]);
    let refuses = |server: &Peer| format!("{} refuses access: …", server.url());
    let what = refuses(&server);
    let expected = [("fault", "server", &*what, TOKEN)];
    Pc::new().server(&server.url()).finds(&expected);
    Pc::new().server(&server.url()).set(["server.token=wrong"]).finds(&expected);
    Pc::new().server(&server.url()).set(["server.token=hunter2"]).finds(&[]);
    let header = Peer::start(Kind::Asgi, &["--header", "Authorization:Bearer hunter2"]);
    Pc::new().server(&header.url()).finds(&[("fault", "server", &*refuses(&header), TOKEN)]);
    Pc::new().server(&header.url()).set(["server.token=hunter2"]).finds(&[]);

    Pc::new().server(&server.url()).set(["server.token_file=/nowhere/token"]).finds(&[(
        "fault",
        "configuration",
        "--set: server.token_file: no such file: /nowhere/token; write the path of a file that exists",
        "correct it; pitwire check tests it again",
    )]);
}

#[test]
fn an_untrusted_certificate_is_a_fault() {
    let (ours, others) = (tempdir().unwrap(), tempdir().unwrap());
    let (ca, certificate, key) = certificates(ours.path());
    let (other_ca, ..) = certificates(others.path());
    let args = ["--certfile", certificate.to_str().unwrap(), "--keyfile", key.to_str().unwrap()];
    let server = Peer::start(Kind::Asgi, &args);
    let url = server.url().replace("http://", "https://");
    let trusting = |ca: &std::path::Path| [format!("server.ca_file={}", ca.display())];
    Pc::new().server(&url).set(trusting(&ca)).finds(&[]);
    let advice = "set server.ca_file to the authority that signed it; check that it is valid for \
                  this name and has not expired, and that the clock of this PC is right";
    let untrusted = |url: &str| format!("TLS failed: the certificate of {url} is not trusted: …");
    let what = untrusted(&url);
    let expected = [("fault", "server", &*what, advice)];
    Pc::new().server(&url).set(trusting(&other_ca)).finds(&expected);
    Pc::new().server(&url).finds(&expected);
    // The certificate is valid for another name.
    let named = url.replace("127.0.0.1", "localhost");
    let expected = [("fault", "server", &*untrusted(&named), advice)];
    Pc::new().server(&named).set(trusting(&ca)).finds(&expected);
    Pc::new().server(&url).set(trusting(&key)).finds(&[(
        "fault",
        "configuration",
        &format!("--set: server.ca_file: {} is not a certificate in PEM format: …", key.display()),
        "correct it; pitwire check tests it again",
    )]);
}

#[test]
fn a_skewed_server_clock_is_a_warning() {
    let server = Peer::start(Kind::Asgi, &[]);
    // The `Date` header has whole seconds, so the skew appears slightly larger than an hour in the
    // past and smaller in the future; 3601 compensates for the latter. The doctor assumes that the
    // server read its clock halfway through the request, and is off by up to half of its length.
    let date = |seconds: i64| {
        let then = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(seconds);
        jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&then).unwrap()
    };
    for (seconds, direction, pc) in [(-3600, "behind", "fast"), (3601, "ahead of", "slow")] {
        let upgrade = move |line: &str| {
            let date = format!("date: {}\r\n", date(seconds));
            line.contains("polling").then(|| http("200 OK", &date, r#"0{"sid":"a"}"#))
        };
        let proxy = answering(upgrade, Some(server.port()));
        let advice = format!(
            "synchronize both clocks; if this PC's is the {pc} one, its frames have wrong times"
        );
        let asked = Instant::now();
        let findings =
            Pc::new().server(&proxy).finds(&[("warning", "server", "its clock is 3…", &advice)]);
        let slack = asked.elapsed().as_secs() / 2;
        let what = |seconds| format!("its clock is {seconds} seconds {direction} this PC's");
        let said =
            (3600 - slack..=3601 + slack).any(|seconds| has(&findings, "warning", &what(seconds)));
        assert!(said, "{findings:#?}");
    }
}

#[test]
fn a_server_that_assigns_no_session_is_a_fault() {
    let behaviour = Behaviour { silent: true, ..Behaviour::default() };
    let server = Server::start((Ipv4Addr::LOCALHOST, 0).into(), behaviour).unwrap();
    let findings = Pc::new().server(&server.url()).finds(&[(
        "fault",
        "server",
        "it assigns no session: the server did not answer within 2s: it assigns no session",
        "check that it is a dashboard server, which answers request_session_id",
    )]);
    assert!(has(&findings, "note", "not checked: acknowledgements, echoes"));
}

#[test]
fn the_handling_of_a_test_frame_is_reported() {
    let no_ack = (
        "warning",
        "server",
        "it acknowledges nothing",
        "make its handlers return, or set delivery.proof = \"echo\" if it sends frames back",
    );
    let no_echo = (
        "warning",
        "server",
        "it does not send a frame back to its sender, but returns it on request",
        "nothing is lost: pitwire asks it every delivery.verify_interval; a server that sends to \
         the whole room, including the sender, is faster",
    );
    let no_join = (
        "warning",
        "server",
        "it does not answer join_session, so pitwire cannot ask which frames it has",
        "an entry counts as delivered when the connection lasts for 90 s after it; a server with \
         join_session is better",
    );
    let not_kept = (
        "fault",
        "server",
        "it does not keep frames: it neither sends them back nor returns them on request",
        "check its log: it may discard frames silently",
    );
    let cases = [
        (Kind::Node, &["--never-ack"][..], &[no_ack][..]),
        (Kind::Flask, &["--never-ack"], &[no_ack]),
        (Kind::Asgi, &["--no-echo"], &[no_echo]),
        (Kind::Node, &["--no-echo"], &[no_echo]),
        (Kind::Flask, &["--no-join"], &[no_join]),
        (Kind::Asgi, &["--no-join"], &[no_join]),
        (Kind::Asgi, &["--no-echo", "--never-ack"], &[no_ack, no_echo]),
        (Kind::Asgi, &["--refuse", "pitwire doctor"], &[not_kept]),
        (Kind::Flask, &["--schema"], &[]),
        (Kind::Node, &["--schema"], &[]),
        (Kind::Embedded, &[], &[]),
    ];
    // In parallel, as the doctor mostly waits.
    std::thread::scope(|scope| {
        for (kind, args, expected) in cases {
            scope.spawn(move || {
                let server = Peer::start(kind, args);
                Pc::new().server(&server.url()).finds(expected);
            });
        }
    });
}
