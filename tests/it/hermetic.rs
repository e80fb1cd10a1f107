//! Tests must not use default ports: on a developer's PC another program may own the port, and a
//! test would publish to that program or block its port.
//!
//! In the test binary, [`connect`] and [`bind`] replace the functions of the C library and abort
//! the process when a default port is used; [`guard`](crate::default_ports::guard) does the same in
//! each `pitwire` process that a test starts.

#![allow(unsafe_code, reason = "two functions of the C library are replaced")]

use std::ffi::c_int;
use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use libc::{sockaddr, sockaddr_in, sockaddr_in6, socklen_t};
use pitwire::config::Config;

use crate::agent::pitwire;
use crate::default_ports::DEFAULT_PORTS;

/// Calls the C library's function of this name, but aborts on a default port.
///
/// # Safety
/// The contract of the C library's function applies.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn connect(fd: c_int, address: *const sockaddr, length: socklen_t) -> c_int {
    // SAFETY: the caller upholds the contract of the C library's function.
    unsafe {
        check("connect", address);
        libc::syscall(libc::SYS_connect, fd, address, length) as c_int
    }
}

/// Calls the C library's function of this name, but aborts on a default port.
///
/// # Safety
/// The contract of the C library's function applies.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bind(fd: c_int, address: *const sockaddr, length: socklen_t) -> c_int {
    // SAFETY: the caller upholds the contract of the C library's function.
    unsafe {
        check("bind", address);
        libc::syscall(libc::SYS_bind, fd, address, length) as c_int
    }
}

/// Aborts the process if the port is a default one.
///
/// # Safety
/// `address` is null or a socket address.
unsafe fn check(call: &str, address: *const sockaddr) {
    // SAFETY: the address family determines the type of the address.
    let port = unsafe {
        match address.as_ref().map(|address| c_int::from(address.sa_family)) {
            Some(libc::AF_INET) => (*address.cast::<sockaddr_in>()).sin_port,
            Some(libc::AF_INET6) => (*address.cast::<sockaddr_in6>()).sin6_port,
            _ => return,
        }
    };
    let port = u16::from_be(port);
    if DEFAULT_PORTS.contains(&port) {
        let name = std::thread::current().name().unwrap_or_default().to_owned();
        eprintln!("{call}: {port} is a default port; the test {name} must name a free one");
        std::process::abort();
    }
}

#[test]
fn the_guard_knows_the_default_ports() {
    let Config { server, metrics, source, .. } = Config::default();
    let of_url = |url: &str| url.rsplit_once(':').unwrap().1.parse().unwrap();
    assert_eq!(
        DEFAULT_PORTS,
        [
            of_url(server.url.as_str()),
            metrics.listen.port(),
            source.http.listen.port(),
            source.socketio.listen.port(),
            of_url(source.nats.url.as_str()),
        ]
    );
}

#[test]
fn a_program_that_binds_or_connects_to_a_default_port_is_aborted() {
    let folder = tempfile::tempdir().unwrap();
    let queue = folder.path().to_str().unwrap();
    let serve = ["serve", "--listen", "127.0.0.1:9186"];
    let doctor = [
        "doctor",
        "--queue",
        queue,
        "--server",
        "http://127.0.0.1:5000",
        // Free ports for the doctor's listeners: it might try a default one first.
        "--set",
        "metrics.listen=127.0.0.1:0",
        "--set",
        "source.http.listen=127.0.0.1:0",
    ];
    for (args, call) in [(&serve[..], "bind: 9186"), (&doctor, "connect: 5000")] {
        let output = pitwire(args).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{args:?}: {errors}");
        assert!(errors.contains(&format!("{call} is a default port")), "{args:?}: {errors}");
    }
}

#[test]
fn a_test_that_binds_a_default_port_is_aborted() {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "hermetic::binds_a_default_port", "--ignored", "--nocapture"])
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{errors}");
    assert!(errors.contains("bind: 9185 is a default port"), "{errors}");
}

#[test]
#[ignore = "run by the test above"]
fn binds_a_default_port() {
    drop(TcpListener::bind("127.0.0.1:9185"));
}
