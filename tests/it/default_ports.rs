//! No `pitwire` that a test starts uses a default port: `default_ports.c` is preloaded into it, and
//! kills it when it connects to or binds one. The test binary itself is guarded by `hermetic`.
//! Programs under Wine and the servers in `peers/` are not guarded.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The defaults of `server.url`, `metrics.listen`, `source.http.listen`, `source.socketio.listen`
/// and `source.nats.url`.
pub const DEFAULT_PORTS: [u16; 5] = [5000, 9184, 9185, 9186, 4222];

/// Makes the program exit when it uses a default port.
pub fn guard(command: &mut Command) {
    command.env("LD_PRELOAD", library());
}

/// The guard library, compiled on first use.
pub fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let unfinished = folder.join(format!("default_ports.{}.so", std::process::id()));
        let ports = DEFAULT_PORTS.map(|port| port.to_string()).join(",");
        let compiled = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", &format!("-DDEFAULT_PORTS={ports}"), "-o"])
            .arg(&unfinished)
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/default_ports.c"))
            .status();
        assert!(compiled.unwrap().success(), "the port guard needs a C compiler");
        // Renamed into place, because another test binary may be using the old one.
        let library = folder.join("default_ports.so");
        std::fs::rename(unfinished, &library).unwrap();
        library
    })
}
